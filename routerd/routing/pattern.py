"""What a pattern of the policy matches, and how specific it is.

Owns the form of config-language.md 2 (`[NAMESPACE/]REPOSITORY[:TAG]`) and is the only importer of
fnmatch2. Does not own the letters of its parts (`grammar.py`) or which route wins among several
(`table.py`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from fnmatch2 import fnmatchcase2

from routerd.oci.reference import (
    DOCKER_HUB,
    Namespace,
    Reference,
    Repository,
    Tag,
    looks_like_namespace,
)
from routerd.routing import globs, languages
from routerd.routing.grammar import (
    BadPattern,
    check_segment,
    check_tag,
    parse_namespace_glob,
    split_tag,
)

EVERYTHING = "*"  # the key that alone means: every name in every namespace
_WHOLE_RUN = globs.WHOLE_RUN
# Tags that stand for the referrers of a digest and so grow (distribution-spec 1.1, "Referrers Tag
# Schema").
_REFERRERS_TAG = "sha256-"

_WILD = re.compile(r"[*?\[]")


class Specificity(NamedTuple):
    """The list of config-language.md 2 that orders routes of which none contains the other."""

    namespace_is_wild: bool
    repository_is_wild: bool
    fewer_repository_literals: int
    tag_rank: int  # exact 0, glob 1, none 2
    fewer_tag_literals: int
    text: str


@dataclass(frozen=True, slots=True)
class Pattern:
    """One pattern. `text` is as written; `str()` is canonical, with its namespace."""

    text: str
    namespace: str
    segments: tuple[str, ...]
    tag: str | None
    specificity: Specificity

    @classmethod
    def parse(cls, text: str, default_namespace: Namespace = DOCKER_HUB) -> Pattern:
        """Raises BadPattern."""
        if text == EVERYTHING:
            return cls._make(text, EVERYTHING, (_WHOLE_RUN,), None)
        if "@" in text:
            raise BadPattern(
                "a route is for names and tags; a digest goes where its repository's routes lead"
            )
        if "{" in text or "}" in text:
            raise BadPattern("'{' and '}' mean nothing in a pattern; write one route for each")
        head, slash, rest = text.partition("/")
        if slash and looks_like_namespace(head):
            namespace, name = parse_namespace_glob(head), rest
        else:
            namespace, name = str(default_namespace), text
        name, tag = split_tag(name, text)
        if not name:
            raise BadPattern("there is no repository in this pattern", f"{head.rstrip(':')}/**")
        segments = tuple(name.split("/"))
        for segment in segments:
            check_segment(segment)
        if segments.count(_WHOLE_RUN) > 1:
            raise BadPattern("a pattern has at most one '**'")
        # A class of one character is that character, so "literal" has one meaning from here on.
        segments = tuple(map(globs.normalised, segments))
        tag = None if tag is None else globs.normalised(tag)
        if namespace == DOCKER_HUB and len(segments) == 1 and segments != (_WHOLE_RUN,):
            segments = ("library", *segments)
        return cls._make(text, namespace, segments, tag)

    @classmethod
    def _make(
        cls, text: str, namespace: str, segments: tuple[str, ...], tag: str | None
    ) -> Pattern:
        repository = "/".join(segments)
        canonical = f"{namespace}/{repository}" + ("" if tag is None else f":{tag}")
        specificity = Specificity(
            namespace_is_wild=not globs.is_literal(namespace),
            repository_is_wild=not globs.is_literal(repository),
            fewer_repository_literals=-sum(globs.literal_count(s) for s in segments),
            tag_rank=2 if tag is None else 0 if globs.is_literal(tag) else 1,
            fewer_tag_literals=0 if tag is None else -globs.literal_count(tag),
            text=canonical,
        )
        return cls(text, namespace, segments, tag, specificity)

    @property
    def is_everything(self) -> bool:
        """Whether this is the key `*`, for every name in every namespace."""
        return self.namespace == EVERYTHING and self.segments == (_WHOLE_RUN,)

    @property
    def repository(self) -> str:
        """The repository's part, as it is matched."""
        return "/".join(self.segments)

    @property
    def exact_repository(self) -> Repository | None:
        """The one repository that it matches; None where it matches several."""
        if self.specificity.namespace_is_wild or self.specificity.repository_is_wild:
            return None
        return Repository(Namespace(self.namespace), self.repository)

    @property
    def literal_text(self) -> str:
        """What every repository of it begins with, closed by a NUL where that is all of it."""
        repository = self.repository
        wild = _WILD.search(repository)
        return f"{repository}\0" if wild is None else repository[: wild.start()]

    @property
    def literal_tag(self) -> str:
        """What every tag of it begins with, closed by a NUL where that is all of it."""
        if self.tag is None:
            return ""
        return f"{self.tag}\0" if self.has_exact_tag else globs.compiled(self.tag).prefix

    @property
    def has_exact_tag(self) -> bool:
        """Whether it is for one tag only."""
        return self.specificity.tag_rank == 0

    @property
    def literal_head(self) -> tuple[str, ...]:
        """The leading segments without wildcards."""
        head: list[str] = []
        for segment in self.segments:
            if not globs.is_literal(segment):
                break
            head.append(segment)
        return tuple(head)

    def matches_repository(self, repository: Repository) -> bool:
        """Whether some reference in this repository matches."""
        return self.matches_namespace(repository.namespace) and self.matches_segments(
            tuple(repository.name.split("/"))
        )

    def matches_segments(self, segments: tuple[str, ...]) -> bool:
        """Whether a repository of these segments matches, in a namespace that does."""
        return self.segments == (_WHOLE_RUN,) or _match_segments(segments, self.segments)

    def matches_namespace(self, namespace: Namespace) -> bool:
        """Whether some repository of this namespace may match."""
        return self.namespace in (namespace, EVERYTHING) or (
            self.specificity.namespace_is_wild and fnmatchcase2(namespace, self.namespace)
        )

    def matches_tag(self, tag: Tag | None) -> bool:
        """Whether the tag part takes `tag`; None is a digest, which only no tag part takes."""
        if self.tag is None or tag is None or self.has_exact_tag:
            return self.tag is None or self.tag == tag
        return bool(fnmatchcase2(tag, self.tag))

    def matches(self, reference: Reference) -> bool:
        """Whether the pattern takes the whole reference."""
        return self.matches_tag(reference.tag) and self.matches_repository(reference.repository)

    def contains(self, other: Pattern) -> bool:
        """Whether every reference that `other` matches is matched by this too."""
        if self.tag is not None and self.tag != other.tag:
            if other.tag is None:
                return False  # other takes digests
            if not languages.glob_contains(self.tag, other.tag):
                return False
        if self.is_everything or (
            self.segments == other.segments and (self.namespace == other.namespace)
        ):
            return True
        mine, theirs = self.specificity, other.specificity
        if (theirs.namespace_is_wild and not mine.namespace_is_wild) or (
            theirs.repository_is_wild and not mine.repository_is_wild
        ):
            return False
        return (
            self.namespace == other.namespace
            or languages.glob_contains(self.namespace, other.namespace)
        ) and languages.contains(self.segments, other.segments)

    def meets_namespace_of(self, other: Pattern) -> bool:
        """Whether both may match a repository of one namespace."""
        return languages.glob_intersection(self.namespace, other.namespace) is not None

    def intersection(self, other: Pattern) -> str | None:
        """A name, with a tag if either has one, that both match; None where there is none."""
        repository = self.common_repository(other)
        if repository is None:
            return None
        if self.tag is None and other.tag is None:
            return str(repository)
        tag = languages.glob_intersection(self.tag or "*", other.tag or "*")
        return None if tag is None else f"{repository}:{tag}"

    def common_repository(self, other: Pattern) -> Repository | None:
        """A repository of which both match some reference, each its own; None where none is."""
        namespace = languages.glob_intersection(self.namespace, other.namespace)
        if namespace is None:
            return None
        name = languages.intersection(self.segments, other.segments)
        return None if name is None else Repository(Namespace(namespace), name)

    def sample(self, filler: str = languages.FILLER) -> tuple[Repository, Tag | None]:
        """A repository and a tag that match, with `filler` for each run; no tag for a digest."""
        namespace = languages.sample((self.namespace,), filler)
        repository = Repository(Namespace(namespace), languages.sample(self.segments, filler))
        tag = None if self.tag is None else Tag(languages.sample((self.tag,), filler))
        return repository, tag

    def __str__(self) -> str:
        return EVERYTHING if self.is_everything and self.tag is None else self.specificity.text


@dataclass(frozen=True, slots=True)
class TagGlobs:
    """Some tags, by globs as in a pattern's tag part (config-language.md 4, `immutable_tags`)."""

    globs: tuple[str, ...] = ()

    @classmethod
    def parse(cls, texts: Iterable[str]) -> TagGlobs:
        """Raises BadPattern."""
        found = tuple(texts)
        for text in found:
            check_tag(text)
        return cls(found)

    def match(self, tag: Tag) -> bool:
        """Whether one of the globs takes the tag; never one that stands for a digest."""
        return not tag.startswith(_REFERRERS_TAG) and any(
            fnmatchcase2(tag, glob) for glob in self.globs
        )


def _match_segments(name: tuple[str, ...], pattern: tuple[str, ...]) -> bool:
    """fnmatch2 for as many segments as it is given; `**` and their count are decided here.

    fnmatch2 alone matches prefixes and does not backtrack over `**` (docs/design/stack.md).
    """
    if _WHOLE_RUN not in pattern:
        return len(name) == len(pattern) and _match_equal(name, pattern)
    at = pattern.index(_WHOLE_RUN)
    tail = len(pattern) - at - 1
    run = len(name) - at - tail
    return (
        run >= (0 if tail else 1)
        and _match_equal(name[:at], pattern[:at])
        and (not tail or _match_equal(name[-tail:], pattern[-tail:]))
    )


def _match_equal(name: tuple[str, ...], pattern: tuple[str, ...]) -> bool:
    if name == pattern:
        return True
    for one, glob in zip(name, pattern, strict=True):
        if one != glob and (globs.is_literal(glob) or not fnmatchcase2(one, glob)):
            return False
    return True
