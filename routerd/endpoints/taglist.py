"""The body of a registry's list of tags.

Owns reading it (distribution-spec, "Listing Tags"). Does not own asking for it (`upstream.py`).
"""

from __future__ import annotations

import json

from routerd.oci.errors import RegistryError
from routerd.oci.reference import Tag, parse_tag


def parse_tag_list(body: bytes) -> list[Tag]:
    """Its tags, sorted; what is no tag is left out, for nobody could ask for it. Raises ValueError."""
    try:
        listed = json.loads(body)["tags"]
    except (KeyError, TypeError, RecursionError) as error:
        raise ValueError("no list of tags") from error
    if listed is None:  # how some registries write an empty list
        return []
    if not isinstance(listed, list):
        raise ValueError("no list of tags")
    tags: set[Tag] = set()
    for text in listed:
        try:
            tags.add(parse_tag(text))
        except (RegistryError, TypeError):
            continue
    return sorted(tags)
