"""`routerd cache` as a process: what it prints, how it ends, and what it says when it cannot."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.client import Client, sha256
from lab.process import environment
from lab.routerd import COMMAND, Routerd

POLICY = """
server: {listen: "@LISTEN@", admin: null, data: "@DATA@", log: {format: json, level: info}}
endpoints:
  hub: {type: remote, url: "http://127.0.0.1:1", namespace: docker.io, cache: local}
  local: {type: storage}
routes:
  team/**: local
  "**": hub
"""
LAYER = b"layer" * 1000


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Routerd]:
    """With one image pushed."""
    started = Routerd(tmp_path, POLICY)
    try:
        Client(started.port).push_image("team/app", "v1", LAYER)
        yield started
    finally:
        started.kill()


def cache(server: Routerd, *words: str, command: str = "cache") -> tuple[int, str, str]:
    """Exit status, standard output, standard error."""
    done = subprocess.run(
        [COMMAND, command, *words, "--config", server.policy],
        capture_output=True, text=True, env=environment(), timeout=60, check=False,
    )  # fmt: skip
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout, done.stderr


def test_tables_and_json_are_printed_by_a_running_server(server: Routerd) -> None:
    status, out, err = cache(server, "ls")
    header, line = out.splitlines()
    assert (status, err) == (0, "")
    assert header.split() == [
        *("ENDPOINT", "REPOSITORY", "REFERENCE", "SIZE", "PULLED", "PUSHED", "BY", "NOTE")
    ]
    assert line.split()[:5] == ["local", "docker.io/team/app", "v1", "5.3", "KiB"]
    assert line.split()[-1] == "127.0.0.1"
    status, out, _ = cache(server, "ls", "--format", "json")
    [row] = json.loads(out)
    assert (status, row["reference"], row["pushed_by"]) == (0, "v1", "127.0.0.1")
    assert json.loads(cache(server, "ls", "nothing", "--format", "json")[1]) == []
    status, out, _ = cache(server, "stat")
    assert out.startswith("local: 3 blobs, 5.3 KiB, ")
    status, _, err = cache(server, "purge", "team/app:v1")
    assert status == 1
    assert err == (
        "Error: docker.io/team/app:v1 goes to local, of which nothing is cached: what was pushed is "
        "removed with a DELETE of the registry API\n"
    )
    assert cache(server, "pin", "UPPER")[0] == 1
    assert cache(server, "verify", "--rate", "fast")[0] == 2


def test_a_refresh_says_why_it_failed(server: Routerd) -> None:
    status, out, err = cache(server, "refresh", "app:1")
    assert (status, out) == (1, "")
    assert err.startswith("hub library/app: "), err
    assert len(err.splitlines()) == 1
    status, out, err = cache(server, "refresh", "app:1", "--format", "json")
    [row] = json.loads(out)
    assert (status, err, row["after"]) == (1, "", None)
    assert row["error"]


def test_damage_is_an_exit_status_and_a_loud_line_in_the_log(server: Routerd) -> None:
    encoded = sha256(LAYER).removeprefix("sha256:")
    path = server.directory / "data" / "local" / "blobs" / "sha256" / encoded[:2] / encoded
    path.write_bytes(bytes(len(LAYER)))
    status, out, _ = cache(server, "verify")
    assert status == 1
    assert out.splitlines() == [
        f"sha256:{encoded}: its bytes are {sha256(bytes(len(LAYER)))}",
        "  seen in     local docker.io/team/app",
        "  listed by   docker.io/team/app:v1",
        "  PUSHED by   127.0.0.1: push it again, or restore it",
        f"  quarantine  000001-{encoded}",
        "local: 3 blobs, 5.3 KiB checked, 1 damaged",
    ]
    [line] = [line for line in server.log.read_text().splitlines() if "PUSHED" in line]
    said = json.loads(line)
    assert (said["level"], said["pushed_by"]) == ("error", ["127.0.0.1"])
    status, out, _ = cache(server, "verify", "--format", "json")
    assert (status, [row["kind"] for row in json.loads(out)]) == (0, ["verified"])


def test_a_rebuild_brings_a_truncated_index_back(server: Routerd) -> None:
    status, _, err = cache(server, "rebuild")
    assert (status, "stop it first" in err) == (1, True)
    assert server.stop() == 0
    index = server.directory / "data" / "local" / "index.sqlite"
    os.truncate(index, 20_000)
    for command, words in (("cache", ["ls"]), ("serve", [])):
        status, _, err = cache(server, *words, command=command)
        assert (status, "Run `routerd cache rebuild`" in err) == (1, True), err
    status, out, _ = cache(server, "rebuild")
    assert status == 0
    lines = out.splitlines()
    assert lines[0] == "local: 3 blobs, 5.3 KiB, 1 manifests, 0 damaged"
    assert lines[1] == "  the index that was there: aside/0001"
    assert "neither index nor backup" in lines[2]
    assert "3 blobs are whole, but which repository may see them is not known" in lines[3]
    assert lines[4].startswith("    an image without a name: sha256:")
    server.start()
    Client(server.port).push_image("team/app", "v1", LAYER)
    assert json.loads(cache(server, "stat", "--format", "json")[1])[0]["unlinked"] == 0


def test_an_endpoint_of_another_name_keeps_what_it_had(server: Routerd) -> None:
    status, _, err = cache(server, "rename", "local", "store")
    assert (status, "stop it first" in err) == (1, True)
    assert server.stop() == 0
    status, _, err = cache(server, "rename", "local", "store")
    assert (status, "has no endpoint 'store'" in err) == (1, True)
    server.policy.write_text(server.policy.read_text().replace("local", "store"))
    status, out, _ = cache(server, "rename", "local", "store")
    assert (status, out) == (0, "local is store now: 4 rows of the index, and its directory\n")
    status, _, err = cache(server, "rename", "local", "store")
    assert (status, err) == (1, "Error: nothing is stored of an endpoint 'local'\n")
    assert not (server.directory / "data" / "local").exists()
    server.start()
    client = Client(server.port)
    assert client.request("GET", "/v2/team/app/manifests/v1").status == 200
    assert client.request("GET", f"/v2/team/app/blobs/{sha256(LAYER)}").body == LAYER


def test_what_cannot_be_had_is_said(server: Routerd) -> None:
    data = server.directory / "data"
    assert (data / "control.sock").stat().st_mode & 0o777 == 0o600
    (data / "control.sock").rename(data / "moved.sock")
    status, _, err = cache(server, "ls")
    assert (status, "in use by another server, and nobody answers at" in err) == (1, True)
    server.kill()
    (data / "moved.sock").rename(data / "control.sock")
    assert cache(server, "ls")[0] == 0, "nobody answers, so the data is used as it lies"
    server.start()
    assert (data / "control.sock").exists(), "and the next server takes the socket's name"
    server.policy.write_text(server.policy.read_text().replace(str(data), f"{data}-other"))
    status, _, err = cache(server, "ls")
    assert (status, "there is nothing in" in err) == (1, True)
    assert not Path(f"{data}-other").exists()
