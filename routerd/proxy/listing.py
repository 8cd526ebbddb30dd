"""Lists: the tags of a repository over the endpoints that its routes lead to.

Owns which tags a caller sees and how pages of several endpoints become one. Does not own the HTTP
of paging (`web/v2.py`).
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from routerd.endpoints.base import EndpointError
from routerd.oci.errors import Code, RegistryError
from routerd.oci.reference import Reference, Repository, Tag
from routerd.proxy.answers import Request
from routerd.proxy.pull import Reader
from routerd.routing.decision import Step
from routerd.routing.policy import Action, Fallback
from routerd.routing.table import RouteTable

PAGE_LIMIT = 1000  # tags in one answer, and asked of an endpoint at once; a Link leads to more
ROUNDS_LIMIT = 50  # pages of one endpoint read for one answer, where most tags go elsewhere


@dataclass(frozen=True, slots=True)
class Tags:
    """One page of tags, sorted. `more`: there are others after the last."""

    tags: Sequence[Tag]
    more: bool


class Listing:
    """The use case of tag lists."""

    def __init__(self, table: RouteTable, readers: Mapping[str, Reader]) -> None:
        self._table = table
        self._readers = readers

    async def tags(
        self, repository: Repository, last: str, n: int | None, request: Request
    ) -> Tags:
        """Up to `n` tags after `last` that the caller may pull from where they are listed.

        An endpoint that cannot be asked makes it an error, never a list silently short
        (protocol.md 2). Raises RegistryError.
        """
        decision = self._table.decide_repository(repository, Action.PULL, request.caller)
        if decision.refusal is not None:
            raise decision.refusal.error()
        if n == 0:
            return Tags((), more=False)
        wanted = PAGE_LIMIT if n is None else min(n, PAGE_LIMIT)
        pages: list[Tags] = []
        missing: EndpointError | None = None
        for step in decision.steps:
            try:
                pages.append(await self._of(step, repository, last, wanted, request))
            except EndpointError as error:
                if error.reason is not Fallback.NOT_FOUND:
                    raise
                missing = error
        if not pages and missing is not None:
            raise RegistryError(Code.NAME_UNKNOWN, missing.message)
        merged: list[Tag] = []
        for tag in heapq.merge(*(page.tags for page in pages)):
            if not merged or merged[-1] != tag:
                merged.append(tag)
        # Past the end of a page that has more, the merge would be blind to that endpoint's tags.
        horizon = [page.tags[-1] for page in pages if page.more and page.tags]
        whole = [tag for tag in merged if not horizon or tag <= min(horizon)]
        more = len(whole) > wanted or any(page.more for page in pages)
        return Tags(whole[:wanted], more)

    async def _of(
        self, step: Step, repository: Repository, last: str, wanted: int, request: Request
    ) -> Tags:
        found: list[Tag] = []
        for _ in range(ROUNDS_LIMIT):
            # Not `wanted`: where most tags lead elsewhere, that many would take too many rounds.
            page = await self._readers[step.endpoint].tags(step, request, last, PAGE_LIMIT)
            found += [tag for tag in page.tags if self._leads_to(step, repository, tag, request)]
            if not page.more or not page.tags:
                return Tags(found, more=False)
            last = page.tags[-1]
            if len(found) >= wanted:
                return Tags(found, more=True)
        raise RegistryError(
            Code.UNAVAILABLE,
            f"{step.endpoint} has too many tags of {repository} that lead elsewhere to list them",
        )

    def _leads_to(self, step: Step, repository: Repository, tag: Tag, request: Request) -> bool:
        """Whether the tag's own route leads to this endpoint, for this caller."""
        decision = self._table.decide(Reference(repository, tag=tag), Action.PULL, request.caller)
        return any(
            other.endpoint == step.endpoint and other.repository == step.repository
            for other in decision.steps
        )
