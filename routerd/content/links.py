"""The values of the index: scopes, links, tag entries.

Owns the words for who may see which bytes, and whose the hidden ones are. Does not own where they
are kept (`index.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from routerd.oci.reference import Digest


@dataclass(frozen=True, slots=True)
class Scope:
    """Who may see content: an endpoint's name and the repository's name there."""

    endpoint: str
    repository: str


HIDDEN = "~"  # before an endpoint's name: what it has and does not show, see `identity.py`


def owner_of(endpoint: str) -> str:
    """The endpoint of the policy whose content is kept under this name, hidden or not."""
    return endpoint.removeprefix(HIDDEN)


class LinkKind(StrEnum):
    """What content is in a scope. A manifest is not read as a blob, nor the other way round."""

    MANIFEST = "manifest"
    BLOB = "blob"


@dataclass(frozen=True, slots=True)
class Link:
    """A scope's sight of some stored content. `size` in bytes."""

    digest: Digest
    kind: LinkKind
    media_type: str
    size: int
    created_by: str
    created_at: float


@dataclass(frozen=True, slots=True)
class TagEntry:
    """What a tag was when it was last validated, and what upstream said of it then.

    `checked_at` is when it was last asked for in vain, `gone_at` since when upstream says that there
    is no such tag. Both are None after a check that confirmed it. UTC seconds.
    """

    digest: Digest
    validated_at: float
    cache_control: str = ""
    etag: str = ""
    checked_at: float | None = None
    gone_at: float | None = None
