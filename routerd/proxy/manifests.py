"""The manifests of a remote endpoint, seen through its cache.

Owns when upstream is asked about a manifest, that one question serves every client that waits for
its answer, and what is written down of an answer. Does not own how fresh an entry is
(`freshness.py`) or where the bytes are kept.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import structlog
from cachetools import LRUCache

from routerd.content.errors import StoreFull
from routerd.content.links import LinkKind, Scope, TagEntry
from routerd.content.store import ContentStore
from routerd.endpoints.base import Endpoint, EndpointError, Fetched
from routerd.oci.errors import Code
from routerd.oci.manifest import Manifest
from routerd.oci.reference import Digest, Reference, Tag
from routerd.proxy.answers import Request, Result
from routerd.proxy.freshness import Freshness, Standing, Verdict, assess, lifetime_of
from routerd.routing.policy import CachePolicy, Fallback
from routerd.runtime.flight import SingleFlight
from routerd.runtime.tasks import Tasks

log = structlog.get_logger("routerd.cache")

MANIFESTS_IN_MEMORY = 32 * 1024 * 1024  # bytes of manifest bodies kept parsed, an endpoint
MISSING_DIGEST_SECONDS = 2.0  # how long a 404 for a digest is believed (config-language.md 4)

_AT_ONCE = {
    Verdict.FRESH: Result.HIT,
    Verdict.BEHIND: Result.REVALIDATING,
    Verdict.STALE: Result.STALE,
    Verdict.GONE: Result.GONE,
}


@dataclass(frozen=True, slots=True)
class Served:
    """A manifest and how it was had; `ttl` as in `Source`."""

    manifest: Manifest
    result: Result
    ttl: float | None = None


@dataclass(frozen=True, slots=True)
class Wanted:
    """A manifest that is asked for: its scope, its name at the endpoint, by which policy, for whom.

    `refresh`: an operator says that upstream is right, also about an immutable tag.
    """

    scope: Scope
    reference: Reference
    policy: CachePolicy
    request: Request
    refresh: bool = False

    @property
    def key(self) -> tuple[Scope, str, bool]:
        """Who has the same key waits for the same answer."""
        return self.scope, self.reference.in_path, self.refresh


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What upstream's answer about a manifest came to, for every client that waited for it."""

    manifest: Manifest
    result: Result
    cache_control: str


class CachedManifests:
    """Manifests by tag while they are fresh, by digest for ever, without asking upstream."""

    def __init__(
        self,
        endpoint: Endpoint,
        store: ContentStore,
        tasks: Tasks,
        clock: Callable[[], float],
        standing: Standing,
    ) -> None:
        self._endpoint = endpoint
        self._store = store
        self._tasks = tasks
        self._clock = clock
        self._standing = standing
        self._flights: SingleFlight[tuple[Scope, str, bool], _Outcome] = SingleFlight(tasks)
        self._parsed: LRUCache[tuple[Digest, str], Manifest] = LRUCache(
            MANIFESTS_IN_MEMORY, getsizeof=lambda manifest: len(manifest.body)
        )

    async def get(self, wanted: Wanted) -> Served:
        """The manifest that a tag or digest names. Raises EndpointError."""
        if wanted.reference.tag is not None:
            return await self._tagged(wanted, wanted.reference.tag)
        assert wanted.reference.digest is not None
        stored = await self._stored(wanted.scope, wanted.reference.digest)
        if stored is not None:
            return Served(stored, Result.HIT)
        await self._refuse_missing(wanted, MISSING_DIGEST_SECONDS)
        outcome = await self._ask_once(wanted, None)
        return Served(outcome.manifest, outcome.result)

    async def refresh(self, wanted: Wanted) -> Served:
        """Ask upstream now, however fresh the entry is. Raises EndpointError; what is stored then
        stays as it was.
        """
        tag = wanted.reference.tag
        entry = None if tag is None else await self._store.index.tag(wanted.scope, tag)
        return await self._ask(replace(wanted, refresh=True), entry)

    async def _tagged(self, wanted: Wanted, tag: Tag) -> Served:
        entry = await self._store.index.tag(wanted.scope, tag)
        stored = None if entry is None else await self._stored(wanted.scope, entry.digest)
        if entry is None or stored is None:
            await self._refuse_missing(wanted, wanted.policy.negative_ttl.value)
            return await self._ask(wanted, entry)
        freshness = self._assess(wanted, entry, tag)
        if freshness.verdict is Verdict.FAILED:
            raise self._failed_before(wanted)
        if freshness.verdict is Verdict.ASK:
            return await self._ask_or_stale(wanted, entry, stored, freshness)
        if freshness.verdict is Verdict.BEHIND:
            self._ask_behind(wanted, entry)
        return Served(stored, _AT_ONCE[freshness.verdict], freshness.left)

    def _assess(self, wanted: Wanted, entry: TagEntry, tag: Tag) -> Freshness:
        return assess(entry, tag, wanted.policy, self._clock(), self._standing)

    async def _ask(self, wanted: Wanted, entry: TagEntry | None) -> Served:
        outcome = await self._ask_once(wanted, entry)
        lifetime = lifetime_of(outcome.cache_control, wanted.policy)
        return Served(outcome.manifest, outcome.result, lifetime)

    async def _ask_or_stale(
        self, wanted: Wanted, entry: TagEntry, stored: Manifest, freshness: Freshness
    ) -> Served:
        try:
            return await self._ask(wanted, entry)
        except EndpointError as error:
            if error.reason is Fallback.UNAVAILABLE and freshness.usable_on_error:
                result = Result.STALE
            elif error.reason is Fallback.NOT_FOUND and freshness.usable_when_gone:
                result = Result.GONE
            else:
                raise
            log.warning("serving a stale tag", reference=str(wanted.reference), why=error.message)
            return Served(stored, result, freshness.left)

    def _ask_behind(self, wanted: Wanted, entry: TagEntry) -> None:
        async def ask() -> None:
            try:
                await self._ask_once(wanted, entry)
            except EndpointError as error:
                log.warning("a check failed", reference=str(wanted.reference), why=error.message)

        if not self._flights.is_running(wanted.key):
            self._tasks.spawn(f"revalidate {wanted.reference}", ask())

    async def _ask_once(self, wanted: Wanted, entry: TagEntry | None) -> _Outcome:
        """Ask upstream, once for all who wait at whichever process, and write down what it said."""

        async def ask() -> _Outcome:
            async with self._store.question(f"{wanted.scope} {wanted.reference.in_path}") as others:
                # Also who did not wait: another may have had its answer a moment ago.
                if (told := await self._told(wanted, entry)) is not None:
                    return told
                if not others:
                    return await ask_upstream()
            # Upstream did not answer whoever asked. All who waited ask at once: one after the other
            # each would wait for its own timeout and for those of all before it.
            return await ask_upstream()

        async def ask_upstream() -> _Outcome:
            try:
                found = None if entry is None else await self._revalidate(wanted, entry)
                if isinstance(found, _Outcome):
                    return found
                fetched = found or await self._endpoint.manifest(
                    wanted.reference, wanted.request.via
                )
            except EndpointError as error:
                await self._note_failure(wanted, entry, error.reason)
                raise
            self._refuse_change(wanted, entry, fetched.manifest)
            result = await self._keep(wanted, fetched)
            return _Outcome(fetched.manifest, result, fetched.cache_control)

        return await self._flights.do(wanted.key, ask)

    async def _told(self, wanted: Wanted, entry: TagEntry | None) -> _Outcome | None:
        """What another process was told since this one looked at the index; None: nothing that would
        answer it. Raises EndpointError for a failure.
        """
        tag, digest = wanted.reference.tag, wanted.reference.digest
        if wanted.refresh:
            return None  # an operator wants it asked now
        now = None if tag is None else await self._store.index.tag(wanted.scope, tag)
        digest = digest if now is None else now.digest
        stored = None if digest is None else await self._stored(wanted.scope, digest)
        if now is None:
            if stored is not None:
                return _Outcome(stored, Result.COLLAPSED, "")
            seconds = MISSING_DIGEST_SECONDS if tag is None else wanted.policy.negative_ttl.value
            await self._refuse_missing(wanted, seconds)
        elif stored is not None and (entry is None or now.validated_at != entry.validated_at):
            return _Outcome(stored, Result.COLLAPSED, now.cache_control)
        elif entry is not None and now.gone_at != entry.gone_at:
            raise self._missing_before(wanted)
        elif entry is not None and now.checked_at != entry.checked_at:
            raise self._failed_before(wanted)
        return None

    async def _revalidate(self, wanted: Wanted, entry: TagEntry) -> _Outcome | Fetched | None:
        """HEAD, which Docker Hub does not count. Where the tag is another manifest now: that, if
        asking took a GET, else None.
        """
        stored = await self._stored(wanted.scope, entry.digest)
        if stored is None:
            return None
        resolved = await self._endpoint.resolve(wanted.reference, wanted.request.via, entry.etag)
        if resolved.descriptor is not None and resolved.descriptor.digest != entry.digest:
            return resolved.fetched
        renewed = TagEntry(
            entry.digest, self._clock(), resolved.cache_control, resolved.etag or entry.etag
        )
        await self._write_down(wanted, renewed)
        return _Outcome(stored, Result.REVALIDATED, resolved.cache_control)

    async def _keep(self, wanted: Wanted, fetched: Fetched) -> Result:
        """Store a manifest, then its tag: never a tag whose manifest is not there."""
        try:
            await self._store.add_manifest(
                wanted.scope,
                fetched.manifest,
                tag=wanted.reference.tag,
                validated_at=self._clock(),
                cache_control=fetched.cache_control,
                etag=fetched.etag,
            )
        except StoreFull as error:
            log.error("manifest not kept", reference=str(wanted.reference), why=error.message)
            return Result.BYPASS
        return Result.MISS

    async def _note_failure(self, wanted: Wanted, entry: TagEntry | None, reason: Fallback) -> None:
        """A 404 is remembered, and a check that failed is not repeated within `recheck`."""
        now = self._clock()
        is_gone = reason is Fallback.NOT_FOUND
        tag = wanted.reference.tag
        if entry is None or tag is None:
            if is_gone:
                await self._note_missing(wanted)
        elif is_gone and not self._assess(wanted, entry, tag).usable_when_gone:
            await self._store.index.delete_tag(wanted.scope, tag)
            await self._note_missing(wanted)
        elif reason is not Fallback.DENIED:
            gone_at = now if is_gone and entry.gone_at is None else entry.gone_at
            await self._write_down(wanted, replace(entry, checked_at=now, gone_at=gone_at))

    async def _write_down(self, wanted: Wanted, entry: TagEntry) -> None:
        assert wanted.reference.tag is not None
        try:
            await self._store.index.checked(wanted.scope, wanted.reference.tag, entry)
        except StoreFull as error:
            # It is served all the same, and asked for again the next time.
            log.error("check not written down", reference=str(wanted.reference), why=error.message)

    def _refuse_change(self, wanted: Wanted, entry: TagEntry | None, found: Manifest) -> None:
        """config-language.md 4, `immutable_tags`: another digest is refused until `refresh`."""
        tag, digest = wanted.reference.tag, found.descriptor.digest
        if entry is None or tag is None or digest == entry.digest:
            return
        if wanted.refresh or not wanted.policy.is_immutable(tag):
            return
        message = (
            f"{wanted.reference} is immutable by policy and was {entry.digest}; "
            f"{self._endpoint.name} now says {digest}"
        )
        log.error("an immutable tag was changed upstream", why=message)
        raise EndpointError(Fallback.UNAVAILABLE, Code.UNAVAILABLE, message, status=502)

    async def _note_missing(self, wanted: Wanted) -> None:
        try:
            await self._store.index.note_negative(wanted.scope, wanted.reference.in_path)
        except StoreFull as error:
            log.error("404 not written down", reference=str(wanted.reference), why=error.message)

    async def _refuse_missing(self, wanted: Wanted, seconds: float) -> None:
        """In the index, not in memory: what one process was told counts for all."""
        answered_at = await self._store.index.negative(wanted.scope, wanted.reference.in_path)
        if answered_at is not None and 0 <= self._clock() - answered_at < seconds:
            raise self._missing_before(wanted)

    def _missing_before(self, wanted: Wanted) -> EndpointError:
        message = f"{self._endpoint.name} had no {wanted.reference} a moment ago"
        return EndpointError(Fallback.NOT_FOUND, Code.MANIFEST_UNKNOWN, message)

    def _failed_before(self, wanted: Wanted) -> EndpointError:
        return EndpointError(
            Fallback.UNAVAILABLE,
            Code.UNAVAILABLE,
            f"{self._endpoint.name} did not answer a moment ago, and what is stored of "
            f"{wanted.reference} is too old to be served",
            headers={"Retry-After": str(max(1, int(wanted.policy.recheck.value)))},
        )

    async def _stored(self, scope: Scope, digest: Digest) -> Manifest | None:
        link = await self._store.index.link(scope, digest, LinkKind.MANIFEST)
        if link is None:
            return None
        key = (digest, link.media_type)
        manifest = self._parsed.get(key)
        if manifest is None:
            manifest = await self._store.manifest(scope, digest)
            if manifest is not None:
                self._parsed[key] = manifest
        return manifest
