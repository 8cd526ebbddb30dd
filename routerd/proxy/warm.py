"""Warming: a whole image fetched before anybody asks for it.

Owns what belongs to an image and in which order it is fetched, and telling how far that is. Does not
own when (`warmschedule.py`), or pulling: everything goes the way of a client's pull, so that policy,
freshness, scopes and single flight are the same, but behind what clients wait for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from routerd.oci.errors import Code, RegistryError
from routerd.oci.manifest import ACCEPT_ALL, Descriptor, Manifest
from routerd.oci.platform import Platform, of_platforms
from routerd.oci.reference import Digest, Reference, Repository
from routerd.proxy.answers import Request, Result
from routerd.proxy.pull import Pull
from routerd.routing.policy import SELF
from routerd.runtime.tasks import Tasks

CONCURRENCY = 4  # blobs of one image at once; others would only share the same line
NESTING_LIMIT = 4  # indexes within indexes; real ones have one level


class Stage(StrEnum):
    """How far one piece of content is."""

    FETCHING = "fetching"
    KEPT = "kept"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class WarmEvent:
    """Something moved: `done` of `size` bytes (None: not known) of a manifest or blob are here."""

    reference: Reference
    content: str  # a digest; of the first manifest the tag, until it is known
    kind: str  # "manifest" or "blob"
    stage: Stage
    done: int = 0
    size: int | None = None
    error: str = ""


@dataclass(frozen=True, slots=True)
class Warmed:
    """What came of one image. `failed`: why some of it is not here, a sentence each."""

    reference: Reference
    digest: Digest
    manifests: int
    blobs: int
    size: int  # bytes of its blobs, however many of them were here before
    failed: tuple[str, ...] = ()


Report = Callable[[WarmEvent], None]  # must not wait


class Warm:
    """The use case of fetching ahead. The caller is the server itself."""

    def __init__(self, pull: Pull) -> None:
        self._pull = pull

    async def warm(
        self, reference: Reference, platforms: Sequence[Platform], report: Report
    ) -> Warmed:
        """Fetch the manifest, its children of these platforms (none named: all), and their blobs.

        Raises RegistryError where the manifest itself cannot be had; of what it lists, what can be
        had is fetched.
        """
        return await _Image(self._pull, reference, platforms, report).fetch()


class _Image:
    """One image being fetched."""

    def __init__(
        self, pull: Pull, reference: Reference, platforms: Sequence[Platform], report: Report
    ) -> None:
        self._pull = pull
        self._reference = reference
        self._platforms = platforms
        self._report = report
        self._request = Request(SELF)
        self._manifests: set[Digest] = set()
        self._blobs: dict[Digest, Descriptor] = {}
        self._size = 0
        self._failed: list[str] = []

    async def fetch(self) -> Warmed:
        top = await self._manifest(self._reference)
        await self._list(top, NESTING_LIMIT)
        waiting = iter(self._blobs.values())
        workers = Tasks()
        try:
            await asyncio.gather(
                *(
                    workers.spawn(f"warm {self._reference}", self._work(waiting))
                    for _ in range(CONCURRENCY)
                )
            )
        finally:
            await workers.aclose(grace=0)
        return Warmed(
            self._reference,
            top.descriptor.digest,
            len(self._manifests),
            len(self._blobs),
            self._size,
            tuple(self._failed),
        )

    async def _manifest(self, reference: Reference) -> Manifest:
        self._tell("manifest", reference.in_path, Stage.FETCHING)
        try:
            answer = await self._pull.manifest(reference, [ACCEPT_ALL], self._request)
            if answer.source.result is Result.BYPASS:
                raise RegistryError(
                    Code.UNSUPPORTED,
                    f"{answer.source.step.endpoint} kept nothing of {reference}: it has no 'cache', "
                    "or there is no space left",
                )
        except RegistryError as error:
            self._tell("manifest", reference.in_path, Stage.FAILED, error=error.message)
            raise
        found = answer.manifest
        self._manifests.add(found.descriptor.digest)
        size = found.descriptor.size
        self._tell("manifest", reference.in_path, Stage.KEPT, size, size)
        return found

    async def _list(self, manifest: Manifest, depth: int) -> None:
        """Have the children, and note the blobs of each."""
        for blob in manifest.required_blobs:
            self._blobs.setdefault(blob.digest, blob)
        children = manifest.children
        if self._platforms:
            children = of_platforms(children, self._platforms)
            if manifest.children and not children:
                wanted = ", ".join(map(str, self._platforms))
                self._failed.append(f"{self._reference} is not for {wanted}")
        for child in children:
            if child.digest in self._manifests or depth == 0:
                continue
            try:
                found = await self._manifest(Reference(self._repository, digest=child.digest))
            except RegistryError as error:
                self._failed.append(error.message)
            else:
                await self._list(found, depth - 1)

    async def _work(self, waiting: Iterator[Descriptor]) -> None:
        for blob in waiting:
            await self._blob(blob)

    async def _blob(self, blob: Descriptor) -> None:
        content = str(blob.digest)
        self._tell("blob", content, Stage.FETCHING, 0, blob.size)
        try:
            facts = await self._pull.keep(
                Reference(self._repository, digest=blob.digest),
                self._request,
                lambda done, size: self._tell(
                    "blob", content, Stage.FETCHING, done, blob.size if size is None else size
                ),
            )
        except RegistryError as error:
            self._failed.append(error.message)
            self._tell("blob", content, Stage.FAILED, 0, blob.size, error.message)
        else:
            self._size += facts.size
            self._tell("blob", content, Stage.KEPT, facts.size, facts.size)

    @property
    def _repository(self) -> Repository:
        return self._reference.repository

    def _tell(
        self,
        kind: str,
        content: str,
        stage: Stage,
        done: int = 0,
        size: int | None = None,
        error: str = "",
    ) -> None:
        self._report(WarmEvent(self._reference, content, kind, stage, done, size, error))
