"""HTTP in and out. The only importer of quart and hypercorn."""
