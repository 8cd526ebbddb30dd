"""redaction and sight: no secret is printed, in whatever way it was written or miswritten."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from routerd.cli.main import main
from routerd.config.document import load
from routerd.config.sight import is_secret_key, shown_value

AUTH = "endpoints:\n  r:\n    type: remote\n    url: https://r.example\n    auth:\n"
ROUTES = "\nroutes: {a/b: r}\n"


def remote(*lines: str) -> str:
    return AUTH + "".join(f"      {line}\n" for line in lines) + ROUTES


def with_url(url: str) -> str:
    return f"endpoints:\n  r: {{type: remote, url: {url}, foo: 1}}\n{ROUTES}"


# Each has `hunter2` as a secret, or parts of it, and an error on its line or beside it.
LEAKS = {
    "a misspelled key": remote("type: basic", "username: u", "pasword: hunter2"),
    "a misspelled key of the table": "upstream: https://r.example\nPasswrd: hunter2\nacl: {}\n",
    "another key of the table": "upstream: https://r.example\nPhrase: hunter2\nacl: {}\n",
    "a quoted key": remote('{"type": "basic", "username": "u", "password": "hunter2", "foo": 1}'),
    "a comma": remote('{type: basic, username: u, password: "ab,hunter2", foo: 1}'),
    "a brace": remote('{type: basic, username: u, password: "ab}hunter2", foo: 1}'),
    "a hash": remote('{type: basic, username: u, password: "ab#hunter2", foo: 1}'),
    "a default": remote('{type: basic, username: u, password: "${P:-hunter2}", foo: 1}'),
    "a login in what is no URL": with_url('"htps://foo:hunter2@h"'),
    "a login without a scheme": with_url("foo:hunter2@h"),
    "a slash in a login": with_url("https://foo:hunter2/hunter2@h"),
    "a space in a login": with_url('"https://foo:hunter2 hunter2@h"'),
    "a token as a login": with_url("https://hunter2@h"),
    "an escaped login": with_url('"https://foo:hunter2\\u0040h"'),
    "a login without a host": with_url('"https://foo:hunter2"'),
    "a login cut by a comment": with_url('"https://foo::" #hunter2@h').replace(", foo: 1}", "\n    }"),
    "a query": with_url("https://h/?token=hunter2"),
    "a misspelled url": with_url("https://h, ulr: 'foo:hunter2@h'"),
    "a list of urls": with_url("['https://foo:hunter2@h', 'https://foo:hunter2@i']"),
    "one of several urls": with_url("[{url: 'https://foo:hunter2@h', auth: {type: basic, pw: hunter2}}]"),
    "a login of its own": with_url("{url: 'https://h', auth: [{type: basic, password: hunter2, x: 1}]}"),
    "one of several accounts": remote("- {type: basic, username: u, password: hunter2, foo: 1}"),
    "an account without its type": remote("- {type: hunter2}", "- hunter2"),
    "an alias that looks like a key": remote("type: basic", "password: *hunter2:", "x: 1"),
    "a tag": remote("type: basic", "username: u", "password: !hunter2"),
    "a tag of a list": remote("type: basic", "username: u", "password: !hunter2 [x]"),
    "a tagged text": remote("type: basic", "username: u", "password: !hunter2 hunter2"),
    "an anchor of nothing": remote("type: basic", "username: u", "password: &hunter2"),
    "a comment for a value": remote("type: basic", "username: u", "password: #hunter2"),
    "a comment on the next line": remote("type: basic", "usrname: u", "password: ", "  #hunter2", "x: 1"),
    "a sign for a value": remote("type: basic", "username: u", "password: @hunter2"),
    "a percent for a value": remote("type: basic", "username: u", "password: %hunter2"),
    "two texts": remote("type: basic", "username: u", 'password: "x" hunter2'),
    "a colon": remote("type: basic", "username: u", "password: a: hunter2"),
    "a variable of an address": "server: {listen: '${P}'}\n" + remote("type: basic"),
    "an alias of nothing": remote("type: basic", "password: *hunter2"),
    "a number on the next line": remote("type: basic", "username: u", "password:", "  12345678"),
    "an anchor": f"x-p: &pw 12345678\n{remote('type: basic', 'username: u', 'password: *pw')}",
    "a misspelled anchor": f"x-p: &pw 12345678\n{remote('type: basic', 'tokn: *pw')}",
    "two lines": remote("type: basic", "username: u", 'password: "hunter2', '  hunter2', '  x"', "a: 1"),
    "a block": remote("type: basic", "username: u", "password: !foo |", "  hunter2", "  hunter2"),
    "no space": remote("{type: basic, username: u, password:hunter2}"),
    "no space in a block": remote("type: basic", "password:hunter2", "username: u"),
    "a set": remote("{hunter2}"),
    "a secret for a login": "endpoints:\n  r: {type: remote, url: 'https://h', auth: hunter2}" + ROUTES,
    "a secret for a type": remote("type: hunter2"),
    "a misspelled login": remote("x: 1").replace("auth:", "auht: {x: hunter2, foo: 1}\n    y:"),
    "a comment": remote("type: basic", "username: [u]", "password: [x] # hunter2"),
    "a secret that is a list": remote("type: basic", "username: u", "password: [hunter2]"),
    "an anchor for a type": remote("type: &hunter2", "type: basic"),
    "a list for a type": remote("type: [?hunter2]", "type: basic"),
    "a comment behind a merge": remote("type: basic", "<<: #hunter2"),
    "a list in a mapping": remote("type: basic", "- hunter2:"),
    "a mapping for a secret": remote("type: basic", "password:", "  hunter2: x"),
    "a quote without end": remote("type: basic", 'password: "hunter2'),
    "a bad escape": remote("type: basic", 'password: "hunter2\\q"'),
    "a tab": remote("type: basic", "password: hunter2\t: x: y"),
    "a merge": f"x-l: &l {{type: basic, username: 1, phrase: hunter2}}\n{remote('<<: *l')}",
    "two anchors": f"x: &a 1\n{remote('password: &a hunter2', 'x: *a')}",
    "a line end of Unicode": remote("type: basic", 'username: "a\u2028b"', "pasword: hunter2"),
}  # fmt: skip


@pytest.mark.parametrize("text", LEAKS.values(), ids=LEAKS.keys())
@pytest.mark.parametrize("form", ["text", "json"])
def test_a_secret_is_never_printed(tmp_path: Path, text: str, form: str) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(text)
    env = {"P": "hunter2"}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = CliRunner().invoke(
            main, ["config", "validate", "--format", form, str(path)], env=env
        )
    assert result.exit_code == 1, result.output
    assert "hunter2" not in result.output
    assert "12345678" not in result.output


ODD = st.text(alphabet=st.sampled_from("ab:*&!-[]{}<>|?'\" #%@`$,~=\t"), max_size=12)


@example(before="#", after="", quote="", lead="\n        ")
@given(
    ODD, ODD, st.sampled_from(["", "'", '"']), st.sampled_from(["", "- ", "\n        ", "*", "&"])
)
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_stands_around_a_password_it_is_not_shown(
    tmp_path: Path, before: str, after: str, quote: str, lead: str
) -> None:
    path = tmp_path / "p.yaml"
    value = f"{lead}{quote}{before}hunter2{after}{quote}"
    path.write_text(remote("type: basic", "username: u", f"password: {value}", "x: 1"))
    document = load(path)
    assert "hunter2" not in "".join(document.lines)
    assert not [problem for problem in document.problems if "hunter2" in problem.message]


def test_every_line_of_a_login_is_hidden_but_what_is_known_to_be_harmless(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(
        remote(
            "type: basic", "username: foo", 'password: "${HUB_PASSWORD}"', 'token: "${T:-hunter2}"',
            "password_file: hub.password", "other: {x: 'hun ter2'}",
        )
    )  # fmt: skip
    assert load(path).lines[5:11] == [
        "      type: basic",
        "      username: foo",
        '      password: "${HUB_PASSWORD}"',
        '      token: "*************"',
        "      password_file: hub.password",
        "      other: {*: '********'}",
    ]


def test_what_only_sounds_like_a_secret_is_shown(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    lines = [
        "endpoints:",
        "  token: {type: storage}",
        "  auth: {type: storage, path: x, token_realms: [a.example]}",
        "routes:",
        "  mycorp/secret: token",
        "  secret: {deny: 'ask a@b.example, or: c@d.example'}",
        "  password/**: auth",
    ]
    path.write_text("\n".join(lines))
    assert load(path).lines == lines


def test_the_caret_stays_below_what_it_points_at(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(
        remote("{type: basic, password: averylongsecretaverylongsecret, usrname: u}")
        + f"x-long: {{{', '.join(f'a{n}: b' for n in range(60))}}}\n"
        + f"server: {{log: {{format: text}}, {' ' * 200}drian: 1s{', '}{' ' * 300}}}\n"
    )
    result = CliRunner().invoke(main, ["config", "validate", str(path)])
    lines = result.stdout.splitlines()
    for word in ("usrname", "drian"):
        at = next(n for n, line in enumerate(lines) if f"'{word}' is not a key" in line)
        column = lines[at + 2].index("^")
        assert lines[at + 1][column:].startswith(word)
        assert lines[at + 2].strip(" |") == "^" * len(word)
        assert len(lines[at + 1]) < 180


@pytest.mark.parametrize(
    ("path", "text", "shown"),
    [
        (("endpoints", "r", "url"), "htps://foo:hunter2@h", "htps://***@h"),
        (("endpoints", "r", "namespace"), "foo:hunter2@h", "***@h"),
        (("endpoints", "r", "auth", "password"), "hunter2", None),
        (("endpoints", "r", "auth", "type"), "basic", "basic"),
        (("endpoints", "r", "auth", "type"), "hunter2", None),
        (("routes", "a/b", "deny"), "see https://u:p@wiki", "see https://***@wiki"),
        (("server", "drain"), "soon", "soon"),
    ],
)
def test_a_message_has_what_an_excerpt_has(
    path: tuple[str, ...], text: str, shown: str | None
) -> None:
    assert shown_value(path, text) == shown


@pytest.mark.parametrize("name", ["password", "api_token", "Secret", "tokn", "passwd", "x-api-key"])
def test_a_secret_is_told_by_the_name_of_its_key(name: str) -> None:
    assert is_secret_key(name)


@pytest.mark.parametrize("name", ["path", "token_realms", "password_file", "url", "ttl", "stall"])
def test_other_keys_are_not_taken_for_secrets(name: str) -> None:
    assert not is_secret_key(name)


@pytest.mark.parametrize(("value", "warned"), [("${P}", False), ("${P:-hunter2}", True)])
def test_a_default_of_a_secret_stands_in_the_file(tmp_path: Path, value: str, warned: bool) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(remote("type: basic", "username: u", f'password: "{value}"'))
    result = CliRunner().invoke(main, ["config", "validate", str(path)], env={"P": "x"})
    assert ("inline-secret" in result.stdout) is warned
