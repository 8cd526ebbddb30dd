"""`routerd audit`, on what a server wrote and on what it was killed in the middle of."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from lab.routerd import COMMAND, Routerd
from routerd.cli.main import main
from routerd.proxy.audit import AuditEntry, Gap
from routerd.routing.policy import Action
from routerd.runtime.dayfiles import DayFiles, day_of
from upstream import OCI_MANIFEST, digest_of, image
from wire import Wire

POLICY = """
server: {listen: "@LISTEN@", admin: null, data: "@DATA@"}
endpoints:
  local: {type: storage, actions: [pull, push, delete]}
routes:
  "**": local
"""
NOON = datetime(2020, 3, 1, 12, tzinfo=UTC).timestamp()
DIGEST = "sha256:" + "a" * 64


@pytest.fixture
def closing() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    path = tmp_path / "policy.yaml"
    path.write_text(POLICY.replace("@LISTEN@", "127.0.0.1:5000").replace("@DATA@", str(tmp_path)))
    return path


def write(tmp_path: Path, *entries: AuditEntry | Gap) -> DayFiles:
    files = DayFiles(tmp_path / "audit.jsonl", 1.0)
    for one in entries:
        assert files.append(day_of(one.time), [one.line()]).problem is None
    return files


def pull(at: float, name: str = "app", client: str = "10.0.0.1") -> AuditEntry:
    reference = f"docker.io/library/{name}:1"
    return AuditEntry(
        at, client, "-", Action.PULL, reference, DIGEST, "docker.io/**", "local", "hit", 200, 10
    )


def run(policy: Path, *options: str) -> Result:
    return CliRunner().invoke(main, ["audit", "--config", str(policy), *options])


def test_text_is_a_table_and_json_the_lines_as_they_are(policy: Path, tmp_path: Path) -> None:
    entry = pull(NOON)
    write(tmp_path, entry, Gap(NOON + 1, 7))
    text = run(policy)
    assert text.exit_code == 0
    head, row, gap = text.stdout.splitlines()
    assert head.split() == [
        "TIME", "CLIENT", "USER", "ACTION", "STATUS", "CACHE", "BYTES", "ENDPOINT", "REFERENCE"
    ]  # fmt: skip
    assert row.split() == [
        "2020-03-01T12:00:00.000Z", "10.0.0.1", "-", "pull", "200", "hit", "10", "local",
        "docker.io/library/app:1", DIGEST,
    ]  # fmt: skip
    assert row.index("local") == head.index("ENDPOINT")
    assert "7 entries were lost" in gap
    assert run(policy, "--format", "json").stdout.encode() == entry.line() + Gap(NOON + 1, 7).line()


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ((), "abc"),
        (("--since", "2020-03-02"), "c"),
        (("--until", "2020-03-02"), "ab"),
        (("--since", "2020-03-01T12:00:01Z", "--until", "2020-03-01T13:00:02+01:00"), "b"),
        (("--since", "1h"), ""),
        (("--since", "never"), "abc"),
        (("--client", "10.0.0.2"), "b"),
        (("--client", "10.0.0.2/24"), "abc"),
        (("--repository", "library/c"), "c"),
        (("--repository", "[ab]"), "ab"),
        (("--repository", "ghcr.io/**"), ""),
        (("--action", "push"), ""),
    ],
)
def test_options_say_what_is_wanted(
    policy: Path, tmp_path: Path, options: tuple[str, ...], names: str
) -> None:
    write(
        tmp_path,
        pull(NOON, "a"),
        pull(NOON + 1, "b", "10.0.0.2"),
        pull(NOON + 86400, "c", "10.0.0.3"),
    )
    result = run(policy, "--format", "json", *options)
    assert result.exit_code == 0
    shown = [json.loads(line)["reference"] for line in result.stdout.splitlines()]
    assert shown == [f"docker.io/library/{name}:1" for name in names]


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--since", "yesterday"),
        ("--until", "2020-02-30"),
        ("--client", "10.0.0.256"),
        ("--repository", "a@b"),
        ("--repository", "a/**/**"),
        ("--repository", ""),
        ("--action", "pool"),
    ],
)
def test_a_wrong_option_is_named(policy: Path, option: str, value: str) -> None:
    result = run(policy, option, value)
    assert result.exit_code == 2
    assert option in result.stderr


def test_torn_lines_are_said_on_standard_error(policy: Path, tmp_path: Path) -> None:
    files = write(tmp_path, pull(NOON))
    with files.of(day_of(NOON)).open("ab") as file:
        file.write(b'{"time": "20')
    result = run(policy, "--format", "json")
    assert result.exit_code == 0
    assert len(result.stdout.splitlines()) == 1
    assert "audit-2020-03-01.jsonl: 1 line is no entry and left out (line 2)" in result.stderr


def test_a_trail_that_does_not_exist_is_said(policy: Path) -> None:
    result = run(policy)
    assert (result.exit_code, result.stdout) == (0, "")
    assert "nothing has been written" in result.stderr
    policy.write_text(policy.read_text().replace("admin: null", "admin: null, audit: null"))
    result = run(policy)
    assert result.exit_code == 1
    assert "'server.audit' is null" in result.stderr


def test_a_server_without_a_trail_writes_none(tmp_path: Path, closing: ExitStack) -> None:
    server = Routerd(tmp_path, POLICY.replace("admin: null", "admin: null, audit: null"))
    closing.callback(server.kill)
    asyncio.run(Wire(server.port).get("/v2/a/b/manifests/1"))
    assert server.stop() == 0
    assert not list((tmp_path / "data").glob("audit*"))


def test_a_server_whose_trail_cannot_be_written_does_not_start(
    tmp_path: Path, closing: ExitStack
) -> None:
    server = Routerd(tmp_path, POLICY)
    closing.callback(server.kill)
    assert server.stop() == 0
    text = server.policy.read_text().replace(
        "admin: null", "admin: null, audit: {file: name/x.jsonl}"
    )
    server.policy.write_text(text)
    # A process: it would set up the logging of the tests that follow.
    command = [COMMAND, "serve", "--config", server.policy]
    result = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert result.returncode == 1
    assert "audit trail" in result.stderr
    assert "server.audit" in result.stderr


async def test_what_was_written_outlives_a_kill(tmp_path: Path, closing: ExitStack) -> None:
    server = Routerd(tmp_path, POLICY)
    closing.callback(server.kill)
    wire, config = Wire(server.port), b"{}"
    await wire.send("POST", f"/v2/team/app/blobs/uploads/?digest={digest_of(config)}", config)
    manifest = image(config)
    headers = {"Content-Type": OCI_MANIFEST}
    for tag in ("1", "2"):
        reply = await wire.send("PUT", f"/v2/team/app/manifests/{tag}", manifest, headers)
        assert reply.status == 201

    def entries() -> list[dict[str, object]]:
        result = run(server.policy, "--format", "json", "--repository", "team/app")
        assert result.exit_code == 0
        return [json.loads(line) for line in result.stdout.splitlines()]

    async with asyncio.timeout(20):
        while len(entries()) < 2:
            await asyncio.sleep(0.02)
    server.kill()
    [file] = (tmp_path / "data").glob("audit-*.jsonl")
    with file.open("ab") as torn:  # as if it had been killed in the middle of a write
        torn.write(b'{"time"')
    server.start()
    assert (await wire.get("/v2/team/app/manifests/1")).status == 200
    assert server.stop() == 0
    assert [(one["action"], one["digest"]) for one in entries()] == [
        ("push", digest_of(manifest)),
        ("push", digest_of(manifest)),
        ("pull", digest_of(manifest)),
    ]
