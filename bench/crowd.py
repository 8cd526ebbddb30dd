"""A thousand nodes in small: 200 clients on one cold blob of 200 MB, before two workers.

Prints what the second milestone promises of them and leaves with 1 where it is missed. The peer is
Debian's docker-registry in proxy mode, both with their upstream limited to 1 Gbit/s. Run by
`make bench`, which puts tests/support on the path; needs docker-registry.
"""

from __future__ import annotations

import http.client
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import compare
from compare import BLOB_BYTES, REPOSITORY, Side

from lab.client import Client, sha256
from lab.process import free_port
from lab.registry import Registry
from lab.routerd import Routerd

CLIENTS = 200
SLOW_BYTES = 20_000_000  # of the blob that comes over 1 Gbit/s: the peer fetches it for each client
GIGABIT = 125_000_000  # bytes a second
FIRST_BYTES = 15  # blobs whose first byte is timed
FIRST_BYTE_MS = 5.0
COLD_TO_CACHED = 1.3
TO_PEER = 3.0
WORKER_MB = 100.0
POLICY = compare.POLICY.replace("admin: null", "admin: null, workers: 2")


def workers(server: Routerd) -> list[Side]:
    """The worker processes, as sides whose memory is asked for."""
    pid = server.process.pid
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [Side(f"worker {child}", server.port, int(child)) for child in children]


def resident_mb(side: Side) -> float:
    """What it has resident now, in MB."""
    pages = int(Path(f"/proc/{side.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def first_byte_ms(port: int, digest: str) -> float:
    """From the request to the first byte of the body."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("GET", "/v2/")
    connection.getresponse().read()  # the connection is there
    started = time.perf_counter()
    connection.request("GET", f"/v2/{REPOSITORY}/blobs/{digest}")
    connection.getresponse().read(1)
    taken = time.perf_counter() - started
    connection.close()
    return taken * 1000


def throttled(upstream: Registry, closing: ExitStack) -> str:
    """The URL of a way to the upstream that is 1 Gbit/s wide."""
    port = free_port()
    script = Path(__file__).with_name("throttle.py")
    process = subprocess.Popen(
        [sys.executable, script, str(port), str(upstream.port), str(GIGABIT)]
    )
    closing.callback(process.wait)
    closing.callback(process.kill)
    client = Client(port)
    for _ in range(100):
        try:
            client.request("GET", "/v2/")
        except OSError:
            time.sleep(0.05)
        else:
            return f"http://127.0.0.1:{port}"
    raise SystemExit("the throttle does not listen")


def main() -> int:
    """Measure, print, and compare with what is promised."""
    with ExitStack() as closing:
        directory = Path(closing.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        upstream = Registry("upstream", directory)
        closing.callback(upstream.stop)
        url = throttled(upstream, closing)
        (directory / "slow").mkdir()
        direct = Routerd(directory, POLICY.format(upstream=upstream.url))
        closing.callback(direct.kill)
        ours = Routerd(directory / "slow", POLICY.format(upstream=url))
        closing.callback(ours.kill)
        theirs = Registry("peer", directory, proxy_of=url)
        closing.callback(theirs.stop)
        client = Client(upstream.port)
        rows: list[tuple[str, float, str, str, bool]] = []

        blob = client.push_blob(REPOSITORY, os.urandom(BLOB_BYTES))
        side = Side("routerd", direct.port, direct.process.pid)
        idle = {worker.pid: resident_mb(worker) for worker in workers(direct)}
        for worker in workers(direct):
            worker.forget_peak()
        compare.back_memory(directory)
        cold = compare.blob_mb_per_second(side, blob, CLIENTS)
        peak = max(w.peak_memory_mb() - idle[w.pid] for w in workers(direct))
        cached = compare.blob_mb_per_second(side, blob, CLIENTS)
        gets = sum(
            m == "GET" and p.partition("?")[0].endswith(blob) for m, p, _ in upstream.requests()
        )
        whole = Client(direct.port).request("GET", f"/v2/{REPOSITORY}/blobs/{blob}")
        rows.append(("upstream asked for the blob", gets, "GETs", "1", gets == 1))
        rows.append(
            (
                "cold, times as long as cached",
                cached / cold,
                "",
                f"at most {COLD_TO_CACHED}",
                cached / cold <= COLD_TO_CACHED,
            )
        )
        rows.append(
            (
                "memory of a worker above idle",
                peak,
                "MB",
                f"at most {WORKER_MB:.0f}",
                peak <= WORKER_MB,
            )
        )
        rows.append(("digest of what is stored", 1, "right", "right", sha256(whole.body) == blob))

        small = [client.push_blob(REPOSITORY, os.urandom(2_000_000)) for _ in range(FIRST_BYTES)]
        late = statistics.median(
            first_byte_ms(direct.port, each) - first_byte_ms(upstream.port, each) for each in small
        )
        rows.append(
            (
                "first byte of a cold blob after upstream's",
                late,
                "ms",
                f"at most {FIRST_BYTE_MS:g}",
                late <= FIRST_BYTE_MS,
            )
        )

        blob = client.push_blob(REPOSITORY, os.urandom(SLOW_BYTES))
        speeds = [
            compare.blob_mb_per_second(Side(name, port, pid), blob, CLIENTS, SLOW_BYTES)
            for name, port, pid in (
                ("routerd", ours.port, ours.process.pid),
                ("docker-registry", theirs.port, theirs.process.pid),
            )
        ]
        ratio = speeds[0] / speeds[1]
        rows.append(
            (
                "upstream at 1 Gbit/s, times the peer's speed",
                ratio,
                "",
                f"at least {TO_PEER:g}",
                ratio >= TO_PEER,
            )
        )
    print(
        f"{CLIENTS} clients, 2 workers, a blob of {BLOB_BYTES // 10**6} MB; {compare.machine()}, loopback.\n"
    )
    print("| measure | value | promised |\n|---|---:|---|")
    for name, value, unit, promised, reached in rows:
        print(f"| {name} | {value:.2f} {unit} | {promised}{'' if reached else ' **missed**'} |")
    return 0 if all(row[-1] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
