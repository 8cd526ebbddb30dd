"""The words of the field: names, digests, manifests, API calls. Pure, standard library only."""
