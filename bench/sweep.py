"""A store of 100,000 cached blobs: how long it takes to start, and whether its sweep is noticed.

Fills a store with tiny files, starts `routerd serve` on it, then sweeps all of it in this process
while clients' work goes on beside: a coroutine that wants to run every millisecond, blobs that are
opened, tags that are looked up, blobs that are pushed. Leaves with 1 where a promise is missed.
Run by `make bench`, which puts tests/support on the path.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import resource
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import uvloop

from lab.routerd import Routerd
from routerd.content.directory import DirectoryStore
from routerd.content.links import LinkKind, Scope
from routerd.content.retention import GRACE
from routerd.content.sweep import SweepReport
from routerd.oci.reference import Digest, Tag
from routerd.runtime.tasks import Tasks
from routerd.web.worker import SWITCH_SECONDS

IMAGES = 10_000
LAYERS = 10  # of each image, of its own
BASES = 100  # images whose first layers are one
BLOBS = IMAGES * LAYERS
START_SECONDS = 2.0
STARTS = 3  # the quickest counts, since a shared machine only ever adds
PAUSE_MILLISECONDS = 50.0
DAY = 86400.0
AGE = 20 * DAY
QUIET_SECONDS = 5.0  # for which the same is measured without a sweep
KEPT = 9_500  # of the images, which somebody pulled yesterday

POLICY = """
server: {{listen: "@LISTEN@", admin: null, data: "@DATA@"}}
endpoints:
  hub: {{type: remote, url: "http://127.0.0.1:9", cache: {{store: local, retain: never}}}}
  local: {{type: storage}}
routes:
  "**": hub
"""


def scope_of(image: int) -> Scope:
    """Five images a repository."""
    return Scope("hub", f"bench/app{image // 5}")


def layers_of(image: int) -> list[bytes]:
    """Tiny ones: what a sweep does to a blob does not depend on its size."""
    own = [b"%d of %d" % (layer, image) for layer in range(1, LAYERS)]
    return [b"base %d" % (image % BASES), *own]


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def fill(path: Path) -> None:
    """What pulling all the images would have left, `AGE` ago."""
    now = time.time()
    with sqlite3.connect(path / "index.sqlite") as connection:
        for image in range(IMAGES):
            pulled_at = now - (DAY if image < KEPT else AGE)
            _add_image(connection, path, image, pulled_at)
        connection.execute("UPDATE change_counter SET value = value + 1")
    connection.close()


def _add_image(connection: sqlite3.Connection, path: Path, image: int, at: float) -> None:
    scope = scope_of(image)
    manifest = b"manifest %d" % image
    contents = [(manifest, "manifest"), *((layer, "blob") for layer in layers_of(image))]
    for data, kind in contents:
        digest = digest_of(data)
        name = digest.removeprefix("sha256:")
        file = path / "blobs" / "sha256" / name[:2] / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
        row = (digest, len(data), "stored", at)
        connection.execute("INSERT OR IGNORE INTO blob VALUES (?, ?, ?, ?)", row)
        link = (scope.endpoint, scope.repository, digest, kind, "", "", at, at)
        connection.execute("INSERT OR IGNORE INTO link VALUES (?, ?, ?, ?, ?, ?, ?, ?)", link)
    for layer in layers_of(image):
        edge = (digest_of(manifest), digest_of(layer), "blob", "", len(layer), "")
        connection.execute("INSERT INTO edge VALUES (?, ?, ?, ?, ?, ?)", edge)
    tag = (scope.endpoint, scope.repository, f"v{image}", digest_of(manifest), at, "", "")
    connection.execute("INSERT INTO tag VALUES (?, ?, ?, ?, ?, ?, ?, NULL, NULL)", tag)


@dataclass(slots=True)
class Waits:
    """How long one kind of work took, each time, in milliseconds."""

    work: str
    taken: list[float] = field(default_factory=list)

    def __str__(self) -> str:
        worst = statistics.quantiles(self.taken, n=1000)[998]
        return (
            f"{self.work}: at most {max(self.taken):.1f} ms, {worst:.1f} ms at the 99.9th "
            f"percentile, {statistics.median(self.taken):.2f} ms at the median of {len(self.taken)}"
        )


class Serving:
    """Clients' work on a store, timed for as long as it is wanted."""

    def __init__(self, store: DirectoryStore) -> None:
        self._store = store
        self._random = random.Random(1)
        self.loop = Waits("the event loop comes back")
        self.own = Waits("the same, without waiting for a processor")
        self.reads = Waits("a blob is opened")
        self.tags = Waits("a tag is looked up")
        self.pushes = Waits("a blob is pushed")

    @property
    def all(self) -> list[Waits]:
        return [self.loop, self.own, self.reads, self.tags, self.pushes]

    async def beside(self, work: Awaitable[SweepReport | None]) -> SweepReport | None:
        """The outcome of `work`, while everything is measured."""
        tasks = Tasks()
        for name, waits, act, pause in (
            ("loop", self.loop, self._tick, 0.0),
            ("reads", self.reads, self._read, 0.002),
            ("tags", self.tags, self._look_up, 0.002),
            ("pushes", self.pushes, self._push, 0.05),
        ):
            tasks.spawn(name, self._again_and_again(waits, act, pause))
        try:
            return await work
        finally:
            await tasks.aclose(grace=0)

    async def _again_and_again(
        self, waits: Waits, act: Callable[[], Awaitable[None]], pause: float
    ) -> None:
        while True:
            started = time.perf_counter()
            await act()
            waits.taken.append((time.perf_counter() - started) * 1000)
            await asyncio.sleep(pause)

    async def _tick(self) -> None:
        started, delayed = time.perf_counter(), processor_delay()
        await asyncio.sleep(0.001)
        waited = time.perf_counter() - started - (processor_delay() - delayed)
        self.own.taken.append(waited * 1000)

    async def _read(self) -> None:
        image = self._random.randrange(KEPT)
        digest = Digest.of(self._random.choice(layers_of(image)))
        handle = await self._store.open(scope_of(image), digest)
        assert handle is not None, f"a layer of image {image} is gone, which was pulled yesterday"
        await handle.aclose()

    async def _look_up(self) -> None:
        image = self._random.randrange(KEPT)
        entry = await self._store.index.tag(scope_of(image), Tag(f"v{image}"))
        assert entry is not None
        assert await self._store.index.link(scope_of(image), entry.digest, LinkKind.MANIFEST)

    async def _push(self) -> None:
        data = self._random.randbytes(1000)
        upload = await self._store.start_upload(Scope("local", "docker.io/team/app"))
        await upload.append(_once(data))
        await upload.commit(Digest.of(data), "bench")


async def _once(data: bytes) -> AsyncIterator[bytes]:
    yield data


async def _nothing() -> None:
    await asyncio.sleep(QUIET_SECONDS)


def processor_delay() -> float:
    """Seconds that this thread was ready to run and other programs ran instead (proc(5), schedstat)."""
    return int(Path("/proc/thread-self/schedstat").read_text().split()[1]) / 1e9


def memory_mb() -> float:
    """The most that this process had resident so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


async def measure_sweep(path: Path) -> bool:
    """Sweep all that is old; whether nobody had to wait for too long."""
    # Its files are new, which a sweep would respect.
    store = DirectoryStore(path, lambda: time.time() + 2 * GRACE)
    await store.start()
    quiet = Serving(store)
    await quiet.beside(_nothing())
    before = memory_mb()
    store.capacity.retain = lambda scope: 365 * DAY if scope.endpoint == "hub" else None
    started = time.perf_counter()
    report = await store.capacity.sweep()
    assert report.links == 0, report
    print(f"sweep: finding that nothing is to go: {time.perf_counter() - started:.2f} s")
    store.capacity.retain = lambda scope: 14 * DAY if scope.endpoint == "hub" else None
    serving = Serving(store)
    started = time.perf_counter()
    swept = await serving.beside(store.capacity.sweep())
    seconds = time.perf_counter() - started
    assert swept is not None
    assert swept.manifests == IMAGES - KEPT, swept
    print(
        f"sweep: {swept.manifests} images, {swept.blobs} files in {seconds:.1f} s, "
        f"with {memory_mb() - before:.0f} MB more memory at most"
    )
    for calm, busy in zip(quiet.all, serving.all, strict=True):
        print(f"sweep: {busy} (without a sweep: at most {max(calm.taken):.1f} ms)")
    await store.aclose()
    waited = max(serving.own.taken)
    print(f"sweep: serving pauses for {waited:.1f} ms at most (below {PAUSE_MILLISECONDS:g} ms)")
    return waited < PAUSE_MILLISECONDS


def measure_start(directory: Path) -> bool:
    """Start the server on the data; whether it was quick enough."""
    taken = []
    for _ in range(STARTS):
        started = time.perf_counter()
        serving = Routerd(directory, POLICY.format())
        taken.append(time.perf_counter() - started)
        serving.stop()
    seconds = min(taken)
    print(
        f"sweep: serve is ready {seconds:.2f} s after its start on {BLOBS} cached blobs "
        f"(below {START_SECONDS:g} s)"
    )
    return seconds < START_SECONDS


async def make_store(path: Path) -> None:
    """An empty one."""
    store = DirectoryStore(path)
    await store.start()
    await store.aclose()


def main() -> int:
    """Measure, print, and compare with what is promised."""
    sys.setswitchinterval(SWITCH_SECONDS)  # as the server does
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        path = Path(name) / "data" / "local"
        path.parent.mkdir(mode=0o700)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(make_store(path))
            fill(path)
            reached = measure_start(Path(name))
            reached = runner.run(measure_sweep(path)) and reached
    return int(not reached)


if __name__ == "__main__":
    sys.exit(main())
