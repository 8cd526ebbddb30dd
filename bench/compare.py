"""routerd beside Debian's docker-registry in proxy mode: the same upstream, the same run, in pairs.

Prints one table and leaves with 1 when a ratio that the project promises is missed. Medians of
loopback measurements move by 20 to 30 % between runs, so only numbers of one run are compared.
Run by `make bench`, which puts tests/support on the path; needs docker-registry and wrk.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from lab.client import MANIFEST_TYPE, Client, sha256
from lab.process import run
from lab.registry import Registry
from lab.routerd import Routerd

HERE = Path(__file__).parent
POLICY = """
server: {{listen: "@LISTEN@", admin: null, data: "@DATA@"}}
endpoints:
  hub:
    type: remote
    url: {upstream}
    namespace: docker.io
    cache: {{store: local, ttl: 1h}}
  local: {{type: storage, actions: [pull]}}
routes:
  "**": hub
"""

REPOSITORY = "bench/app"
BLOB_BYTES = 200_000_000
WARM_CLIENTS = 8
CROWD = 50
SMALL_CONNECTIONS = 16
WRK_SECONDS = 4
ROUNDS = 3
IDLE_POLL_SECONDS = 0.1
IDLE_POLLS = 5  # in a row without any work
IDLE_POLLS_LIMIT = 300
SCRATCH = b"\x5a" * 1_000_000
CROWD_ROUNDS = 2
MEMORY_LIMIT_MB = 150.0


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two that are compared. `pid` is the process whose memory counts."""

    name: str
    port: int
    pid: int

    def peak_memory_mb(self) -> float:
        """The most that it had resident since `forget_peak`, in MB."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        found = re.search(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE)
        assert found is not None, status
        return int(found[1]) * 1024 / 1e6

    def cpu_ticks(self) -> int:
        """The processor time that it has used, in clock ticks (proc(5), stat)."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])

    def forget_peak(self) -> None:
        """Start the measurement of the peak anew (proc(5), clear_refs)."""
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table. `needed` is None where a number is shown but nothing promised."""

    work: str
    unit: str
    ours: float
    theirs: float
    needed: str
    reached: bool

    def markdown(self) -> str:
        """The line; a ratio above 1 is better except for memory and upstream requests."""
        ratio = self.ours / self.theirs if self.theirs else float("inf")
        mark = "" if self.reached else " **missed**"
        return (
            f"| {self.work} | {self.ours:,.0f} | {self.theirs:,.0f} | {self.unit} "
            f"| {ratio:.2f} | {self.needed}{mark} |"
        )


def at_least(work: str, unit: str, pair: tuple[float, float], ratio: float | None) -> Row:
    """A row where more is better; `ratio` must be reached, None where nothing is promised."""
    ours, theirs = pair
    needed = "" if ratio is None else f"at least {ratio:g} times"
    return Row(work, unit, ours, theirs, needed, ratio is None or ours >= ratio * theirs)


def in_pairs(
    sides: tuple[Side, Side], rounds: int, measure: Callable[[Side, int], float]
) -> tuple[float, float]:
    """The medians of `measure(side, round)`: ours, theirs, ours, theirs, ..."""
    values: tuple[list[float], list[float]] = ([], [])
    for number in range(rounds):
        for side, kept in zip(sides, values, strict=True):
            kept.append(measure(side, number))
    return statistics.median(values[0]), statistics.median(values[1])


def requests_per_second(side: Side, reference: str) -> float:
    """What wrk gets out of one manifest; every answer must be a 200."""
    printed = run(
        [
            "wrk",
            "-t1",
            f"-c{SMALL_CONNECTIONS}",
            f"-d{WRK_SECONDS}s",
            "--timeout=10s",
            f"-HAccept: {MANIFEST_TYPE}",
            f"http://127.0.0.1:{side.port}/v2/{REPOSITORY}/manifests/{reference}",
        ]
    )
    failed = re.search(r"Non-2xx or 3xx responses: \d+|Socket errors: .*", printed)
    if failed:
        raise SystemExit(f"{side.name}: {failed[0]}")
    found = re.search(r"Requests/sec:\s+([0-9.]+)", printed)
    assert found is not None, printed
    return float(found[1])


def blob_mb_per_second(side: Side, digest: str, clients: int, size: int = BLOB_BYTES) -> float:
    """MB a second that all clients together received of one blob, sizes checked."""
    path = f"/v2/{REPOSITORY}/blobs/{digest}"
    load = HERE / "load.py"
    printed = run(
        [sys.executable, load, str(side.port), path, str(clients), str(size)], seconds=120
    )
    seconds = float(printed)
    return clients * size / seconds / 1e6


def back_memory(directory: Path) -> None:
    """Write and remove a file as large as what is measured next writes.

    On a virtual machine, memory that was idle for some seconds goes back to its host, and touching
    it anew costs ten times what writing to a file does: that, and not the servers, would be what a
    cold download measures.
    """
    scratch = directory / "scratch"
    with scratch.open("wb") as file:
        for _ in range(3 * BLOB_BYTES // len(SCRATCH)):
            file.write(SCRATCH)
    scratch.unlink()
    os.sync()  # what the other side wrote is not to be flushed meanwhile


def wait_until_idle(sides: Sequence[Side]) -> None:
    """What was measured last may still be at work: the peer's client has everything long before its
    cache has, since the two are separate downloads there.
    """
    quiet = 0
    ticks = -1
    for _ in range(IDLE_POLLS_LIMIT):
        now = sum(side.cpu_ticks() for side in sides)
        quiet = quiet + 1 if now == ticks else 0
        ticks = now
        if quiet >= IDLE_POLLS:
            return
        time.sleep(IDLE_POLL_SECONDS)
    raise SystemExit("the sides do not come to rest")


class Comparison:
    """The upstream with what is measured on it, and the two sides before it."""

    def __init__(self, directory: Path, closing: ExitStack) -> None:
        self._directory = directory
        self.upstream = Registry("upstream", directory)
        closing.callback(self.upstream.stop)
        theirs = Registry("peer", directory, proxy_of=self.upstream.url)
        closing.callback(theirs.stop)
        ours = Routerd(directory, POLICY.format(upstream=self.upstream.url))
        closing.callback(ours.kill)
        self.sides = (
            Side("routerd", ours.port, ours.process.pid),
            Side("docker-registry", theirs.port, theirs.process.pid),
        )
        self._client = Client(self.upstream.port)

    def new_blob(self) -> str:
        """The digest of a blob that upstream has and neither side has seen."""
        return self._client.push_blob(REPOSITORY, os.urandom(BLOB_BYTES))

    def manifests(self) -> list[Row]:
        """A small image, warm on both sides, by tag and by digest."""
        digest = self._client.push_image(REPOSITORY, "1", b"layer")
        for side in self.sides:
            warm = Client(side.port).request(
                "GET", f"/v2/{REPOSITORY}/manifests/1", Accept=MANIFEST_TYPE
            )
            assert sha256(warm.body) == digest, (side.name, warm)
        by_tag = in_pairs(self.sides, ROUNDS, lambda side, _: requests_per_second(side, "1"))
        by_digest = in_pairs(self.sides, ROUNDS, lambda side, _: requests_per_second(side, digest))
        return [
            at_least("manifest by tag, cached", "requests/s", by_tag, 4.0),
            at_least("manifest by digest, cached", "requests/s", by_digest, None),
        ]

    def one_client(self) -> list[Row]:
        """Cold with one client; then the same blob, cached, with several."""
        blobs = [self.new_blob() for _ in range(ROUNDS)]
        os.sync()

        def cold_one(side: Side, number: int) -> float:
            wait_until_idle(self.sides)
            back_memory(self._directory)
            return blob_mb_per_second(side, blobs[number], clients=1)

        cold = in_pairs(self.sides, ROUNDS, cold_one)
        for side in self.sides:
            answer = Client(side.port).request("GET", f"/v2/{REPOSITORY}/blobs/{blobs[0]}")
            assert sha256(answer.body) == blobs[0], side.name
        os.sync()
        warm = in_pairs(
            self.sides, ROUNDS, lambda side, _: blob_mb_per_second(side, blobs[0], WARM_CLIENTS)
        )
        return [
            at_least(f"blob of 200 MB, cached, {WARM_CLIENTS} clients", "MB/s", warm, 0.8),
            at_least("blob of 200 MB, cold, 1 client", "MB/s", cold, 0.8),
        ]

    def crowd(self) -> list[Row]:
        """Cold with many clients at once, and how often upstream was asked for the blob."""
        blobs = [self.new_blob() for _ in range(CROWD_ROUNDS)]
        os.sync()
        asked: dict[str, list[int]] = {side.name: [] for side in self.sides}

        def measure(side: Side, number: int) -> float:
            wait_until_idle(self.sides)
            back_memory(self._directory)
            before = self._gets(blobs[number])
            speed = blob_mb_per_second(side, blobs[number], CROWD)
            asked[side.name].append(self._gets(blobs[number]) - before)
            return speed

        speed = in_pairs(self.sides, CROWD_ROUNDS, measure)
        ours, theirs = (float(max(counts)) for counts in asked.values())
        return [
            at_least(f"blob of 200 MB, cold, {CROWD} clients", "MB/s", speed, 0.8),
            Row("upstream asked for that blob", "GETs", ours, theirs, "exactly 1", ours == 1),
        ]

    def memory(self) -> Row:
        """The peaks since the sides forgot them."""
        ours, theirs = (side.peak_memory_mb() for side in self.sides)
        needed = f"below {MEMORY_LIMIT_MB:.0f} MB"
        return Row("peak memory meanwhile", "MB", ours, theirs, needed, ours < MEMORY_LIMIT_MB)

    def _gets(self, digest: str) -> int:
        return sum(
            method == "GET" and path.partition("?")[0].endswith(digest)
            for method, path, _ in self.upstream.requests()
        )


def machine() -> str:
    """What the numbers were measured on, without its name."""
    cpus = re.findall(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9
    model = cpus[0] if cpus else platform.machine()
    return (
        f"{os.cpu_count()} cores ({model}), {memory:.0f} GB, "
        f"Linux {platform.release().partition('-')[0]}, Python {platform.python_version()}"
    )


def report(rows: Sequence[Row]) -> str:
    """The table, as it stands in docs/performance.md."""
    lines = [
        f"{datetime.now(UTC):%Y-%m-%d}, {machine()}, loopback.",
        "",
        "| work | routerd | docker-registry | unit | ratio | promised |",
        "|---|---:|---:|---|---:|---|",
        *(row.markdown() for row in rows),
    ]
    return "\n".join(lines)


def main() -> int:
    """Measure, print, and compare with what is promised."""
    for program in ("docker-registry", "wrk"):
        if shutil.which(program) is None:
            print(f"missing: {program} (make bench installs it where it may)", file=sys.stderr)
            return 2
    with ExitStack() as closing:
        directory = closing.enter_context(tempfile.TemporaryDirectory(prefix="bench-"))
        comparison = Comparison(Path(directory), closing)
        for side in comparison.sides:
            side.forget_peak()
        rows = [*comparison.manifests(), *comparison.one_client(), *comparison.crowd()]
        rows.append(comparison.memory())
    print(report(rows))
    return 0 if all(row.reached for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
