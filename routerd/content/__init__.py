"""Bytes at rest: the content store, its index, and the one download that fills it."""
