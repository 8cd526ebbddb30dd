"""`warm`: what it comes to, and what is refused or cannot have an effect."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from routerd.cli.config import effective
from routerd.config.compile import Compilation, load_policy
from routerd.endpoints.registry import lookup_type
from routerd.oci.platform import Platform

ENDPOINTS = """
endpoints:
  hub: {type: remote, url: 'https://registry-1.docker.io', cache: local}
  bare: {type: remote, url: 'https://quay.io'}
  local: {type: storage}
routes:
  library/*: hub
  quay.io/**: bare
  closed/**: {deny: "no more"}
  here/**: {endpoints: hub, allow: {pull: [net:loopback]}}
  there/**: {endpoints: hub, allow: {pull: [net:10.0.0.0/8]}}
  team/**: local
"""


def compiled(tmp_path: Path, warm: str) -> Compilation:
    path = tmp_path / "policy.yaml"
    path.write_text(f"{ENDPOINTS}warm: {warm}\n")
    return load_policy(path, environment={}, types=lookup_type)


def problems(compilation: Compilation) -> list[tuple[str, int]]:
    return [(d.code, d.mark.line) for d in compilation.diagnostics if d.code != "deny"]


def test_what_is_not_said_has_a_default(tmp_path: Path) -> None:
    policy = compiled(
        tmp_path,
        "[{references: [alpine, library/nginx:1]},"
        " {references: [alpine:3], platforms: [linux/arm64], every: never}]",
    ).policy
    assert policy is not None
    first, second = policy.warm
    assert [str(one) for one in first.references] == [
        "docker.io/library/alpine:latest", "docker.io/library/nginx:1"
    ]  # fmt: skip
    assert (first.platforms, first.every) == ((), 3600.0)
    assert (second.platforms, second.every) == ((Platform("linux", "arm64"),), math.inf)
    assert effective(policy)["warm"][1] == {
        "references": ["docker.io/library/alpine:3"],
        "platforms": ["linux/arm64"],
        "every": "never",
    }


@pytest.mark.parametrize(
    "warm",
    [
        "{}",
        "[{}]",
        "[{references: []}]",
        "[{references: alpine}]",
        "[{references: ['library/*']}]",
        "[{references: ['library/alpine:v*']}]",
        "[{references: ['UPPER']}]",
        "[{references: ['alpine@sha256:1']}]",
        "[{references: [alpine], platforms: [linux]}]",
        "[{references: [alpine], every: 59s}]",
        "[{references: [alpine], every: 1}]",
        "[{references: [alpine], often: 1h}]",
    ],
)
def test_what_cannot_be_meant_is_an_error_at_its_place(tmp_path: Path, warm: str) -> None:
    compilation = compiled(tmp_path, warm)
    assert compilation.policy is None
    [(_, line)] = problems(compilation)
    assert line == ENDPOINTS.count("\n") + 1


@pytest.mark.parametrize(
    ("reference", "why"),
    [
        ("closed/app", "no more"),
        ("nobody/app", "no route matches"),
        ("quay.io/a/b:1", "'bare' has no 'cache'"),
        ("team/app:1", "'local' has no 'cache'"),
        ("there/app:1", "cannot be fetched ahead"),
    ],
)
def test_what_can_never_be_warm_is_a_warning(tmp_path: Path, reference: str, why: str) -> None:
    compilation = compiled(tmp_path, f"[{{references: [alpine, 'here/app:1', '{reference}']}}]")
    assert compilation.policy is not None
    [found] = [d for d in compilation.diagnostics if d.code == "no-effect"]
    assert why in found.message
