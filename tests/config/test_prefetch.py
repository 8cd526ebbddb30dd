"""`prefetch`: its forms, its cascade, and what is refused."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path

import pytest

from routerd.cli.config import effective
from routerd.cli.explain import lines
from routerd.config.compile import Compilation, load_policy
from routerd.endpoints.registry import lookup_type
from routerd.oci.platform import Platform
from routerd.oci.reference import Reference
from routerd.routing.explain import explain_reference
from routerd.routing.policy import Action, Caller, Prefetch


def compiled(tmp_path: Path, text: str) -> Compilation:
    path = tmp_path / "policy.yaml"
    path.write_text(text)
    return load_policy(path, environment={}, types=lookup_type)


@pytest.mark.parametrize(
    ("written", "expected", "shown"),
    [
        ("none", Prefetch(), "none"),
        ("layers", Prefetch(layers=True), "layers"),
        ("{}", Prefetch(layers=True), "layers"),
        ("{layers: false, concurrency: 2}", Prefetch(concurrency=2), "none"),
        (
            "{concurrency: 2, platforms: [linux/arm/v7]}",
            Prefetch(True, 2, (Platform("linux", "arm", "v7"),)),
            {"layers": True, "concurrency": 2, "platforms": ["linux/arm/v7"]},
        ),
    ],
)
def test_prefetch_cascades_in_each_of_its_forms(
    tmp_path: Path, written: str, expected: Prefetch, shown: object
) -> None:
    policy = compiled(
        tmp_path,
        "endpoints:\n  s: {type: storage}\n"
        "  r: {type: remote, url: 'https://r.example', cache: {store: s, prefetch: layers}}\n"
        f"routes: {{a/b: {{endpoints: r, cache: {{prefetch: {written}}}}}, c/d: r}}\n",
    ).policy
    assert policy is not None
    caller = Caller(ip_address("192.0.2.1"))
    [here] = policy.table.decide(Reference.parse("a/b:1"), Action.PULL, caller).steps
    [there] = policy.table.decide(Reference.parse("c/d:1"), Action.PULL, caller).steps
    assert here.cache.prefetch.value == expected
    assert there.cache.prefetch.value == Prefetch(layers=True)
    assert effective(policy)["routes"]["docker.io/a/b"]["cache"]["prefetch"] == shown
    explanation = explain_reference(policy.table, Reference.parse("a/b:1"), Action.PULL, caller)
    assert ("linux/arm/v7" in "\n".join(lines(policy, explanation))) == bool(expected.platforms)


@pytest.mark.parametrize(
    "written",
    [
        "all",
        "{layers: 1}",
        "{concurrency: 0}",
        "{concurrency: 17}",
        "{platforms: [linux]}",
        "{x: 1}",
        "[]",
    ],
)
def test_a_prefetch_that_is_none_is_refused(tmp_path: Path, written: str) -> None:
    text = (
        "endpoints:\n  s: {type: storage}\n"
        f"  r: {{type: remote, url: 'https://r.example', cache: {{store: s, prefetch: {written}}}}}\n"
        "routes: {a/b: r}\n"
    )
    assert compiled(tmp_path, text).policy is None
