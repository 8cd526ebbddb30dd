"""The letters of a pattern: what may stand in each of its parts.

Owns the grammar of config-language.md 2, part by part, and what is said of a part outside it. Does
not own how the parts make a pattern or what it matches (`pattern.py`).
"""

from __future__ import annotations

import re

from routerd.oci.errors import RegistryError
from routerd.oci.reference import looks_like_namespace, parse_namespace
from routerd.routing.globs import WHOLE_RUN, is_literal, normalised

_CLASS = r"\[!?[A-Za-z0-9._-]+\]"
_SEGMENT = re.compile(rf"(?:[a-z0-9._*?-]|{_CLASS})+", re.ASCII)
_TAG = re.compile(rf"(?:[A-Za-z0-9._*?-]|{_CLASS})+", re.ASCII)
_NAMESPACE = re.compile(rf"(?:[a-z0-9.:*?-]|{_CLASS})+", re.ASCII)
_RANGE = re.compile(r"([A-Za-z0-9._])-([A-Za-z0-9._])", re.ASCII)


class BadPattern(ValueError):
    """A pattern outside the grammar. `hint` is what was probably meant, where that is clear."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


def parse_namespace_glob(text: str) -> str:
    """A registry's name, with or without wildcards. Raises BadPattern."""
    lowered = text.lower()
    if _NAMESPACE.fullmatch(lowered):
        _check_classes(lowered)
        lowered = normalised(lowered)
    if is_literal(lowered):
        try:
            return parse_namespace(lowered)
        except RegistryError as error:
            raise BadPattern(error.message) from error
    if WHOLE_RUN in lowered:
        raise BadPattern("'**' is a run of segments; a registry name has '*'")
    if not _NAMESPACE.fullmatch(lowered):
        raise BadPattern(f"'{text}' is not a registry name with wildcards")
    return lowered.removesuffix(":443")


def split_tag(name: str, text: str) -> tuple[str, str | None]:
    """The repository's part of `name` and its tag; `text` is the whole pattern. Raises BadPattern."""
    slash = name.rfind("/")
    name_end = name.find(":", slash + 1)
    if name_end < 0:
        return name, None
    name, tag = name[:name_end], name[name_end + 1 :]
    if not tag:
        hint = f"{name}/**" if looks_like_namespace(name) and "/" not in name else name
        raise BadPattern("there is no tag after the ':'", hint)
    if WHOLE_RUN in tag:
        raise BadPattern(
            "'**' is a run of segments; a tag has '*'",
            f"{text.removesuffix(tag)}{re.sub(r'[*]+', '*', tag)}",
        )
    check_tag(tag)
    return name, tag


def check_tag(tag: str) -> None:
    """Raises BadPattern where it is neither a tag nor a glob of tags."""
    if not _TAG.fullmatch(tag):
        raise BadPattern(f"':{tag}' is not a tag with wildcards")
    _check_classes(tag)


def check_segment(segment: str) -> None:
    """Raises BadPattern where it is no segment of a repository's name, with or without wildcards."""
    if not segment:
        raise BadPattern("a pattern has no empty segment")
    if segment == WHOLE_RUN:
        return
    if "**" in segment:
        raise BadPattern(f"'**' is a whole segment; '{segment}' is not")
    if segment != segment.lower() and _SEGMENT.fullmatch(segment.lower()):
        raise BadPattern("repository names are lower case", segment.lower())
    if not _SEGMENT.fullmatch(segment):
        raise BadPattern(f"'{segment}' is not a part of a name with wildcards")
    _check_classes(segment)


def _check_classes(text: str) -> None:
    for group in re.findall(_CLASS, text):
        for first, last in _RANGE.findall(group):
            if first > last:
                raise BadPattern(f"'{group}' has a range that ends before it starts")
