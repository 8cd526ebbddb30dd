"""Backend adapters, one file each, named as the YAML's `type`."""
