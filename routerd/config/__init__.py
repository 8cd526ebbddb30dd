"""YAML in, a route table and endpoint specs out, every problem with its place in the file."""
