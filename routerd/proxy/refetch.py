"""Damaged content of a cache fetched again, from where it came.

Owns which endpoint is asked for it. Does not own finding the damage (`checking.py`) or the download,
which is one that nobody waits for (`cached.py`).
"""

from __future__ import annotations

from collections.abc import Mapping

from routerd.content.links import LinkKind, Scope
from routerd.content.verify import Damage
from routerd.oci.errors import RegistryError
from routerd.oci.reference import Digest, Namespace, Reference, Repository
from routerd.proxy.answers import Request
from routerd.proxy.pull import Reader
from routerd.routing.decision import Step
from routerd.routing.policy import SELF
from routerd.routing.table import RouteTable

WAITING_LIMIT = 1_000  # that wait to be fetched at once; of more the next pull fetches it


class Refetch:
    """Fetches for the server itself. `namespaces`: of which each endpoint is."""

    def __init__(
        self,
        table: RouteTable,
        readers: Mapping[str, Reader],
        namespaces: Mapping[str, Namespace],
    ) -> None:
        self._table = table
        self._readers = readers
        self._namespaces = namespaces
        self._waiting = 0

    async def fetch(self, damage: Damage) -> str:
        """Have it fetched for one of those who see it, which serves all of them. Returns why it was
        not; empty: it was.
        """
        if self._waiting >= WAITING_LIMIT:
            return "too much is damaged to fetch all of it at once"
        problem = "no route leads to where it was cached from"
        self._waiting += 1
        try:
            for holder in damage.held_by:
                step = self._step_to(holder.scope)
                if step is None:
                    continue
                try:
                    await self._ask(step, damage.digest, holder.kind)
                except RegistryError as error:
                    problem = error.message
                else:
                    return ""
            return problem
        finally:
            self._waiting -= 1

    async def _ask(self, step: Step, digest: Digest, kind: str) -> None:
        reader, request = self._readers[step.endpoint], Request(SELF)
        if kind == LinkKind.MANIFEST:
            await reader.manifest(step, Reference(step.repository, digest=digest), request)
        else:
            await reader.keep(step, digest, request, {}, _unseen)

    def _step_to(self, scope: Scope) -> Step | None:
        """The way of a pull to this scope, if one leads there."""
        namespace = self._namespaces.get(scope.endpoint)
        if namespace is None:
            return None
        segments = scope.repository.split("/")
        for start in range(len(segments)):  # a prefix of the endpoint's URL is no part of it
            repository = Repository(namespace, "/".join(segments[start:]))
            for candidate in self._table.plan(repository, None).candidates:
                step = candidate.step
                reader = self._readers[step.endpoint]
                if step.endpoint == scope.endpoint and reader.scope(step.repository) == scope:
                    return step
        return None


def _unseen(done: int, size: int | None) -> None:
    """Nobody looks at the progress."""
