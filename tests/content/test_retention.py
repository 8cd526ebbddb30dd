"""retention.decide: what a sweep may take, and what it never takes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routerd.content.links import LinkKind, Scope
from routerd.content.retention import GRACE, Held, Stock, Verdict, Why, decide

DAY = 86400.0
NOW = 1000 * DAY
HUB, OTHER = Scope("hub", "library/app"), Scope("hub", "library/other")
PUSHED = Scope("local", "docker.io/team/app")
RETAIN = 14 * DAY


def retain(scope: Scope) -> float | None:
    return None if scope.endpoint == "local" else RETAIN


def manifest(digest: str, age: float, scope: Scope = HUB) -> Held:
    """`age` in days."""
    return Held(scope, digest, LinkKind.MANIFEST, NOW - age * DAY)


def blob(digest: str, age: float, scope: Scope = HUB) -> Held:
    return Held(scope, digest, LinkKind.BLOB, NOW - age * DAY)


def stock(
    *links: Held, lists: Mapping[str, Sequence[str]] | None = None, pinned: Sequence[str] = ()
) -> Stock:
    digests = {link.digest for link in links}
    return Stock(
        links, lists or {}, dict.fromkeys(digests, 100), {(HUB, digest) for digest in pinned}
    )


def taken(verdict: Verdict) -> list[str]:
    return [removal.link.digest for removal in verdict.removals]


def test_an_image_that_nobody_pulls_goes_whole_and_its_bytes_with_it() -> None:
    held = stock(manifest("m", 20), blob("b", 20), blob("c", 20), lists={"m": ["b", "c"]})
    verdict = decide(held, retain, NOW)
    assert taken(verdict)[0] == "m", "first the manifest, then what it lists"
    assert set(taken(verdict)) == set(verdict.unlinked) == {"m", "b", "c"}
    assert verdict.size == 300
    assert {removal.why for removal in verdict.removals} == {Why.AGE}


def test_layers_that_were_fetched_after_the_manifest_are_a_part_of_it() -> None:
    """Pulled by the same client, some minutes later: not yet old by themselves."""
    late = 14 - 0.01
    held = stock(manifest("m", 14.01), blob("b", late), lists={"m": ["b"]})
    assert set(taken(decide(held, retain, NOW))) == {"m", "b"}


def test_a_layer_that_is_still_read_outlives_its_manifest() -> None:
    held = stock(manifest("m", 20), blob("b", 1), lists={"m": ["b"]})
    assert taken(decide(held, retain, NOW)) == ["m"]
    assert decide(held, retain, NOW).unlinked == ["m"]


@pytest.mark.parametrize(
    ("age", "goes"), [(13.9, False), (14.0, False), (14.01, True), (-1, False)]
)
def test_retain_is_counted_from_the_last_pull(age: float, goes: bool) -> None:
    assert taken(decide(stock(manifest("m", age)), retain, NOW)) == (["m"] if goes else [])


def test_a_policy_that_says_never_or_something_else_counts_at_once() -> None:
    held = stock(manifest("m", 20))
    assert taken(decide(held, lambda _: math.inf, NOW)) == []
    assert taken(decide(held, lambda _: 30 * DAY, NOW)) == []
    assert taken(decide(held, lambda _: 0.0, NOW)) == ["m"]


def test_what_was_stored_or_pulled_just_now_stays_whatever_is_wanted() -> None:
    held = stock(manifest("m", (GRACE - 1) / DAY))
    assert taken(decide(held, lambda _: 0.0, NOW, need=10**9)) == []


def test_a_pull_of_one_platform_keeps_the_index_and_all_that_it_lists() -> None:
    lists = {"index": ["amd", "arm"], "amd": ["a"], "arm": ["b"]}
    links = [manifest("index", 20), manifest("amd", 1), manifest("arm", 20)]
    held = stock(*links, blob("a", 20), blob("b", 20), lists=lists)
    assert taken(decide(held, retain, NOW)) == []
    old = stock(manifest("index", 20), manifest("amd", 20), *held.links[2:], lists=lists)
    assert set(taken(decide(old, retain, NOW))) == {"index", "amd", "arm", "a", "b"}
    assert taken(decide(old, retain, NOW))[0] == "index"


def test_a_base_layer_stays_for_the_image_that_is_pulled() -> None:
    held = stock(
        manifest("old", 20),
        manifest("new", 1),
        blob("base", 20),
        blob("own", 20),
        lists={"old": ["base", "own"], "new": ["base"]},
    )
    assert set(taken(decide(held, retain, NOW))) == {"old", "own"}


def test_what_a_manifest_of_another_scope_lists_stays_as_well() -> None:
    for keeper in (manifest("n", 1, OTHER), manifest("n", 500, PUSHED)):
        held = stock(blob("b", 20), keeper, lists={"n": ["b"]})
        assert taken(decide(held, retain, NOW)) == []


def test_what_was_pushed_stays_however_old_it_is_and_however_little_room_there_is() -> None:
    held = stock(manifest("m", 500, PUSHED), blob("b", 500, PUSHED), lists={"m": ["b"]})
    verdict = decide(held, retain, NOW, need=10**9)
    assert (verdict.removals, verdict.unlinked, verdict.size) == ([], [], 0)


def test_bytes_that_were_pushed_stay_when_their_cached_link_goes() -> None:
    held = stock(blob("b", 20), blob("b", 500, PUSHED))
    verdict = decide(held, retain, NOW)
    assert [removal.link.scope for removal in verdict.removals] == [HUB]
    assert (verdict.unlinked, verdict.size) == ([], 0)


def test_a_pin_keeps_what_it_names_with_all_that_it_lists_and_is_counted() -> None:
    links = [manifest("m", 500), blob("b", 500), manifest("n", 500)]
    held = stock(*links, lists={"m": ["b"]}, pinned=["m"])
    verdict = decide(held, retain, NOW, need=10**9)
    assert taken(verdict) == ["n"]
    assert verdict.pinned == 1


def test_room_is_made_by_what_was_pulled_least_recently_and_no_more_than_is_needed() -> None:
    links = [manifest(f"m{age}", age) for age in (3, 1, 5, 2, 4)]
    held = stock(*links)
    assert taken(decide(held, retain, NOW, need=0)) == []
    verdict = decide(held, retain, NOW, need=150)
    assert taken(verdict) == ["m5", "m4"]
    assert [removal.why for removal in verdict.removals] == [Why.ROOM] * 2
    assert taken(decide(held, retain, NOW, need=10**9)) == ["m5", "m4", "m3", "m2", "m1"]


def test_an_image_goes_whole_for_room_before_the_next_one_does() -> None:
    held = stock(
        manifest("m", 5),
        blob("b", 4.99),
        manifest("n", 4.995),
        blob("c", 4.99),
        lists={"m": ["b"], "n": ["c"]},
    )
    assert set(taken(decide(held, retain, NOW, need=200))) == {"m", "b"}


def test_what_is_over_its_time_counts_for_the_room_that_is_needed() -> None:
    held = stock(manifest("old", 20), manifest("young", 2))
    assert taken(decide(held, retain, NOW, need=100)) == ["old"]


def test_bytes_without_any_link_go_unless_a_stored_manifest_lists_them() -> None:
    held = Stock([manifest("m", 1)], {"m": ["listed"]}, {"m": 1, "listed": 10, "stray": 100})
    verdict = decide(held, retain, NOW)
    assert (verdict.unlinked, verdict.size) == (["stray"], 100)
    gone = Stock([manifest("m", 20)], {"m": ["listed"]}, {"m": 1, "listed": 10})
    assert set(decide(gone, retain, NOW).unlinked) == {"m", "listed"}


def test_a_long_chain_of_indexes_is_no_trouble() -> None:
    count = 3000
    links = [manifest(f"i{number}", 20) for number in range(count)]
    lists = {f"i{number}": [f"i{number + 1}"] for number in range(count - 1)}
    assert len(taken(decide(stock(*links, lists=lists), retain, NOW))) == count
    links[-1] = manifest(f"i{count - 1}", 1)
    assert taken(decide(stock(*links, lists=lists), retain, NOW)) == []


SCOPES = [HUB, OTHER, PUSHED, Scope("gone", "x")]


@st.composite
def stocks(draw: st.DrawFn) -> Stock:
    """Content that lists only what has a larger number, so that nothing lists itself."""
    count = draw(st.integers(1, 8))
    names = [f"d{number}" for number in range(count)]
    lists = {
        name: draw(st.lists(st.sampled_from(names[number + 1 :]), unique=True, max_size=4))
        for number, name in enumerate(names[:-1])
        if draw(st.booleans())
    }
    keys = draw(
        st.lists(
            st.tuples(st.sampled_from(SCOPES), st.sampled_from(names), st.booleans()),
            unique=True,
            max_size=14,
        )
    )
    links = [
        Held(
            scope,
            name,
            LinkKind.MANIFEST if is_manifest and name in lists else LinkKind.BLOB,
            NOW - draw(st.sampled_from([0.0, 1.0, 13.0, 15.0, 100.0])) * DAY,
        )
        for scope, name, is_manifest in keys
    ]
    links = list({(one.scope, one.digest, one.kind): one for one in links}.values())
    pinned = draw(st.lists(st.sampled_from(links), max_size=2)) if links else []
    sizes = {name: draw(st.integers(0, 100)) for name in names}
    return Stock(links, lists, sizes, {(one.scope, one.digest) for one in pinned})


def keeps(scope: Scope) -> float | None:
    return None if scope in (PUSHED, SCOPES[3]) else (RETAIN if scope == HUB else 2 * DAY)


@given(stocks(), st.sampled_from([0, 1, 100, 10**6]))
def test_no_sweep_ever_takes_what_it_must_not(held: Stock, need: int) -> None:
    verdict = decide(held, keeps, NOW, need)
    gone = {(r.link.scope, r.link.digest, r.link.kind) for r in verdict.removals}
    assert len(gone) == len(verdict.removals), "nothing goes twice"
    left = [one for one in held.links if (one.scope, one.digest, one.kind) not in gone]
    kept = {one.digest for one in left if one.kind is LinkKind.MANIFEST}
    needed = {child for digest in kept for child in held.lists.get(digest, ())}
    for removal in verdict.removals:
        link = removal.link
        assert keeps(link.scope) is not None, "pushed, or of an endpoint that is not known"
        assert (link.scope, link.digest) not in held.pinned
        assert link.digest not in needed, "listed by a manifest that is kept"
        assert link.pulled_at < NOW - GRACE
        if removal.why is Why.AGE and link.kind is LinkKind.MANIFEST:
            assert link.pulled_at < NOW - (keeps(link.scope) or 0)
    assert len(set(verdict.unlinked)) == len(verdict.unlinked)
    for digest in verdict.unlinked:
        assert digest not in needed
        assert digest not in {one.digest for one in left}
    assert verdict.size == sum(held.sizes[digest] for digest in verdict.unlinked)


@given(stocks())
def test_a_second_sweep_at_the_same_time_finds_nothing_of_age_that_was_not_freed_by_the_first(
    held: Stock,
) -> None:
    verdict = decide(held, keeps, NOW)
    gone = {(r.link.scope, r.link.digest, r.link.kind) for r in verdict.removals}
    left = [one for one in held.links if (one.scope, one.digest, one.kind) not in gone]
    sizes = {d: n for d, n in held.sizes.items() if d not in verdict.unlinked}
    again = decide(Stock(left, held.lists, sizes, held.pinned), keeps, NOW)
    assert (again.removals, again.unlinked) == ([], [])


@given(stocks(), st.integers(1, 1000))
def test_room_is_made_or_nothing_is_left_to_make_it_with(held: Stock, need: int) -> None:
    verdict = decide(held, keeps, NOW, need)
    most = decide(held, keeps, NOW, 10**9)
    assert verdict.size >= min(need, most.size)
