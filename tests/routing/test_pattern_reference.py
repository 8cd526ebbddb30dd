"""Pattern and the order of routes against a slow reference: every name of a small world is tried.

The world is large enough that two of these patterns that differ, differ in it.
"""

from __future__ import annotations

import itertools
from functools import cache

from hypothesis import given, settings
from hypothesis import strategies as st

from routerd.oci.reference import Namespace, Reference, Repository, Tag, looks_like_namespace
from routerd.routing.decision import Destination, Route
from routerd.routing.order import in_order
from routerd.routing.pattern import Pattern
from routerd.routing.policy import CacheSettings, Origin

from .test_pattern import slow, slow_segment

DEFAULT = Namespace("d.e")
SPACES = (
    "d.e",
    "a.b",
    "b.b",
    "c.b",
    "a.c",
    "ab.b",
    "d.b",
    "dd.b",
    "a.b.b",
    "d.b.b",
    "dd.b.b",
    "a.d",
    "localhost",
)
TAGS = tuple("".join(w) for n in (1, 2, 3) for w in itertools.product("abc", repeat=n))
SHORT = tuple(tag for tag in TAGS if len(tag) < 3)
FEW = ("a", "b", "c", "aa")
NAMES = tuple(
    itertools.chain(
        itertools.product((*SHORT, "acb", "ccc")),
        itertools.product(SHORT, repeat=2),
        itertools.product(SHORT, FEW, FEW),
        itertools.product(FEW, FEW, SHORT),
    )
)
# A digest is the tag None.
WORLD = (SPACES, NAMES, (*TAGS, None))

namespaces = st.sampled_from(
    ["", "a.b", "*.b", "a.*", "?.b", "[ab].b", "[a].b", "[!a].b", "[a-c].b", "*.b.b", "*.*"]
)
parts = st.sampled_from(["a", "b", "*", "?", "[a]", "[ab]", "[a-b]", "[!a]", "[b-b]"])
one_glob = st.lists(parts, min_size=1, max_size=2).map(
    lambda found: "".join(found).replace("**", "*")
)


@st.composite
def patterns(draw: st.DrawFn) -> Pattern:
    if draw(st.booleans()):
        segments = draw(st.lists(one_glob, min_size=1, max_size=2))
    elif draw(st.booleans()):
        segments = draw(st.permutations(["**", draw(one_glob)]))
    else:
        ends = (draw(st.lists(parts, max_size=1)), draw(st.lists(parts, max_size=1)))
        segments = [*ends[0], "**", *ends[1]]
    space = draw(namespaces)
    tag = draw(st.none() | one_glob)
    text = "/".join([*([space] if space else []), *segments]) + (f":{tag}" if tag else "")
    return Pattern.parse(text, DEFAULT)


everything = st.just(Pattern.parse("*", DEFAULT))
any_pattern = st.one_of(patterns(), patterns(), patterns(), everything)

Matches = tuple[frozenset[object], frozenset[object], frozenset[object]]


@cache
def matches_of(text: str) -> Matches:
    """What of the world a pattern takes: its namespaces, its names, its tags. Read from its text."""
    if text == "*":
        return frozenset(SPACES), frozenset(NAMES), frozenset(WORLD[2])
    head, _, rest = text.partition("/")
    space, name = (head, rest) if rest and looks_like_namespace(head) else (str(DEFAULT), text)
    name, _, tag = name.partition(":")
    segments = tuple(name.split("/"))
    return (
        frozenset(s for s in SPACES if slow_segment(plain(space), s)),
        frozenset(n for n in NAMES if slow(tuple(map(plain, segments)), n)),
        frozenset(t for t in TAGS if slow_segment(plain(tag), t)) if tag else frozenset(WORLD[2]),
    )


def plain(glob: str) -> str:
    """The slow matcher knows no ranges."""
    return glob.replace("a-b", "ab").replace("a-c", "abc").replace("b-b", "b")


def within(inner: str, outer: str) -> bool:
    """Whether all of the world that `inner` takes is taken by `outer`."""
    return all(map(frozenset.issubset, matches_of(inner), matches_of(outer)))


@given(any_pattern)
@settings(deadline=None, max_examples=100)
def test_a_pattern_takes_what_the_slow_reference_says(pattern: Pattern) -> None:
    spaces, names, tags = matches_of(pattern.text)
    for space in SPACES:
        assert pattern.matches_namespace(Namespace(space)) == (space in spaces)
    for name in NAMES[::5]:
        assert pattern.matches_segments(name) == (name in names)
    for tag in (*TAGS, None):
        assert pattern.matches_tag(None if tag is None else Tag(tag)) == (tag in tags)


@given(any_pattern, any_pattern)
@settings(deadline=None, max_examples=250)
def test_containment_is_as_the_slow_reference_says(outer: Pattern, inner: Pattern) -> None:
    assert outer.contains(inner) == within(inner.text, outer.text)


@given(any_pattern, any_pattern)
@settings(deadline=None, max_examples=250)
def test_intersection_is_as_the_slow_reference_says(one: Pattern, other: Pattern) -> None:
    common = [a & b for a, b in zip(matches_of(one.text), matches_of(other.text), strict=True)]
    found = one.intersection(other)
    assert (found is not None) == all(common)
    if found is not None:
        reference = Reference.parse(found)
        assert one.matches(reference)
        assert other.matches(reference)


@given(any_pattern)
@settings(deadline=None, max_examples=100)
def test_a_sample_is_one_of_the_pattern_s(pattern: Pattern) -> None:
    for filler in ("x", "any"):
        repository, tag = pattern.sample(filler)
        assert pattern.matches_repository(repository)
        assert pattern.matches_tag(tag)


@given(st.lists(any_pattern, min_size=2, max_size=12, unique_by=str))
@settings(deadline=None, max_examples=60)
def test_the_order_is_as_the_slow_reference_says(found: list[Pattern]) -> None:
    left = sorted(found, key=lambda pattern: pattern.specificity)
    expected = []
    while left:
        first = next(
            pattern
            for pattern in left
            if not any(
                within(other.text, pattern.text) and not within(pattern.text, other.text)
                for other in left
            )
        )
        left.remove(first)
        expected.append(first)
    routes = [
        Route(pattern, Origin("p.yaml", 1), Destination(), {}, CacheSettings()) for pattern in found
    ]
    assert [route.pattern for route in in_order(routes)] == expected


def test_a_class_of_one_character_is_that_character() -> None:
    plain, written = Pattern.parse("library/nginx"), Pattern.parse("library/[n]gin[x-x]")
    assert written.exact_repository == Repository.parse("docker.io", "nginx")
    assert plain.contains(written)
    assert written.contains(plain)
    assert Pattern.parse("ghcr[.]io/a").namespace == "ghcr.io"
    assert Pattern.parse("a/b:[1]").has_exact_tag
