"""Platforms: `os/architecture[/variant]`, as image-spec's indexes list them.

Owns their parsing and which descriptor is for one. Does not own reading descriptors (`manifest.py`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from routerd.oci.manifest import Descriptor

_PLATFORM = re.compile(r"[a-z0-9_.-]+(?:/[a-z0-9_.-]+){1,2}", re.ASCII)
# The variant that an architecture has where none is said (containerd, platforms/database.go).
_USUAL = {"arm64": "v8", "arm": "v7"}


@dataclass(frozen=True, slots=True)
class Platform:
    """What an image runs on. Without a variant it is every variant, but of arm and arm64 the usual."""

    os: str
    architecture: str
    variant: str = ""

    @classmethod
    def parse(cls, text: str) -> Platform:
        """Raises ValueError."""
        if not _PLATFORM.fullmatch(text):
            raise ValueError(f"'{text}' is not a platform such as linux/amd64 or linux/arm/v7")
        return cls(*text.split("/"))

    def takes(self, text: str) -> bool:
        """Whether a descriptor's platform is this one."""
        os, _, rest = text.partition("/")
        architecture, _, variant = rest.partition("/")
        if (os, architecture) != (self.os, self.architecture):
            return False
        usual = _USUAL.get(architecture, "")
        if not self.variant and not usual:
            return True
        return (self.variant or usual) == (variant or usual)

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)


def of_platforms(
    children: Sequence[Descriptor], platforms: Sequence[Platform]
) -> tuple[Descriptor, ...]:
    """Those of an index's children that are for one of the platforms."""
    return tuple(
        child for child in children if any(platform.takes(child.platform) for platform in platforms)
    )
