"""The real programs that routerd works with, as processes: for tests/e2e and bench/."""
