"""A policy come to life: its stores opened, its endpoints made, its use cases ready to be called.

Owns what is built from one policy and the order in which it is opened and closed. Does not own
HTTP (`web/`) or sockets.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType

import structlog

from routerd.config.compile import Policy
from routerd.config.settings import EndpointSpec
from routerd.content.directory import DirectoryStore
from routerd.content.fetchtable import FetchTable
from routerd.content.identity import Claim
from routerd.content.store import ContentStore
from routerd.endpoints.base import Endpoint, EndpointContext
from routerd.endpoints.registry import lookup_type
from routerd.oci.reference import Namespace
from routerd.proxy.audit import AuditTrail
from routerd.proxy.cached import CachedEndpoint
from routerd.proxy.checking import keep_watch
from routerd.proxy.direct import DirectEndpoint
from routerd.proxy.freshness import Standing
from routerd.proxy.identity import claim_content, claim_directory, find_directory
from routerd.proxy.listing import Listing
from routerd.proxy.prefetch import Prefetcher
from routerd.proxy.pull import Pull, Reader
from routerd.proxy.push import Push
from routerd.proxy.refetch import Refetch
from routerd.proxy.upkeep import Upkeep, retain_by
from routerd.proxy.warm import Warm
from routerd.proxy.warmschedule import LOCK_FILE, WarmSchedule
from routerd.routing.retention import Retention
from routerd.runtime.blocking import run_blocking
from routerd.runtime.dayfiles import DayFiles
from routerd.runtime.lockfile import LockFile
from routerd.runtime.tasks import Tasks

log = structlog.get_logger("routerd.service")

NAME_FILE = "name"  # in the data directory: the random identity of a server without `server.name`
NAME_BYTES = 8


class Service:
    """Everything that answers for one policy. Use as an async context manager.

    Until entered, nothing on disk is touched. Entering raises StoreError where a store cannot be
    used; it asks no network for anything, so an offline start works.
    """

    pull: Pull
    push: Push
    listing: Listing
    prefetcher: Prefetcher
    warm: Warm
    refetch: Refetch
    audit: AuditTrail | None
    name: str
    stores: Mapping[str, DirectoryStore]  # by the storage endpoint's name
    readers: Mapping[str, Reader]  # by the endpoint's name

    def __init__(
        self,
        policy: Policy,
        clock: Callable[[], float] = time.time,
        *,
        shared: bool = False,
        background: bool = True,
        claims: bool = True,
    ) -> None:
        """`shared`: with other processes, see `DirectoryStore`. `background` False: for a command
        that does one thing and leaves; it keeps no audit trail, it is nobody's client. `claims`
        False: only for a look at the stores as they lie, since whose their content is stays open.
        """
        self.policy = policy
        self._shared = shared
        self._background = background
        self._claims = claims
        self._clock = clock  # UTC seconds
        self.tasks = Tasks()
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Service:
        try:
            await self._open()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._stack.aclose()

    async def _open(self) -> None:
        policy = self.policy
        await run_blocking(_make_private_directory, policy.server.data)
        named = policy.server.name
        if named is None:
            named = await run_blocking(_kept_name, policy.server.data)
        self.name = named
        self.audit = await self._open_audit()
        stores: dict[str, DirectoryStore] = {}
        for spec in policy.endpoints.values():
            if spec.store_path is not None:
                stores[spec.name] = await self._open_store(spec, spec.store_path)
        # Entered after the stores, so left before them: fills end, then what they write to.
        self._stack.push_async_callback(self.tasks.aclose, 0.0)
        endpoints: dict[str, Endpoint] = {}
        readers: dict[str, Reader] = {}
        fetches = FetchTable(self.tasks)
        for spec in policy.endpoints.values():
            own = stores.get(spec.name)
            cache = stores[spec.cache_store] if spec.cache_store is not None else None
            endpoint = self._create(spec, own if own is not None else cache)
            await endpoint.open()
            self._stack.push_async_callback(endpoint.aclose)
            endpoints[spec.name] = endpoint
            if cache is not None:
                readers[spec.name] = await self._cached(spec, endpoint, cache, fetches)
            else:
                readers[spec.name] = DirectEndpoint(endpoint, own)
        for name, store in stores.items():
            self._look_after(name, store, endpoints)
        self.stores, self.readers = stores, readers
        self.refetch = Refetch(policy.table, readers, _namespaces(policy))
        if self._background:
            keep_watch(stores, self.tasks, self.refetch)
        self.pull = Pull(policy.table, readers)
        self.push = Push(policy.table, endpoints, self.pull)
        self.prefetcher = Prefetcher(self.pull, self.tasks)
        self.warm = Warm(self.pull)
        self.listing = Listing(policy.table, readers)
        self._keep_warm(endpoints)
        await run_blocking(_warn_of_strangers, policy)

    def _keep_warm(self, endpoints: Mapping[str, Endpoint]) -> None:
        policy = self.policy
        if policy.warm and self._background:
            lock = LockFile(policy.server.data / LOCK_FILE)
            schedule = WarmSchedule(policy.warm, self.warm, policy.table, endpoints, lock)
            self.tasks.spawn("warm schedule", schedule.run())

    async def _open_audit(self) -> AuditTrail | None:
        settings = self.policy.server.audit
        if settings is None or not self._background:
            return None
        trail = AuditTrail(DayFiles(settings.file, settings.keep), self._clock)
        await trail.open()
        self._stack.push_async_callback(trail.aclose)
        return trail

    async def _open_store(self, spec: EndpointSpec, path: Path) -> DirectoryStore:
        if not self._claims:
            path = await run_blocking(find_directory, path, spec)
        elif not self._shared:
            await run_blocking(claim_directory, path, spec)
        store = DirectoryStore(path, self._clock, limits=spec.limits, shared=self._shared)
        await store.start()
        self._stack.push_async_callback(store.aclose)
        if self._claims:
            await claim_content(store, spec, None)
        return store

    def _look_after(
        self, name: str, store: ContentStore, endpoints: Mapping[str, Endpoint]
    ) -> None:
        cached = {
            spec.name: Retention(self.policy.table, spec.name, endpoints[spec.name].scope)
            for spec in self.policy.endpoints.values()
            if spec.cache_store == name and spec.store_path is None
        }
        store.capacity.retain = retain_by(cached)
        if self._background:
            self.tasks.spawn(f"upkeep of {name}", Upkeep(store, self._clock).run())

    async def _cached(
        self, spec: EndpointSpec, endpoint: Endpoint, store: ContentStore, fetches: FetchTable
    ) -> CachedEndpoint:
        namespace = self.policy.table.endpoints[spec.name].namespace
        claim = await claim_content(store, spec, namespace) if self._claims else Claim()
        offline = spec.type == "remote" and spec.options["offline"]
        standing = Standing(offline, claim.since)
        return CachedEndpoint(
            endpoint, store, fetches, self.tasks, standing, claim.veiled, self._clock
        )

    def _create(self, spec: EndpointSpec, store: ContentStore | None) -> Endpoint:
        kind = lookup_type(spec.type)
        assert kind is not None  # the compiler refuses a policy with an unknown type
        return kind.create(
            EndpointContext(
                name=spec.name,
                options=spec.options,
                store=store,
                server_name=self.name,
                max_hops=self.policy.server.max_hops,
                tasks=self.tasks,
            )
        )


def _make_private_directory(path: Path) -> None:
    path.mkdir(mode=0o700, parents=True, exist_ok=True)


def _kept_name(data: Path) -> str:
    """The random identity for `Via` (config-language.md 5, `server.name`), made once."""
    path = data / NAME_FILE
    if path.exists() and (kept := path.read_text(encoding="ascii").strip()):
        return kept
    name = f"routerd-{secrets.token_hex(NAME_BYTES)}"
    path.write_text(name + "\n", encoding="ascii")
    return name


def _warn_of_strangers(policy: Policy) -> None:
    """config-language.md 3: a store on disk that the policy no longer names is warned about."""
    known = {
        spec.store_path.with_name(name)
        for spec in policy.endpoints.values()
        if spec.store_path is not None
        for name in (spec.store_path.name, *spec.previous_names)
    }
    audit = policy.server.audit
    for path in sorted(policy.server.data.iterdir()):
        is_audit = audit is not None and audit.file.is_relative_to(path)
        if path.is_dir() and path not in known and not is_audit:
            log.warning("no storage endpoint of the policy uses this directory", path=str(path))


def _namespaces(policy: Policy) -> dict[str, Namespace]:
    """Of which each endpoint is; those that are of every one, or of their own kind, are left out."""
    named = {name: spec.options.get("namespace") for name, spec in policy.endpoints.items()}
    return {name: said for name, said in named.items() if said and said != "*"}
