"""The compiled policy: patterns, routes and the decision for one reference. Pure, no I/O."""
