"""Tools of the event loop. Knows no registry words."""
