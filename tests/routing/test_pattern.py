"""pattern and globs: matching, containment and intersection, against slow and independent ones."""

from __future__ import annotations

import itertools
import re
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from routerd.oci.reference import DOCKER_HUB, Digest, Namespace, Reference, Repository, Tag
from routerd.routing import automaton, languages
from routerd.routing.grammar import BadPattern
from routerd.routing.pattern import Pattern

DIGEST = "sha256:" + "0" * 64


def pattern(text: str) -> Pattern:
    return Pattern.parse(text, DOCKER_HUB)


# The language of config-language.md 2, sentence by sentence


@pytest.mark.parametrize(
    ("text", "reference", "matches"),
    [
        ("library/nginx", "nginx:1", True),
        ("nginx", "library/nginx:1", True),
        ("nginx", "docker.io/nginx", True),
        ("index.docker.io/nginx", "nginx", True),
        ("library/nginx", "library/nginx/evil:1", False),
        ("library/*", "nginx", True),
        ("library/*", "library/a/b", False),
        ("ngin?", "nginx", True),
        ("ngin[a-x]", "nginx", True),
        ("ngin[!x]", "nginx", False),
        ("*", "anything", True),
        ("*", "ghcr.io/a/b/c:1", True),
        ("*", f"ghcr.io/a@{DIGEST}", True),
        ("**", "a/b/c", True),
        ("**", "nginx", True),
        ("**", "ghcr.io/a", False),
        ("mycorp/**", "mycorp/a", True),
        ("mycorp/**", "mycorp/a/b", True),
        ("mycorp/**", "library/mycorp", False),
        ("mycorp/**", "mycorpx/a", False),
        ("**/debug", "a/b/debug", True),
        ("**/debug", "a/debug/b", False),
        ("a/**/b", "a/b", True),
        ("a/**/b", "a/x/y/b", True),
        ("a/**/b", "a/x/b/c", False),
        ("a/**/x/b", "a/x/y/x/b", True),
        ("ghcr.io/**", "ghcr.io/a/b", True),
        ("GHCR.io:443/**", "ghcr.io/a/b", True),
        ("localhost/a", "localhost/a", True),
        ("localhost:5000/a", "localhost:5000/a", True),
        ("*.corp.example/**", "eu.corp.example/a", True),
        ("*.corp.example/**", "a.eu.corp.example/a", True),
        ("*.corp.example/**", "corp.example/a", False),
        ("app:v*", "app:v1", True),
        ("app:v*", "app:V1", False),
        ("app:v*", f"app@{DIGEST}", False),
        ("app", f"app@{DIGEST}", True),
        ("app:latest", "app", True),
        ("app:[0-9]*.[0-9]*", "app:1.27", True),
        ("mycorp/*-base", "mycorp/x-base", True),
        ("mycorp/*-base", "mycorp/a/x-base", False),
    ],
)
def test_what_a_pattern_matches(text: str, reference: str, matches: bool) -> None:
    assert pattern(text).matches(Reference.parse(reference)) is matches


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("", None),
        ("a**b", None),
        ("a/b**", None),
        ("**/a/**", None),
        ("x{a,b}", None),
        ("app:", "app"),
        ("app:**", "app:*"),
        ("app:v**1", "app:v*1"),
        ("a/b:**", "a/b:*"),
        ("**.corp.example/**", None),
        (f"app@{DIGEST}", None),
        ("a//b", None),
        ("/a", None),
        ("a/", None),
        ("Foo/bar", "foo"),
        ("ghcr.io:", "ghcr.io/**"),
        ("ghcr.io/", "ghcr.io/**"),
        ("[abc", None),
        ("a]b", None),
        ("a[/]b", None),
        ("a[]b", None),
        ("a[z-a]", None),
        ("a b", None),
        ("ä", None),
        ("app:a b", None),
        ("a:b:c", None),
        ("host.example:99999999/a", None),
    ],
)
def test_what_is_no_pattern(text: str, hint: str | None) -> None:
    with pytest.raises(BadPattern) as bad:
        pattern(text)
    if hint is not None:
        assert bad.value.hint == hint


@pytest.mark.parametrize(
    ("outer", "inner"),
    [
        ("app:v*", "app:v[0-9]*"),
        ("*.corp.example/**", "*.eu.corp.example/**"),
        ("app", "app:*"),
        ("*", "**"),
        ("**", "library/nginx"),
        ("mycorp/**", "mycorp/*"),
        ("a/**", "a/**/b"),
        ("a/**/b", "a/*/b"),
        ("a/[a-z]*", "a/b*"),
        ("a/?*", "a/*"),
    ],
)
def test_containment(outer: str, inner: str) -> None:
    assert pattern(outer).contains(pattern(inner))
    assert not pattern(inner).contains(pattern(outer)) or (outer, inner) == ("a/?*", "a/*")


@pytest.mark.parametrize(
    ("one", "other", "meeting"),
    [
        ("tools/*-base", "tools/debian-*", True),
        ("a/b:*", "a/*:latest", True),
        ("a/x*", "a/y*", False),
        ("a/*", "a/*/b", False),
        ("a/**", "**/b", True),
        ("a:v*", "a:x*", False),
        ("ghcr.io/**", "quay.io/**", False),
        ("*.example/**", "a.*/**", True),
    ],
)
def test_intersection(one: str, other: str, meeting: bool) -> None:
    found = pattern(one).intersection(pattern(other))
    assert (found is not None) is meeting
    if found is not None:
        reference = Reference.parse(found)
        assert pattern(one).matches(reference)
        assert pattern(other).matches(reference)


# Against slow ones

ALPHABET = "ab"
globs_of_one = st.lists(
    st.sampled_from(["a", "b", "*", "?", "[a]", "[!a]", "[ab]"]), min_size=1, max_size=3
).map(lambda parts: re.sub(r"\*+", "*", "".join(parts)))


@st.composite
def segment_lists(draw: st.DrawFn) -> tuple[str, ...]:
    segments = draw(st.lists(globs_of_one, max_size=3))
    if draw(st.booleans()) or not segments:
        segments.insert(draw(st.integers(0, len(segments))), "**")
    return tuple(segments)


@cache
def slow_segment(glob: str, text: str) -> bool:
    """Matching by trying: no automaton, no fnmatch."""
    if not glob:
        return not text
    if glob[0] == "*":
        return any(slow_segment(glob[1:], text[n:]) for n in range(len(text) + 1))
    if not text:
        return False
    if glob[0] == "[":
        end = glob.index("]")
        wanted = glob[1:end]
        inside = (text[0] in wanted[1:]) is False if wanted[0] == "!" else text[0] in wanted
        return inside and slow_segment(glob[end + 1 :], text[1:])
    return glob[0] in ("?", text[0]) and slow_segment(glob[1:], text[1:])


def slow(pattern: tuple[str, ...], name: tuple[str, ...]) -> bool:
    if not pattern:
        return not name
    if pattern[0] == "**":
        least = 1 if len(pattern) == 1 else 0
        return any(slow(pattern[1:], name[n:]) for n in range(least, len(name) + 1))
    return bool(name) and slow_segment(pattern[0], name[0]) and slow(pattern[1:], name[1:])


WORDS = ["".join(w) for n in (1, 2, 3) for w in itertools.product("abc", repeat=n)]
NAMES = [name for n in (1, 2) for name in itertools.product(WORDS, repeat=n)] + list(
    itertools.product([w for w in WORDS if len(w) < 2], repeat=3)
)


def made(segments: tuple[str, ...]) -> Pattern:
    return Pattern._make("/".join(segments), "x.example", segments, None)


@given(segment_lists())
@settings(deadline=None, max_examples=60)
def test_matching_is_as_the_slow_matcher_says(segments: tuple[str, ...]) -> None:
    for name in NAMES[::7]:
        repository = Repository(Namespace("x.example"), "/".join(name))
        assert made(segments).matches_repository(repository) == slow(segments, name), name


@given(segment_lists(), segment_lists())
@settings(deadline=None, max_examples=150)
def test_containment_is_as_enumeration_says(outer: tuple[str, ...], inner: tuple[str, ...]) -> None:
    missing = [name for name in NAMES if slow(inner, name) and not slow(outer, name)]
    if languages.contains(outer, inner):
        assert missing == []
        return
    found = automaton.counterexample([outer], inner)
    assert found is not None
    name = tuple(found.split("/"))
    assert slow(inner, name)
    assert not slow(outer, name)


@given(segment_lists(), segment_lists())
@settings(deadline=None, max_examples=150)
def test_intersection_is_as_enumeration_says(one: tuple[str, ...], two: tuple[str, ...]) -> None:
    common = languages.intersection(one, two)
    if common is None:
        assert not [name for name in NAMES if slow(one, name) and slow(two, name)]
    else:
        name = tuple(common.split("/"))
        assert slow(one, name)
        assert slow(two, name)


@given(segment_lists())
@settings(deadline=None, max_examples=60)
def test_a_pattern_contains_itself_and_the_whole_run_contains_it(segments: tuple[str, ...]) -> None:
    assert languages.contains(segments, segments)
    assert languages.contains(("**",), segments)


@given(st.text(max_size=30))
def test_any_text_is_a_pattern_or_a_bad_pattern(text: str) -> None:
    try:
        found = pattern(text)
    except BadPattern:
        return
    assert pattern(str(found)).specificity == found.specificity
    assert found.contains(found)
    found.matches(Reference(Repository.parse("docker.io", "a/b"), digest=Digest.parse(DIGEST)))
    found.matches(Reference(Repository.parse("ghcr.io", "a"), tag=Tag("latest")))
