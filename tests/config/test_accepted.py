"""What `config validate` accepts is what `serve` runs, and what it refuses could not be run."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import certifi
import pytest

from routerd.config.compile import Compilation, load_policy
from routerd.config.diagnostics import Severity
from routerd.endpoints.registry import lookup_type
from routerd.oci.reference import Reference
from routerd.routing.policy import Action, Caller

Compile = Callable[..., Compilation]
STORE = "endpoints: {s: {type: storage}, t: {type: storage, actions: [pull]}}\n"
ROUTE = "routes: {a/b: s, c/d: t}\n"


@pytest.fixture
def compiled(tmp_path: Path) -> Compile:
    def run(text: str, environment: Mapping[str, str] | None = None) -> Compilation:
        path = tmp_path / "policy.yaml"
        path.write_text(text)
        return load_policy(path, environment=environment, types=lookup_type)

    return run


def said(compilation: Compilation, severity: Severity = Severity.ERROR) -> list[tuple[str, str]]:
    return [(d.code, d.message) for d in compilation.diagnostics if d.severity is severity]


def remote(options: str) -> str:
    return f"endpoints: {{r: {{type: remote, {options}}}}}\nroutes: {{a/b: r}}\n"


@pytest.mark.parametrize("text", ["{}\n", "<<: {}\n"])
def test_an_empty_mapping_is_no_policy(compiled: Compile, text: str) -> None:
    compilation = compiled(text)
    assert compilation.policy is None
    assert compilation.refused


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (remote('url: "${EMPTY}"'), "bad-value"),
        (remote('url: ""'), "bad-value"),
        (remote('url: "https://h[.example"'), "bad-value"),
        (remote('url: "https://h:port"'), "bad-value"),
        (
            remote("url: 'https://r', auth: {type: basic, username: u, password: '${EMPTY}'}"),
            "missing-secret",
        ),
        (
            remote("url: 'https://r', auth: {type: basic, username: '${EMPTY}', password: '${P}'}"),
            "bad-value",
        ),
        (remote("url: 'https://r', auth: {type: bearer, token: ''}"), "missing-secret"),
        (remote("url: 'https://r', tls: {ca: empty.pem}"), "bad-value"),
        (remote("url: 'https://r', tls: {ca: text.pem}"), "bad-value"),
        ("server: {listen: '127.0.0.1:7000', admin: '127.0.0.1:7000'}\n" + STORE + ROUTE, "bad-value"),
        ("server: {listen: '0.0.0.0:7000', admin: '127.0.0.1:7000'}\n" + STORE + ROUTE, "bad-value"),
        ("server: {listen: 'localhost:7000', admin: '[::1]:7000'}\n" + STORE + ROUTE, "bad-value"),
        ("server: {listen: ['127.0.0.1:7000', '127.0.0.1:7000']}\n" + STORE + ROUTE, "bad-value"),
        ("server: {listen: '127.0.0.1:5001'}\n" + STORE + ROUTE, "bad-value"),
        (f"endpoints: {{{'s' * 300}: {{type: storage}}}}\nroutes: {{a/b: {'s' * 300}}}\n", "bad-value"),
        (remote('url: "https://r", cache: {store: r, ttl: "5s\\n"}'), "bad-value"),
        ('server: {name: "m1\\n"}\n' + STORE + ROUTE, "bad-value"),
        ('server: {forwarded_header: "X-A\\n"}\n' + STORE + ROUTE, "bad-value"),
        ('server: {drain: "5s\\n"}\n' + STORE + ROUTE, "bad-value"),
        ("server: {audit: {file: s/a.jsonl}}\n" + STORE + ROUTE, "shared-path"),
        ("server: {audit: {file: s/deep/a.jsonl}}\n" + STORE + ROUTE, "shared-path"),
        ("server: {audit: {file: ''}}\n" + STORE + ROUTE, "bad-value"),
        ("server: {audit: {file: trail/}}\n" + STORE + ROUTE, "bad-value"),
        ("server: {audit: {keep: 30}}\n" + STORE + ROUTE, "wrong-type"),
        ("server: {audit: 'off'}\n" + STORE + ROUTE, "wrong-type"),
        ("server: {audit: {path: x}}\n" + STORE + ROUTE, "unknown-key"),
        ('endpoints: {"loc\\n": {type: storage}}\nroutes: {a/b: "loc\\n"}\n', "bad-value"),
    ],
)  # fmt: skip
def test_what_serve_would_stumble_over_is_refused(
    compiled: Compile, tmp_path: Path, text: str, code: str
) -> None:
    (tmp_path / "empty.pem").write_text("")
    (tmp_path / "text.pem").write_text("no certificate\n")
    compilation = compiled(text, {"EMPTY": "", "P": "p"})
    assert compilation.policy is None
    assert code in [found for found, _ in said(compilation)]


@pytest.mark.parametrize(
    "server",
    [
        "{listen: '127.0.0.1:7000', admin: '127.0.0.1:7001'}",
        "{listen: ['127.0.0.1:7000', '[::1]:7000'], admin: '127.0.0.2:7000'}",
        "{listen: ['0.0.0.0:7000', '[::]:7000']}",
        "{listen: '127.0.0.1:0', admin: '127.0.0.1:0'}",
    ],
)
def test_addresses_that_do_not_meet_are_accepted(compiled: Compile, server: str) -> None:
    assert not said(compiled(f"server: {server}\n{STORE}{ROUTE}", {}))


def test_a_file_of_certificates_is_accepted(compiled: Compile, tmp_path: Path) -> None:
    shutil.copy(certifi.where(), tmp_path / "ca.pem")
    assert not said(compiled(remote("url: 'https://r', tls: {ca: ca.pem}"), {}))


@pytest.mark.parametrize(
    "text",
    [
        remote('url: "${URL}"'),
        remote('url: "https://${HOST}:${PORT}/v2"'),
        remote('url: "https://r", auth: {type: basic, username: "${U}", password: "${P}"}'),
        remote('url: "https://r", tls: {ca: "${CA}"}'),
        'server: {listen: "${LISTEN}", data: "${DATA}"}\n' + STORE + ROUTE,
        'server: {listen: ["[::1]:${PORT}"], admin: "127.0.0.1:${APORT}"}\n' + STORE + ROUTE,
    ],
)
def test_without_an_environment_nothing_is_checked_that_hangs_on_it(
    compiled: Compile, text: str
) -> None:
    assert not said(compiled(text, None))


def test_without_an_environment_a_default_is_checked(compiled: Compile) -> None:
    assert said(compiled(remote('url: "${URL:-ftp://x}"'), None))


@pytest.mark.parametrize(
    ("strip", "hint"), [("mycorp", "mycorp/"), ("mycorp/app", "mycorp/"), ("my", "")]
)
def test_a_prefix_ends_with_its_segment(compiled: Compile, strip: str, hint: str) -> None:
    [(code, message)] = said(
        compiled(
            STORE + f"routes: {{'mycorp/app-*': {{endpoints: s, strip: {strip}}}, c/d: t}}", {}
        )
    )
    assert code == "bad-value"
    assert (f"did you mean '{hint}'" in message) if hint else ("did you mean" not in message)


@pytest.mark.parametrize(
    "key", ["push_to: s", "strip: z/", "fallback_on: [denied]", "on_miss: stream"]
)
def test_a_deny_has_no_destination(compiled: Compile, key: str) -> None:
    found = said(compiled(STORE + f"routes: {{a/b: {{deny: no, {key}}}, c/d: [t, s]}}", {}))
    assert [code for code, _ in found] == ["bad-value"]


@pytest.mark.parametrize(
    ("routes", "expected"),
    [
        ("{a/b: {deny: no, cache: {ttl: 1s}}, 'a/**': s, c/d: t}", 1),
        ("{a/b: {deny: no, allow: {pull: [anonymous]}, cache: {ttl: 1s}}, c/d: [s, t]}", 2),
        ("{a/b: {deny: no, allow: {pull: [anonymous]}}, 'a/b:ok': s, c/d: t}", 0),
        ("{a/b: {cache: {ttl: 1s}}, c/d: [s, t]}", 1),
        ("{'a/**:x': {cache: {ttl: 1s}}, 'a/b': s, c/d: t}", 0),
        ("{'*.example/**': {allow: {pull: [anonymous]}}, 'r.example/**': s, c/d: t}", 0),
        ("{'*.example/**': {allow: {pull: [anonymous]}}, 'r.other/**': s, c/d: t}", 1),
        ("{a/b: {allow: {pull: [anonymous]}}, '*': [s, t]}", 0),
    ],
)
def test_settings_that_no_endpoint_takes_have_no_effect(
    compiled: Compile, routes: str, expected: int
) -> None:
    compilation = compiled(f"{STORE}routes: {routes}\n", {})
    found = [code for code, _ in said(compilation, Severity.WARNING)]
    assert found.count("no-effect") == expected, found


@pytest.mark.parametrize(
    ("pattern", "hint"),
    [
        ("ghcr.io", "ghcr.io/**"),
        ("ghcr.io:latest", "ghcr.io/**"),
        ("ghcr.io/*", "ghcr.io/**"),
        ("ghcr.io/a/*", None),
        ("library/*", None),
        ("nginx", None),
    ],
)
def test_a_pattern_that_reads_as_a_registry_gets_a_hint(
    compiled: Compile, pattern: str, hint: str | None
) -> None:
    compilation = compiled(f"{STORE}routes: {{'{pattern}': s, c/d: t}}\n", {})
    found = [d for d in compilation.diagnostics if d.code == "hint"]
    assert compilation.policy is not None
    assert [d.severity for d in found] == ([] if hint is None else [Severity.NOTE])
    assert all(str(hint) in d.message for d in found)


def test_who_has_a_route_for_the_whole_registry_gets_no_hint(compiled: Compile) -> None:
    compilation = compiled(f"{STORE}routes: {{'ghcr.io/*': s, 'ghcr.io/**': t}}\n", {})
    assert "hint" not in [d.code for d in compilation.diagnostics]


def test_a_tag_that_is_called_none_is_not_no_tag(compiled: Compile) -> None:
    assert not said(compiled(STORE + "routes: {a/b: s, 'a/b:None': t}", {}))


def test_what_is_wrong_with_an_endpoint_is_said_once(compiled: Compile) -> None:
    text = "endpoints: {s: {actions: [push]}}\nroutes: {a/b: {endpoints: s, push_to: s}}\n"
    assert [message for _, message in said(compiled(text, {}))] == ["endpoint 's' needs 'type'"]


@pytest.mark.parametrize("key", ["push_to: z", "push_to: t"])
def test_a_push_target_that_is_none_of_the_routes_is_an_error(compiled: Compile, key: str) -> None:
    assert said(compiled(STORE + f"routes: {{a/b: {{endpoints: s, {key}}}, c/d: t}}", {}))


@pytest.mark.parametrize("default", ["docker.io", "quay.io"])
def test_in_the_table_form_a_bare_name_goes_upstream_whatever_that_is(
    compiled: Compile, default: str
) -> None:
    policy = compiled(
        f"server: {{default_namespace: {default}}}\nupstream: https://quay.io\n"
        "acl: {a/b: remote}\n",
        {},
    )
    assert policy.policy is not None
    assert "namespace-mismatch" not in [d.code for d in policy.diagnostics]
    for name, expected in (("foo/bar", ["local", "remote"]), ("a/b", ["remote"])):
        reference = Reference.parse(name, policy.policy.server.default_namespace)
        decision = policy.policy.table.decide(reference, Action.PULL, Caller(None))
        assert [step.endpoint for step in decision.steps] == expected


def test_the_proposals_other_form_is_the_same_as_the_language(compiled: Compile) -> None:
    found = said(compiled(f"registries: {{s: {{type: storage}}}}\n{STORE}{ROUTE}", {}))
    assert [code for code, _ in found] == ["duplicate-key"]
