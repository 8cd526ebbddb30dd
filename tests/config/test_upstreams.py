"""upstreams: several URLs and accounts of a remote, and that every one of them is checked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from ruamel.yaml import YAML

from routerd.cli.main import main
from routerd.config.compile import Compilation, load_policy
from routerd.config.domains import same_domain
from routerd.endpoints.registry import lookup_type

Compile = Callable[..., Compilation]
BASIC = "{type: basic, username: %s, password: '${P}'}"


@pytest.fixture
def compiled(tmp_path: Path) -> Compile:
    def run(options: str, more: str = "") -> Compilation:
        path = tmp_path / "policy.yaml"
        path.write_text(
            "endpoints:\n  s: {type: storage}\n"
            f"  r: {{type: remote, {options}}}\n{more}routes: {{a/b: r, c/d: s}}\n"
        )
        return load_policy(path, environment={"P": "p", "HOST": "h.example"}, types=lookup_type)

    return run


def found(compilation: Compilation) -> list[tuple[str, int, int]]:
    """Code, line and column of every diagnostic."""
    return [(d.code, d.mark.line, d.mark.column) for d in compilation.diagnostics]


def column(options: str, text: str) -> int:
    """Where `text` stands in the line of the endpoint."""
    return f"  r: {{type: remote, {options}}}".index(text) + 1


def urls(compilation: Compilation) -> Any:
    assert compilation.policy is not None, compilation.diagnostics
    return compilation.policy.endpoints["r"].options["url"]


def test_a_list_has_its_order_and_its_own_logins(compiled: Compile) -> None:
    one = BASIC % "one"
    several = f"[{BASIC % 'a'}, {BASIC % 'b'}, {{type: anonymous}}]"
    options = (
        f"url: ['https://r1.x.example/v2/p', {{url: 'https://${{HOST}}/v2/p', auth: {several}, "
        f"tls: {{insecure: true}}}}, 'https://r2.x.example/v2/p'], auth: {one}"
    )
    first, second, third = urls(compiled(options))
    assert [each["url"] for each in (first, second, third)] == [
        "https://r1.x.example/v2/p",
        "https://h.example/v2/p",
        "https://r2.x.example/v2/p",
    ]
    assert [account["username"] for account in first["auth"]] == ["one"]
    assert first["auth"] is third["auth"]
    assert [account.get("username") for account in second["auth"]] == ["a", "b", None]
    assert (first["tls"]["insecure"], second["tls"]["insecure"]) == (False, True)


@pytest.mark.parametrize(
    ("options", "code", "at"),
    [
        ("url: ['https://a', 'ftp://b']", "bad-value", "'ftp://b'"),
        ("url: ['https://a', 5]", "wrong-type", "5"),
        ("url: []", "bad-value", "[]"),
        ("url: ['https://a', {auth: {type: anonymous}}]", "bad-value", None),
        ("url: {url: 'https://a', x: 1}", "unknown-key", "x:"),
        ("url: ['https://a', 'https://u:p@b']", "bad-value", "'https://u:p@b'"),
        ("url: ['https://a', 'https://a/']", "bad-value", "'https://a/'"),
        ("url: ['https://a/v2/x', 'https://b/v2/y']", "bad-value", "'https://b/v2/y'"),
        ("url: ['https://a/v2/x', 'https://b']", "bad-value", "'https://b'"),
        ("url: ['https://a', 'https://b/${NONE}']", "missing-secret", "'https://b/${NONE}'"),
        ("url: ['https://a', {url: 'https://b', tls: {ca: none.pem}}]", "bad-value", "none.pem"),
        ("url: 'https://a', auth: []", "bad-value", "[]"),
        ("url: 'https://a', auth: [{type: basic, username: u}]", "missing-secret", None),
        (
            "url: 'https://a', auth: [{type: bearer, token_file: no}]",
            "missing-secret",
            "no}",
        ),
        (
            f"url: 'https://a', auth: [{BASIC % 'u'}, {BASIC % 'u'}]",
            "bad-value",
            "{type: basic, username: u, password: '${P}'}]",
        ),
        (
            "url: ['https://a', {url: 'https://b', auth: {type: bearer, token: ''}}]",
            "missing-secret",
            "''",
        ),
        ("url: 'https://a', auth: [{type: docker-config}]", "not-supported", "docker-config"),
        ("url: {url: 'https://a', auth: {type: helper}}", "not-supported", "helper"),
        ("url: {url: 'https://a', tls: {key: k}}", "not-supported", "key:"),
        ("url: ['https://ghcr.io', 'https://quay.io']", "namespace-lost", "url:"),
        (
            f"url: ['https://a.example', 'https://b.test'], auth: {BASIC % 'u'}",
            "bad-value",
            "'https://b.test'",
        ),
        ("url: 'https://a', previous_names: [s]", "bad-value", "s]"),
        ("url: 'https://a', previous_names: [x/y]", "bad-value", "x/y"),
        ("url: 'https://a', offline: 1", "wrong-type", "1}"),
    ],
)
def test_a_mistake_in_one_of_several_is_shown_where_it_stands(
    compiled: Compile, options: str, code: str, at: str | None
) -> None:
    compilation = compiled(options)
    assert compilation.policy is None
    assert code in [one for one, *_ in found(compilation)]
    if at is not None:
        where = (code, 3, column(options + "}" if at.endswith("}") else options, at))
        assert where in found(compilation), compilation.diagnostics


@pytest.mark.parametrize(
    ("options", "code", "at"),
    [
        ("url: ['https://a', 'http://b']", "insecure-upstream", "'http://b'"),
        (
            "url: ['https://a', {url: 'https://b', tls: {insecure: true}}]",
            "insecure-upstream",
            "insecure",
        ),
        (
            "url: 'https://a', auth: [{type: anonymous}, {type: bearer, token: t}]",
            "inline-secret",
            "token:",
        ),
        (
            "url: ['https://a', {url: 'https://b', auth: {type: bearer, token: t}}]",
            "inline-secret",
            "token:",
        ),
        ("url: ['https://m.example', 'https://quay.io']", "namespace-mismatch", None),
        (
            f"url: ['https://a', {{url: 'https://b', auth: {BASIC % 'u'}}}]",
            "credentialed-endpoint-anonymous",
            None,
        ),
        ("url: 'https://a', offline: true", "no-effect", "offline"),
        ("url: 'https://a', previous_names: [x]", "no-effect", "previous_names"),
    ],
)
def test_a_doubt_about_one_of_several_is_said(
    compiled: Compile, options: str, code: str, at: str | None
) -> None:
    compilation = compiled(options)
    assert compilation.policy is not None, compilation.diagnostics
    assert code in [one for one, *_ in found(compilation)]
    if at is not None:
        assert (code, 3, column(options, at)) in found(compilation)


@pytest.mark.parametrize(
    "options",
    [
        "url: {url: 'https://a'}, auth: [{type: anonymous}]",
        "url: ['https://r.one.example', 'https://q.one.example'], auth: " + BASIC % "u",
        f"url: ['https://a', {{url: 'https://b', auth: {{type: anonymous}}}}], auth: {BASIC % 'u'}",
        "url: 'https://a', offline: true, cache: s, previous_names: [old, older]",
    ],
)
def test_what_is_in_order_is_accepted(compiled: Compile, options: str) -> None:
    compilation = compiled(options)
    doubts = {code for code, *_ in found(compilation)}
    assert compilation.policy is not None
    assert doubts <= {"credentialed-endpoint-anonymous"}, compilation.diagnostics


def test_a_name_of_before_has_one_taker(compiled: Compile) -> None:
    other = "  q: {type: remote, url: 'https://q', previous_names: [old]}\n"
    compilation = compiled("url: 'https://a', previous_names: [old]", other)
    assert "bad-value" in [code for code, *_ in found(compilation)]


def test_show_has_every_url_and_no_secret(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(
        "endpoints:\n"
        "  r:\n"
        "    type: remote\n"
        "    url: ['https://a.example', {url: 'https://b.example', auth: [{type: anonymous}, "
        "{type: basic, username: u, password: hunter2}]}]\n"
        "  q: {type: remote, url: [{url: 'https://q', auth: [{type: bearer, token: hunter2}]}]}\n"
        "routes: {a/b: r, c/d: q}\n"
    )
    result = CliRunner().invoke(main, ["config", "show", str(path)])
    assert "hunter2" not in result.output
    shown = YAML(typ="safe", pure=True).load(result.stdout)["endpoints"]
    first, second = shown["r"]["url"]
    assert (first["url"], first["auth"]) == ("https://a.example", {"type": "anonymous"})
    assert second["auth"][1] == {"type": "basic", "username": "u", "password": "***"}
    assert (shown["q"]["url"], shown["q"]["auth"]["type"]) == ("https://q", "bearer")


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("auth.docker.io", "registry-1.docker.io", True),
        ("a.co.uk", "b.co.uk", False),
        ("10.0.0.1", "10.0.0.1", False),
        ("[::1]", "::1", False),
        ("localhost", "localhost", False),
    ],
)
def test_a_domain_is_what_somebody_registered(one: str, other: str, same: bool) -> None:
    assert same_domain(one, other) is same
