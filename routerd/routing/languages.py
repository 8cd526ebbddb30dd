"""What two patterns have to do with each other: whether one holds the other, where they meet.

Owns the decision procedures over globs and over patterns of segments; all are exact. Does not own
what a policy's pattern looks like (`pattern.py`). Nearly every pair is decided by its ends and by
one match; an automaton (`automaton.py`) is asked only where a `*` stands in the way.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import zip_longest

from routerd.routing.automaton import counterexample
from routerd.routing.globs import (
    ANY,
    CHARACTERS,
    REMEMBERED,
    WHOLE_RUN,
    Characters,
    Glob,
    compiled,
    is_literal,
    pick,
)

FILLER = "x"  # what a run takes in a sample

# Containment


def contains(outer: tuple[str, ...], inner: tuple[str, ...]) -> bool:
    """Whether every run of segments that `inner` matches is matched by `outer` too."""
    if outer == inner or outer == (WHOLE_RUN,):
        return True
    if WHOLE_RUN not in outer:
        return (
            WHOLE_RUN not in inner
            and len(outer) == len(inner)
            and all(map(glob_contains, outer, inner))
        )
    head, tail = _ends(outer)
    if WHOLE_RUN not in inner:
        if len(inner) < len(head) + len(tail) + (not tail):
            return False
        after = inner[len(inner) - len(tail) :]
        return all(map(glob_contains, head, inner)) and all(map(glob_contains, tail, after))
    inner_head, inner_tail = _ends(inner)
    shortest = len(inner_head) + len(inner_tail) + (not inner_tail)
    if shortest < len(head) + len(tail) + (not tail):
        return False
    # Past its own ends, `inner` has any segment there.
    return all(
        glob_contains(one, other)
        for mine, theirs in ((head, inner_head), (tail[::-1], inner_tail[::-1]))
        for one, other in zip_longest(mine, theirs[: len(mine)], fillvalue="*")
    )


def _ends(segments: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    at = segments.index(WHOLE_RUN)
    return segments[:at], segments[at + 1 :]


def glob_contains(outer: str, inner: str) -> bool:
    """Whether every text that `inner` matches is matched by `outer` too."""
    if outer in (inner, "*"):
        return True
    if is_literal(inner):
        return not is_literal(outer) and compiled(outer).matches(inner)
    return _glob_contains(outer, inner)


@lru_cache(REMEMBERED)
def _glob_contains(outer_text: str, inner_text: str) -> bool:
    outer, inner = compiled(outer_text), compiled(inner_text)
    if not inner.prefix.startswith(outer.prefix) or not inner.suffix.endswith(outer.suffix):
        return False
    if not outer.has_run:
        return (
            not inner.has_run
            and len(outer.head) == len(inner.head)
            and all(map(frozenset.issuperset, outer.head, inner.head))
        )
    if not outer.matches(inner.shortest):
        return False
    if _lies_within(outer, inner):
        return True
    if not all(outer.matches(text) for text in _strangest(inner, outer)):
        return False
    return counterexample([(outer_text,)], (inner_text,)) is None


def _lies_within(outer: Glob, inner: Glob) -> bool:
    """Whether the places of `outer` can be laid on those of `inner`, its runs on the rest."""
    parts = inner.parts
    end = len(parts) - len(outer.tail)
    if (
        len(outer.head) > end
        or not _covers(outer.head, parts)
        or not _covers(outer.tail, parts[end:])
    ):
        return False
    position = len(outer.head)
    for middle in outer.middles:
        while position + len(middle) <= end and not _covers(middle, parts[position:]):
            position += 1
        position += len(middle)
        if position > end:
            return False
    return True


def _covers(places: Sequence[Characters], parts: Sequence[Characters | str]) -> bool:
    return len(parts) >= len(places) and all(
        isinstance(part, frozenset) and place >= part
        for place, part in zip(places, parts, strict=False)
    )


def _strangest(inner: Glob, outer: Glob) -> list[str]:
    """Two texts that `inner` matches, as unlike `outer` as may be: with empty and with long runs."""
    named = outer.named
    other = next((c for c in CHARACTERS if c not in named), "")
    long = other * (len(outer.parts) + 1)
    return [
        "".join(
            run if isinstance(part, str) else other if other in part else pick(part - named or part)
            for part in inner.parts
        )
        for run in ("", long)
    ]


# Intersection


def intersection(first: tuple[str, ...], second: tuple[str, ...]) -> str | None:
    """A short text that both match, segments joined by `/`; None where there is none."""
    pairs = _aligned(first, second)
    if pairs is None:
        return None
    found = []
    for one, other in pairs:
        common = glob_intersection(one, other)
        if common is None:
            return None
        found.append(common)
    return "/".join(found)


def _aligned(first: tuple[str, ...], second: tuple[str, ...]) -> list[tuple[str, str]] | None:
    """Which segments of the two stand in one place of their shortest common name; those of a whole
    run are `*`.
    """
    if WHOLE_RUN not in second:
        first, second = second, first
    if WHOLE_RUN not in second:
        return list(zip(first, second, strict=True)) if len(first) == len(second) else None
    head, tail = _ends(second)
    least = len(head) + len(tail) + (not tail)
    if WHOLE_RUN not in first:
        if len(first) < least:
            return None
        return list(
            zip(first, (*head, *["*"] * (len(first) - len(head) - len(tail)), *tail), strict=True)
        )
    other_head, other_tail = _ends(first)
    heads = list(zip_longest(other_head, head, fillvalue="*"))
    tails = list(zip_longest(other_tail[::-1], tail[::-1], fillvalue="*"))[::-1]
    least = max(least, len(other_head) + len(other_tail) + (not other_tail))
    return [*heads, *[("*", "*")] * (least - len(heads) - len(tails)), *tails]


def glob_intersection(first: str, second: str) -> str | None:
    """A short text that both match; None where there is none."""
    if is_literal(first):
        return first if first == second or compiled(second).matches(first) else None
    if is_literal(second):
        return second if compiled(first).matches(second) else None
    return _meet(compiled(first), compiled(second))


def _meet(one: Glob, other: Glob) -> str | None:
    if not one.has_run:
        one, other = other, one
    if not one.has_run:
        return _one_of(_in_both(one.head, other.head)) if len(one.head) == len(other.head) else None
    if not other.has_run:
        return _meet_fixed(one, other.head)
    heads = _one_of(_in_both(one.head, other.head))
    tails = _one_of(_in_both(one.tail[::-1], other.tail[::-1])[::-1])
    if heads is None or tails is None:
        return None
    # Both have a run, so what is between their ends can stand one after the other.
    middles = ["".join(map(pick, middle)) for middle in (*one.middles, *other.middles)]
    return _readable(one, other, heads, middles, tails)


def _in_both(first: Sequence[Characters], second: Sequence[Characters]) -> list[Characters]:
    return [one & other for one, other in zip_longest(first, second, fillvalue=ANY)]


def _one_of(places: Sequence[Characters]) -> str | None:
    return "".join(map(pick, places)) if all(places) else None


def _meet_fixed(glob: Glob, places: tuple[Characters, ...]) -> str | None:
    """A text of as many characters as there are places; `glob` has runs."""
    end = len(places) - len(glob.tail)
    if len(glob.head) > end:
        return None
    head = _in_both(glob.head, places[: len(glob.head)])
    between = places[len(glob.head) : end]
    tail = _in_both(glob.tail, places[end:])
    # `?.b` and `*.*` meet in `x.b` and in `..b`: what lies as it is makes the better name.
    for narrows in (False, True):
        found = _lay(glob.middles, between, narrows=narrows)
        if found is not None:
            return _one_of([*head, *found, *tail])
    return None


def _lay(
    middles: Sequence[Sequence[Characters]], places: Sequence[Characters], *, narrows: bool
) -> list[Characters] | None:
    """The places with what stands between runs laid on them, leftmost first; None: no room."""
    found = list(places)
    position = 0
    for middle in middles:
        while True:
            under = found[position : position + len(middle)]
            if len(under) < len(middle):
                return None
            common = _in_both(middle, under)
            if all(common) if narrows else common == under:
                break
            position += 1
        found[position : position + len(middle)] = common
        position += len(middle)
    return found


def _readable(one: Glob, other: Glob, head: str, middles: list[str], tail: str) -> str:
    """The parts as one text that reads like a name: `debian-*` and `*-base` as `debian-base`."""
    if not middles:
        least = max(_least(one), _least(other))
        for shared in range(min(len(head), len(tail)), 0, -1):
            text = head + tail[shared:]
            fits = head.endswith(tail[:shared]) and len(text) >= least
            if fits and one.matches(text) and other.matches(text):
                return text
    parts = [head, *middles, tail]
    text = "".join(parts)
    return text if text[:1].isalnum() and text[-1:].isalnum() else FILLER.join(parts)


def _least(glob: Glob) -> int:
    """How long a match is in which each run takes something."""
    return len(glob.parts)


def sample(segments: tuple[str, ...], filler: str) -> str:
    """A text that the segments match, with `filler` for each run."""
    return "/".join(_glob_sample(segment, filler) for segment in segments)


def _glob_sample(glob: str, filler: str) -> str:
    if is_literal(glob):
        return glob
    if not glob.strip("*"):
        return filler
    return "".join(filler if isinstance(part, str) else pick(part) for part in compiled(glob).parts)
