"""checks: each doubtful policy gets its code, and the one beside it that is in order does not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from routerd.config.compile import load_policy
from routerd.config.diagnostics import Diagnostic
from routerd.endpoints.registry import lookup_type

Check = Callable[[str], list[Diagnostic]]

ENDPOINTS = """\
server: {data: data}
endpoints:
  s: {type: storage}
  t: {type: storage}
  u: {type: storage, actions: [pull]}
  r: {type: remote, url: "https://r.example", cache: u}
  q: {type: remote, url: "https://q.example", namespace: quay.io}
  hub: {type: remote, url: "https://registry-1.docker.io"}
  p: {type: remote, url: "https://p.example", auth: {type: basic, username: u, password: "${P}"}}
routes:
"""


@pytest.fixture
def check(tmp_path: Path) -> Check:
    def run(routes: str) -> list[Diagnostic]:
        path = tmp_path / "policy.yaml"
        path.write_text(ENDPOINTS + "".join(f"  {line}\n" for line in routes.split("; ")))
        found = load_policy(path, environment={"P": "x"}, types=lookup_type).diagnostics
        return [d for d in found if d.code != "unused-endpoint"]

    return run


LIMITED = "allow: {push: ['net:10.0.0.0/8'], pull: ['net:10.0.0.0/8']}"
OPEN = "allow: {push: [anonymous], pull: [anonymous]}"


@pytest.mark.parametrize(
    ("code", "doubtful", "in_order"),
    [
        # Pushes
        ("ambiguous-push-target", "a/b*: s; 'a/*c:latest': t", "a/b*: s; 'a/*c:latest': u"),
        ("ambiguous-push-target", "a/b*:x: s; 'a/*c:y': t", "a/b:x: s; 'a/c:y': t"),
        (
            "ambiguous-push-target",
            "a/x: s; 'a/*:1': s; 'a/*:2': t",
            "a/x: s; 'a/*:1': s; 'b/*:2': t",
        ),
        ("ambiguous-push-target", "'a/[xy]:1': s; a/x: s; 'a/*': t", "'a/[xy]:1': s; a/x: s"),
        # Namespaces
        ("namespace-lost", "'*': r; ghcr.io/**: r", "'*': r; ghcr.io/**: u"),
        ("namespace-lost", "'*': hub; ghcr.io/**: hub", "'*': q; quay.io/**: q"),
        ("namespace-lost", "'*.example/**': r", "x.example/**: r"),
        ("namespace-mismatch", "ghcr.io/**: hub", "docker.io/**: hub"),
        ("namespace-mismatch", "ghcr.io/**: q", "ghcr.io/**: r"),
        # Overlaps
        (
            "overlapping-routes",
            "tools/*-base: r; tools/debian-*: s",
            "tools/*-base: r; tools/d*-x: s",
        ),
        (
            "overlapping-routes",
            "'*.corp.example/a/*': s; x.corp.example/*/b: u",
            "'*.corp.example/a/*': s; x.corp.example/b/*: u",
        ),
        (
            "overlapping-routes",
            "'*.x.example/**': s; 'a.*/**': u",
            "'*.x.example/**': s; '*.y.example/**': u",
        ),
        ("overlapping-routes", "a/b:*x: s; a/b:y*: u", "a/b:*x: s; a/b:*y: u"),
        ("overlapping-routes", "a/**/b: s; '**/a/b': u", "a/**/b: s; 'a/**': u"),
        # Never reached
        ("unreachable-route", "'a/?*': s; 'a/*': u", "'a/??*': s; 'a/*': u"),
        ("unreachable-route", "'a/[xy]': s; a/x: u; a/y: u", "'a/[xyz]': s; a/x: u; a/y: u"),
        ("unreachable-route", "'a/[xy]:1': s; a/x: u; a/y: u", "'a/[xy]:1': s; a/x: u"),
        (
            "unreachable-route",
            "'a/[xy]:1': {cache: {ttl: 1s}}; a/x: r; a/y: r",
            "'a/*:1': {cache: {ttl: 1s}}; a/x: r; a/y: r",
        ),
        ("unreachable-route", "'*?.b/a': s; '?*.b/a': u", "'[xy].b/a': s; x.b/a: u"),
        ("unreachable-route", "'a/b:?*': s; 'a/b:*': u", "'a/b:v?*': s; 'a/b:v*': u"),
        ("unreachable-route", "a/b:.x: s", "a/b:x.: s"),
        ("unreachable-route", "a/b:-*: s", "a/b:*-: s"),
        ("unreachable-route", "a/_b: s", "a/b_c: s"),
        ("unreachable-route", "'a/b-/*': s", "'a/b-*': s"),
        # Access
        ("open-push", f"a/**: {{endpoints: s, {OPEN}}}", f"a/**: {{endpoints: u, {OPEN}}}"),
        (
            "open-push",
            f"a/**: {{endpoints: s, {LIMITED}}}; a/b: {{{OPEN}}}",
            f"a/**: {{endpoints: s, {OPEN.replace('anonymous', 'net:loopback')}}}; a/b: {{{LIMITED}}}",
        ),
        (
            "open-push",
            "a/**: {endpoints: s, allow: {push: ['net:0.0.0.0/0', 'net:::/0']}}",
            "a/**: {endpoints: s, allow: {push: ['net:0.0.0.0/1', 'net:::/1']}}",
        ),
        (
            "open-push",
            "a/**: {endpoints: s, allow: {push: ['net:0.0.0.0/1', 'net:128.0.0.0/1']}}",
            "a/**: {endpoints: s, allow: {push: []}}",
        ),
        (
            "public-storage",
            "a/**: {endpoints: s, allow: {push: ['net:10.0.0.0/8']}}",
            "a/**: {endpoints: s, allow: {push: ['net:10.0.0.0/8'], pull: [anonymous]}}",
        ),
        (
            "public-storage",
            "a/**: s; 'a/**:v*': {allow: {push: ['net:10.0.0.0/8']}}",
            f"a/**: {{endpoints: s, {LIMITED}}}; 'a/**:v*': {{allow: {{push: ['net:loopback']}}}}",
        ),
        ("credentialed-endpoint-anonymous", "a/**: p", "a/**: r"),
        (
            "credentialed-endpoint-anonymous",
            f"a/**: {{endpoints: p, {LIMITED}}}; a/b: {{{OPEN}}}",
            f"a/**: {{endpoints: p, {LIMITED}}}; a/b: {{cache: {{ttl: 1s}}}}",
        ),
        (
            "credentialed-endpoint-anonymous",
            f"a/b:x: p; a/**: {{endpoints: r, {OPEN}}}",
            f"a/b:x: p; a/**: {{endpoints: r, {LIMITED}}}",
        ),
        (
            "deny-by-tag-only",
            "a/b: {deny: 'only ok'}; a/b:ok: s",
            "a/b: {deny: 'only ok'}; a/c:ok: s",
        ),
        ("deny-by-tag-only", "a/b: s; a/b:bad: {deny: no}", "a/b: s; a/c: {deny: no}"),
        # Without effect
        (
            "no-effect",
            "a/b: {endpoints: s, fallback_on: [unavailable]}",
            "a/b: {endpoints: [r, hub], fallback_on: [unavailable]}",
        ),
        (
            "no-effect",
            "a/b: {endpoints: s, cache: {ttl: 1s}}",
            "a/b: {endpoints: r, cache: {ttl: 1s}}",
        ),
        (
            "no-effect",
            "a/b: {endpoints: u, allow: {push: [anonymous]}}",
            "a/b: {endpoints: u, allow: {pull: [anonymous]}}",
        ),
        ("push-shadows-upstream", "a/b: [s, r]", "a/b: [r, s]"),
    ],
)
def test_a_doubtful_policy_has_its_code_and_the_one_beside_it_has_not(
    check: Check, code: str, doubtful: str, in_order: str
) -> None:
    assert code in [d.code for d in check(doubtful)]
    assert code not in [d.code for d in check(in_order)]


@pytest.mark.parametrize(
    ("routes", "message"),
    [
        (
            "a/x: u; 'a/[xy]': s; a/y: u",
            "'a/[xy]' is never used: 'a/x' (policy.yaml:11), 'a/y' (policy.yaml:13) take all",
        ),
        (
            "'a/?*': u; 'a/*': s",
            "'a/?*' is never used: 'a/*' (policy.yaml:12) takes all that it matches",
        ),
        ("'a/b:.x': s", "no name matches 'a/b:.x': '.x' is not a tag: letters, digits"),
        (
            "a/b: {deny: no}; a/b:ok: s",
            "what 'a/b' denies can still be pulled by digest, from where 'a/b:ok' leads",
        ),
        (
            "a/b*: s; 'a/*c:latest': t",
            "a push to docker.io/a/bc could go to 's' and 't': say which with 'push_to'",
        ),
        (
            f"a/**: {{endpoints: p, {LIMITED}}}; a/b: {{allow: {{pull: [anonymous]}}}}",
            "anyone can pull through 'a/b' what the login of 'p' can read; limit it with 'allow:",
        ),
    ],
)
def test_a_diagnostic_names_what_leads_to_it(check: Check, routes: str, message: str) -> None:
    assert any(d.message.startswith(message) for d in check(routes))


def test_what_several_references_lead_to_is_said_once(check: Check) -> None:
    tags = "; ".join(f"a/**:v{n}: {{cache: {{ttl: 1s}}}}" for n in range(5))
    found = [d.code for d in check(f"a/**: p; {tags}")]
    assert found.count("credentialed-endpoint-anonymous") == 1


@pytest.mark.parametrize(
    "routes",
    [
        [f"team-{n}/app{m}: s" for n in range(2500) for m in ("", "/**", ":v*", ":latest")],
        [f"a/b:t{n}: s" for n in range(2000)],
        [f"a/b:t{n}*: {'su'[n % 2]}" for n in range(2000)],
        [f"'a/*x{n}*': {'su'[n % 2]}" for n in range(300)],
        [f"'a/*x{n}*:1': {'st'[n % 2]}" for n in range(300)],
        [f"'a/*:x{n}*': s" for n in range(1000)] + [f"'a/?*:x{n}*': t" for n in range(1000)],
    ],
    ids=["teams", "tags", "tag-globs", "overlapping", "ambiguous", "hidden"],
)
def test_many_routes_are_checked_within_the_test_s_timeout(check: Check, routes: list[str]) -> None:
    check("; ".join(routes))  # a check that looks at every pair, or at a pair at length, is cut off
