"""A manifest's blobs fetched without waiting to be asked (config-language.md 4, `prefetch`).

Owns what is fetched of a manifest that a client pulled, in which order, and how much of it may wait.
Does not own the downloads or whose turn it is (`content/turns.py`): a client that asks for one of
them joins it, and from then on it waits behind nobody's prefetch.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field

import structlog
from cachetools import TTLCache

from routerd.oci.errors import RegistryError
from routerd.oci.manifest import ACCEPT_ALL
from routerd.oci.platform import of_platforms
from routerd.oci.reference import Digest, Reference, Repository
from routerd.proxy.answers import ManifestAnswer, Request
from routerd.proxy.pull import Pull
from routerd.routing.decision import Step
from routerd.runtime.tasks import Tasks

log = structlog.get_logger("routerd.prefetch")

QUEUE_LIMIT = 1_000  # blobs and child manifests that wait at one endpoint; more are dropped
# A fleet that pulls one image asks for its manifest a thousand times: so many manifests are not
# looked through again for so long.
RECENT_LIMIT = 10_000
RECENT_SECONDS = 60.0

Seen = tuple[str, Repository, Digest]


@dataclass(frozen=True, slots=True)
class _Job:
    """One blob or child manifest to fetch, of the manifest `of`."""

    what: Digest
    of: Seen
    work: Callable[[], Awaitable[object]]


@dataclass(slots=True)
class _Queue:
    """What waits at one endpoint, and how many work on it."""

    waiting: deque[_Job] = field(default_factory=deque)
    workers: int = 0


class Prefetcher:
    """The prefetches of one service. `follow` neither waits nor raises."""

    def __init__(
        self,
        pull: Pull,
        tasks: Tasks,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.dropped = 0  # so far, for want of room in a queue
        self._pull = pull
        self._tasks = tasks
        self._queues: dict[str, _Queue] = {}
        self._recent: TTLCache[Seen, None] = TTLCache(RECENT_LIMIT, RECENT_SECONDS, timer=clock)

    def follow(self, repository: Repository, answer: ManifestAnswer, request: Request) -> None:
        """Have fetched what the policy says of a manifest that a client has pulled from there."""
        manifest, step = answer.manifest, answer.source.step
        wanted = step.cache.prefetch.value
        seen = (step.endpoint, step.repository, manifest.descriptor.digest)
        if not wanted.layers or seen in self._recent:
            return
        self._recent[seen] = None
        queue = self._queues.setdefault(step.endpoint, _Queue())
        for job in self._jobs(repository, answer, request, seen):
            if len(queue.waiting) >= QUEUE_LIMIT:
                self._drop(job, step)
            else:
                queue.waiting.append(job)
        for _ in range(min(wanted.concurrency - queue.workers, len(queue.waiting))):
            queue.workers += 1
            self._tasks.spawn(f"prefetch {step.endpoint}", self._work(queue, step.endpoint))

    def _jobs(
        self, repository: Repository, answer: ManifestAnswer, request: Request, seen: Seen
    ) -> Iterator[_Job]:
        def child(digest: Digest) -> Callable[[], Awaitable[object]]:
            async def fetch() -> None:
                reference = Reference(repository, digest=digest)
                child = await self._pull.manifest(reference, [ACCEPT_ALL], request)
                self.follow(repository, child, request)

            return fetch

        def blob(digest: Digest) -> Callable[[], Awaitable[object]]:
            return lambda: self._pull.keep(Reference(repository, digest=digest), request, _unseen)

        platforms = answer.source.step.cache.prefetch.value.platforms
        for found in of_platforms(answer.manifest.children, platforms):
            yield _Job(found.digest, seen, child(found.digest))
        for descriptor in answer.manifest.required_blobs:
            yield _Job(descriptor.digest, seen, blob(descriptor.digest))

    async def _work(self, queue: _Queue, endpoint: str) -> None:
        try:
            while queue.waiting:
                job = queue.waiting.popleft()
                try:
                    await job.work()
                except RegistryError as error:
                    # Nobody waits for it; who does ask is told.
                    self._recent.pop(job.of, None)
                    log.debug(
                        "not prefetched", endpoint=endpoint, digest=str(job.what), why=error.message
                    )
        finally:
            queue.workers -= 1

    def _drop(self, job: _Job, step: Step) -> None:
        self.dropped += 1
        self._recent.pop(job.of, None)
        log.debug(
            "a prefetch was dropped, since too many wait",
            endpoint=step.endpoint,
            digest=str(job.what),
            waiting=QUEUE_LIMIT,
        )


def _unseen(done: int, size: int | None) -> None:
    """Nobody looks at the progress of a prefetch."""
