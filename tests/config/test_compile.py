"""compile.load_policy: what each key comes to, and what is refused."""

from __future__ import annotations

import json
import math
import pickle
import shutil
from collections.abc import Callable, Mapping
from ipaddress import ip_address
from pathlib import Path

import certifi
import pytest
from click.testing import CliRunner
from ruamel.yaml import YAML

from routerd.cli.main import main
from routerd.config.compile import Compilation, load_policy
from routerd.config.diagnostics import Severity
from routerd.config.durations import format_duration, parse_duration
from routerd.config.secrets import Secret, SecretError
from routerd.config.settings import Address, AuditSettings
from routerd.config.sizes import Size, StorageLimits
from routerd.endpoints.registry import lookup_type
from routerd.oci.reference import Reference
from routerd.routing.policy import Action, Caller, Fallback

Compile = Callable[..., Compilation]
MINIMAL = "endpoints: {local: {type: storage}}\nroutes: {a/**: local}\n"


@pytest.fixture
def compiled(tmp_path: Path) -> Compile:
    def run(text: str, environment: Mapping[str, str] | None = None) -> Compilation:
        path = tmp_path / "policy.yaml"
        path.write_text(text)
        return load_policy(path, environment=environment or {}, types=lookup_type)

    return run


def codes(compilation: Compilation, severity: Severity = Severity.ERROR) -> list[str]:
    return [d.code for d in compilation.diagnostics if d.severity is severity]


def test_the_defaults_are_those_of_the_language(compiled: Compile, tmp_path: Path) -> None:
    policy = compiled(MINIMAL).policy
    assert policy is not None
    server = policy.server
    assert [str(a) for a in server.listen] == ["127.0.0.1:5000"]
    assert str(server.admin) == "127.0.0.1:5001"
    assert server.data == tmp_path / "routerd-data"
    assert (server.default_namespace, server.max_hops, server.drain) == ("docker.io", 5, 25.0)
    assert (server.name, server.forwarded_header) == (None, "X-Forwarded-For")
    assert server.audit == AuditSettings(server.data / "audit.jsonl", 30 * 86400.0)
    local = policy.endpoints["local"]
    assert local.actions == (Action.PULL, Action.PUSH)
    assert local.store_path == tmp_path / "routerd-data" / "local"


def test_every_server_key_counts(compiled: Compile) -> None:
    policy = compiled(
        "server: {listen: ['127.0.0.1:${PORT:-7000}', '[::1]:7001'], admin: null, data: /d, name: m-1, "
        "default_namespace: GHCR.io:443, trusted_proxies: [10.0.0.0/8, 'fd00::/8'], "
        "forwarded_header: X-Real-IP, max_hops: 2, drain: 1m, workers: 1, "
        "log: {format: json, level: debug}, audit: {file: trail/a.log, keep: never}}\n"
        "endpoints: {s: {type: storage}}\nroutes: {a/b: s}\n"
    ).policy
    assert policy is not None
    server = policy.server
    assert server.listen == (Address("127.0.0.1", 7000), Address("::1", 7001))
    assert (server.admin, server.data, server.name) == (None, Path("/d"), "m-1")
    assert (server.default_namespace, server.max_hops, server.drain) == ("ghcr.io", 2, 60.0)
    assert [str(n) for n in server.trusted_proxies] == ["10.0.0.0/8", "fd00::/8"]
    assert (server.log.format, server.log.level) == ("json", "debug")
    assert server.audit == AuditSettings(Path("/d/trail/a.log"), math.inf)
    found = policy.table.decide(
        Reference.parse("ghcr.io/a/b:1"), Action.PULL, Caller(ip_address("192.0.2.1"))
    )
    assert [step.endpoint for step in found.steps] == ["s"]


def test_a_remote_has_its_options(compiled: Compile, tmp_path: Path) -> None:
    shutil.copy(certifi.where(), tmp_path / "ca.pem")
    (tmp_path / "token").write_text("from-file\n")
    policy = compiled(
        "endpoints:\n"
        "  hub: {type: remote, url: 'https://registry-1.docker.io', cache: s}\n"
        "  prod:\n"
        "    type: remote\n"
        "    url: https://${HOST}/base/v2/team\n"
        "    auth: {type: bearer, token_file: token}\n"
        "    token_realms: [auth.example]\n"
        "    tls: {ca: ca.pem, insecure: true}\n"
        "    timeouts: {connect: 1s, stall: never}\n"
        "    cache: {store: s, ttl: 1m, stale_if_error: never}\n"
        "    actions: [pull, push]\n"
        "  s: {type: storage, actions: [pull]}\n"
        "routes: {'library/*': hub, 'a/**': {endpoints: [prod], strip: a/}}\n",
        {"HOST": "registry.example"},
    ).policy
    assert policy is not None
    assert policy.endpoints["hub"].options["namespace"] == "docker.io"
    [hub] = policy.endpoints["hub"].options["url"]
    assert hub["auth"] == ({"type": "anonymous"},)
    prod = policy.endpoints["prod"]
    [upstream] = prod.options["url"]
    assert upstream["url"] == "https://registry.example/base/v2/team"
    assert upstream["auth"][0]["token"].reveal() == "from-file"
    assert upstream["tls"] == {"ca": str(tmp_path / "ca.pem"), "insecure": True}
    assert prod.options["timeouts"] == {"connect": 1.0, "response": 30.0, "stall": math.inf}
    assert prod.cache_store == "s"
    decision = policy.table.decide(
        Reference.parse("a/b:1"), Action.PULL, Caller(ip_address("192.0.2.1"))
    )
    [step] = decision.steps
    assert str(step.repository) == "docker.io/b"
    assert (step.cache.ttl.value, step.cache.stale_if_error.value) == (60.0, math.inf)


@pytest.mark.parametrize(
    "text",
    [
        "access: {}",
        "block: []",
        "private: []",
        "tests: []",
        "include: []",
        "server: {public_url: https://x}",
        "server: {hosts: {}}",
        "server: {tls: {}}",
        "server: {limits: {}}",
    ],
)
def test_a_key_that_is_not_built_is_refused_and_not_ignored(compiled: Compile, text: str) -> None:
    assert codes(compiled(MINIMAL + text + "\n")) == ["not-supported"]


@pytest.mark.parametrize(
    "key",
    [
        "redirect_hosts: [x]",
        "proxy: http://p",
        "limits: {}",
        "forward_client_address: true",
        "transport_encoding: true",
        "namespace: '*'",
        "auth: {type: docker-config}",
        "auth: {type: helper}",
        "auth: [{type: helper}]",
        "tls: {certificate: x}",
    ],
)
def test_an_endpoint_key_that_is_not_built_is_refused(compiled: Compile, key: str) -> None:
    text = (
        f"endpoints:\n  r: {{type: remote, url: 'https://r.example', {key}}}\n"
        "  s: {type: storage}\nroutes: {'a/**': r, 'b/**': s}\n"
    )
    assert codes(compiled(text)) == ["not-supported"]


@pytest.mark.parametrize(
    "text",
    [
        "endpoints: {s: {type: storage, path: /x}}\nroutes: {a/b: s}",
        "endpoints: {s: {type: storage}, l: {type: layout, path: x}}\nroutes: {a/b: s}",
        "endpoints: {s: {type: storage}}\nroutes: {a/b: {endpoints: s, on_miss: redirect}}",
        "endpoints: {s: {type: storage}}\nroutes: {a/b: {endpoints: s, allow: {pull: ['user:a']}}}",
        "endpoints: {s: {type: storage}}\nroutes: {a/b: {endpoints: s, allow: {pull: [authenticated]}}}",
    ],
)
def test_a_value_that_is_not_built_is_refused(compiled: Compile, text: str) -> None:
    assert "not-supported" in codes(compiled(text))


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("endpoints: {S: {type: storage}}\nroutes: {a/b: S}", "bad-value"),
        ("endpoints: {s: {type: stroage}}\nroutes: {a/b: s}", "bad-value"),
        ("endpoints: {s: storage}\nroutes: {a/b: s}", "wrong-type"),
        ("endpoints: {s: {type: storage}}", "bad-value"),
        ("endpoints: {r: {type: remote}}\nroutes: {a/b: r}", "bad-value"),
        ("endpoints: {r: {type: remote, url: 'ftp://x'}}\nroutes: {a/b: r}", "bad-value"),
        ("endpoints: {r: {type: remote, url: 'https://u:p@x'}}\nroutes: {a/b: r}", "bad-value"),
        (
            "endpoints: {r: {type: remote, url: 'https://x', auth: {type: basic, username: 12, "
            "password: p}}}\nroutes: {a/b: r}",
            "wrong-type",
        ),
        (
            "endpoints: {r: {type: remote, url: 'https://x', auth: {type: basic, username: u}}}\n"
            "routes: {a/b: r}",
            "missing-secret",
        ),
        ("endpoints: {r: {type: remote, url: '${NOPE}'}}\nroutes: {a/b: r}", "missing-secret"),
        ("endpoints: {s: {type: storage}}\nroutes: {'a**': s}", "bad-pattern"),
        ("endpoints: {s: {type: storage}}\nroutes: {nginx: s, library/nginx: s}", "duplicate-key"),
        ("endpoints: {s: {type: storage}}\nroutes: {a/b: [s, t]}", "unknown-endpoint"),
        (
            "endpoints: {s: {type: storage}, t: {type: storage}}\nroutes: {a/b: [s, t]}",
            "ambiguous-push-target",
        ),
        (
            "endpoints: {s: {type: storage}, t: {type: storage}}\nroutes: {a/b: s, 'a/b:x': t}",
            "ambiguous-push-target",
        ),
        (
            "endpoints: {r: {type: remote, url: 'https://r.example'}}\n"
            "routes: {ghcr.io/a: r, quay.io/a: r}",
            "namespace-lost",
        ),
        (
            "endpoints: {s: {type: storage}}\nroutes: {a/b: {endpoints: s, allow: {pull: [me]}}}",
            "unknown-principal",
        ),
        (
            "server: {trusted_proxies: [10.0.0.0/8]}\nendpoints: {s: {type: storage}}\n"
            "routes: {a/b: {endpoints: s, allow: {push: ['net:10.1.0.0/16']}}}",
            "forgeable-address",
        ),
        (
            "server: {trusted_proxies: [127.0.0.0/8]}\nendpoints: {s: {type: storage}}\n"
            "routes: {a/b: {endpoints: s, allow: {push: ['net:loopback']}}}",
            "forgeable-address",
        ),
        (
            "endpoints: {s: {type: storage}}\nroutes: {a/b: {endpoints: s, strip: b/}}",
            "bad-value",
        ),
        ("upstream: https://x\nendpoints: {s: {type: storage}}\nacl: {}", "unknown-key"),
        ("acl: {a/b: local}", "bad-value"),
    ],
)
def test_a_mistake_has_its_code(compiled: Compile, text: str, code: str) -> None:
    compilation = compiled(text + "\n")
    assert compilation.policy is None
    assert code in codes(compilation), [d.message for d in compilation.diagnostics]


def test_fallback_on_is_carried_to_the_steps(compiled: Compile) -> None:
    policy = compiled(
        "endpoints: {s: {type: storage}, r: {type: remote, url: 'https://r.example'}}\n"
        "routes: {a/b: {endpoints: [s, r], fallback_on: [unavailable, denied]}}\n"
    ).policy
    assert policy is not None
    [route] = policy.table.routes
    assert route.destination is not None
    assert route.destination.fallback_on == {Fallback.UNAVAILABLE, Fallback.DENIED}


def test_a_storage_has_its_limits_and_shows_them(compiled: Compile, tmp_path: Path) -> None:
    policy = compiled(
        "endpoints: {s: {type: storage}, t: {type: storage, max_size: 200GB, min_free: 5%}}\n"
        "routes: {a/b: s, c/d: t}\n"
    ).policy
    assert policy is not None
    assert policy.endpoints["s"].limits == StorageLimits()
    assert policy.endpoints["t"].limits == StorageLimits(Size("200GB"), Size("5%"))
    result = CliRunner().invoke(main, ["config", "show", str(tmp_path / "policy.yaml")])
    shown = YAML(typ="safe", pure=True).load(result.stdout)["endpoints"]
    assert shown["s"] == {"type": "storage", "min_free": "10%", "actions": ["pull", "push"]}
    assert (shown["t"]["max_size"], shown["t"]["min_free"]) == ("200GB", "5%")


@pytest.mark.parametrize(
    ("key", "code"),
    [
        ("max_size: 200", "wrong-type"),
        ("max_size: 0GB", "bad-value"),
        ("max_size: 0%", "bad-value"),
        ("max_size: 101%", "bad-value"),
        ("max_size: 1.5TB", "bad-value"),
        ("max_size: 200 GB", "bad-value"),
        ("max_size: 200gb", "bad-value"),
        ("min_free: ten", "bad-value"),
        ("min_free: 101%", "bad-value"),
        ("min_fre: 5%", "unknown-key"),
        ("cache: s", "unknown-key"),
    ],
)
def test_a_limit_that_is_none_is_refused(compiled: Compile, key: str, code: str) -> None:
    text = f"endpoints: {{s: {{type: storage, {key}}}}}\nroutes: {{a/b: s}}\n"
    assert codes(compiled(text)) == [code]


@pytest.mark.parametrize("written", ["14", "2w", "1.5d", "forever"])
def test_retain_is_a_duration(compiled: Compile, written: str) -> None:
    for endpoint, route in ((written, "1d"), ("1d", written)):
        compilation = compiled(
            "endpoints:\n  s: {type: storage}\n"
            f"  r: {{type: remote, url: 'https://r.example', cache: {{store: s, retain: {endpoint}}}}}\n"
            f"routes: {{a/b: {{endpoints: r, cache: {{retain: {route}}}}}}}\n"
        )
        assert codes(compilation)[0] in ("bad-value", "wrong-type")


def test_strict_makes_warnings_errors_and_json_says_the_same(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text("endpoints: {a: {type: storage}, b: {type: storage}}\nroutes: {x/y: a}\n")
    run = CliRunner().invoke
    assert run(main, ["config", "validate", str(path)]).exit_code == 0
    assert run(main, ["config", "validate", "--strict", str(path)]).exit_code == 1
    result = run(main, ["config", "validate", "--format", "json", str(path)])
    [said] = json.loads(result.stdout)
    assert said["accepted"] is True
    assert [(d["severity"], d["code"]) for d in said["diagnostics"]] == [
        ("warning", "unused-endpoint")
    ]


def test_wrong_usage_and_unreadable_files_leave_with_2(tmp_path: Path) -> None:
    run = CliRunner().invoke
    assert run(main, ["config", "validate"]).exit_code == 2
    assert run(main, ["config", "validate", str(tmp_path / "none.yaml")]).exit_code == 2
    assert run(main, ["explain", "a/b", "--config", str(tmp_path / "none.yaml")]).exit_code == 2
    good = tmp_path / "p.yaml"
    good.write_text(MINIMAL)
    assert run(main, ["explain", "UPPER", "--config", str(good)]).exit_code == 2
    assert run(main, ["explain", "a/b", "--client", "x", "--config", str(good)]).exit_code == 2
    assert run(main, ["explain", "a/b", "--config", str(good)]).exit_code == 0
    assert run(main, ["explain", "b/c", "--config", str(good)]).exit_code == 1


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_file_that_cannot_be_read_does_not_keep_the_others_waiting(
    tmp_path: Path, form: str
) -> None:
    good, bad = tmp_path / "good.yaml", tmp_path / "bad.yaml"
    good.write_text(MINIMAL)
    bad.write_text("{}")
    files = [str(good), str(tmp_path / "none.yaml"), str(bad)]
    result = CliRunner().invoke(main, ["config", "validate", "--format", form, *files])
    assert result.exit_code == 2
    assert "none.yaml" in result.stderr
    if form == "json":
        said = json.loads(result.stdout)
        assert [(one["file"], one["accepted"]) for one in said] == [
            (file, file == str(good)) for file in files
        ]
        assert "none.yaml" in said[1]["unreadable"]
    else:
        assert "good.yaml: accepted" in result.stdout
        assert "bad.yaml: refused" in result.stdout


def test_show_fills_in_what_the_policy_does_not_say(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(
        "endpoints:\n  s: {type: storage}\n"
        "  r: {type: remote, url: 'https://r.example', cache: s}\n"
        "  q: {type: remote, url: 'https://q.example', cache: {store: s, ttl: 5m}}\n"
        "routes: {a/b: r, c/d: q}\n"
    )
    result = CliRunner().invoke(main, ["config", "show", str(path)])
    shown = YAML(typ="safe", pure=True).load(result.stdout)
    assert shown["server"]["workers"] == 1
    trail = tmp_path / "routerd-data" / "audit.jsonl"
    assert shown["server"]["audit"] == {"file": str(trail), "keep": "30d"}
    assert shown["access"]["default"] == {
        "pull": ["anonymous"],
        "push": ["net:loopback"],
        "delete": ["net:loopback"],
    }
    caches = [shown["endpoints"][name]["cache"] for name in ("r", "q")]
    filled = {
        "store": "s",
        "stale_while_revalidate": "0s",
        "stale_if_error": "14d",
        "stale_if_gone": "1d",
        "negative_ttl": "10s",
        "recheck": "30s",
        "retain": "14d",
        "immutable_tags": [],
        "prefetch": "none",
    }
    assert caches == [{**filled, "ttl": "upstream's"}, {**filled, "ttl": "5m"}]


@pytest.mark.parametrize(("client", "status"), [("127.0.0.1", 0), ("192.0.2.1", 1)])
def test_explain_speaks_of_deletes_too(tmp_path: Path, client: str, status: int) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(
        "endpoints: {local: {type: storage, actions: [pull, push, delete]}}\n"
        "routes: {a/**: local}\n"
    )
    words = ["explain", "a/b:1", "--action", "delete", "--client", client, "--config", str(path)]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == status
    assert result.stdout.startswith("docker.io/a/b:1  delete  anonymous from " + client)
    assert ("refused" in result.stdout.splitlines()[1]) is bool(status)


def test_explain_refuses_a_delete_where_the_endpoint_has_none(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(MINIMAL)
    words = ["explain", "a/b:1", "--action", "delete", "--config", str(path)]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 1
    assert "405" in result.stdout.splitlines()[1]


def test_show_prints_the_policy_in_effect_without_its_secrets(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(
        "endpoints:\n  r: {type: remote, url: 'https://r.example', "
        "auth: {type: basic, username: u, password: hunter2}}\nroutes: {a/b: r}\n"
    )
    result = CliRunner().invoke(main, ["config", "show", str(path)])
    assert "hunter2" not in result.output
    assert "password: '***'" in result.stdout
    assert "stall: 1m" in result.stdout


def test_a_secret_prints_as_stars_and_a_rotated_file_counts(tmp_path: Path) -> None:
    secret = Secret("auth.password", value="hunter2")
    assert f"{secret} {secret!r}" == "*** ***"
    with pytest.raises(TypeError):
        pickle.dumps(secret)
    file = tmp_path / "secret"
    file.write_text("one\n")
    rotated = Secret("auth.token", file=file)
    assert rotated.reveal() == "one"
    file.write_text("two")
    assert rotated.reveal() == "two"
    file.unlink()
    with pytest.raises(SecretError, match=r"auth\.token"):
        rotated.reveal()


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("15m", 900), ("12h", 43200), ("14d", 1209600), ("0s", 0)]
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds
    assert parse_duration(format_duration(seconds)) == seconds


@pytest.mark.parametrize("text", ["", "5", "1.5h", "-1s", "1w", "s", "9999999999s"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="not a duration"):
        parse_duration(text)


def test_ten_thousand_routes_load_in_seconds(compiled: Compile) -> None:
    lines = [f"  team-{n}/app{m}: s\n" for n in range(2500) for m in ("", "/**", ":v*", ":latest")]
    compilation = compiled("endpoints: {s: {type: storage}}\nroutes:\n" + "".join(lines))
    assert compilation.policy is not None  # a check that is quadratic would run into the timeout
