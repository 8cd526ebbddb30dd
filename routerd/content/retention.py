"""What a store's sweep takes: decided from rows, without touching anything.

Owns which cached content may go, for its age and for room, and in which order. Does not own doing it
(`sweep.py`), how long a scope keeps its content (the policy says it) or how much room is wanted
(`room.py`).

The unit is a manifest with what is stored of its closure. What a stored manifest lists stays, in
whichever scope the manifest is; so an index goes before its manifests and these before their blobs.
An index counts as pulled when one of its manifests is.
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from enum import StrEnum

from routerd.content.links import LinkKind, Scope
from routerd.content.pulls import FLUSH_SECONDS

# Seconds. Nothing that was stored or pulled so short a time ago goes, for whatever reason: whoever
# stored it may be about to link it, and whoever pulled its manifest is about to ask for its blobs.
GRACE = 300.0
# Seconds. What another process knows of pulls may be so old: it says so now and then only.
_UNSAID = 2 * FLUSH_SECONDS
# Seconds. A client that pulls an image has asked for all its blobs within this after the manifest:
# they go with it, unless somebody came for one of them later.
_PULL_TAKES = 3600.0

# How long a scope's content stays after it was pulled, in seconds; None: it is never swept.
RetainOf = Callable[[Scope], float | None]


class Why(StrEnum):
    """Why something is swept."""

    AGE = "not pulled for longer than `retain`"
    ROOM = "room was needed and nothing was pulled longer ago"


@dataclass(frozen=True, slots=True)
class Held:
    """A link as the sweep sees it. `digest` is text, since there are many; UTC seconds."""

    scope: Scope
    digest: str
    kind: LinkKind
    pulled_at: float


@dataclass(frozen=True, slots=True)
class Stock:
    """What a store holds. `sizes` has every digest that there are bytes of; `pinned` are the links
    that a pin names, not what these list.
    """

    links: Sequence[Held]
    lists: Mapping[str, Sequence[str]]
    sizes: Mapping[str, int]
    pinned: Set[tuple[Scope, str]] = frozenset()


@dataclass(frozen=True, slots=True)
class Removal:
    """A link that is to go, and why. `pulled_at` with what its manifests say; `frees`: when it is
    gone, nobody has a link to so many of the verdict's `unlinked`.
    """

    link: Held
    pulled_at: float
    why: Why
    frees: int


@dataclass(slots=True)
class Verdict:
    """What is to go: links in this order, and the bytes of digests once nobody has a link to them.

    `size` in bytes; `pinned` are the links whose time had come, but for their pin.
    """

    removals: list[Removal] = field(default_factory=list)
    unlinked: list[str] = field(default_factory=list)
    size: int = 0
    pinned: int = 0


def decide(stock: Stock, retain: RetainOf, now: float, need: int = 0) -> Verdict:
    """What goes for its age, and if that is less than `need` bytes, what more goes for room, the
    least recently pulled first.
    """
    deciding = _Deciding(stock, retain, now)
    deciding.take_unlinked()
    deciding.take_for_age()
    deciding.take_for_room(need)
    return deciding.verdict


class _Deciding:
    """The state of one decision. Links are known by their position in `stock.links`."""

    def __init__(self, stock: Stock, retain: RetainOf, now: float) -> None:
        self.verdict = Verdict()
        self._stock = stock
        self._now = now
        self._keeps = {scope: retain(scope) for scope in {link.scope for link in stock.links}}
        self._of: dict[str, list[int]] = defaultdict(list)
        self._manifests: Counter[str] = Counter()  # digest -> links that are left to it as manifest
        for position, link in enumerate(stock.links):
            self._of[link.digest].append(position)
            if link.kind is LinkKind.MANIFEST:
                self._manifests[link.digest] += 1
        self._left = {digest: len(positions) for digest, positions in self._of.items()}
        self._listed: Counter[str] = Counter()  # digest -> stored manifests that list it
        for manifest in self._manifests:
            self._listed.update(self._children(manifest))
        self._gone = bytearray(len(stock.links))
        self._pulled = [link.pulled_at for link in stock.links]
        self._raise_indexes()

    def _children(self, manifest: str) -> set[str]:
        return set(self._stock.lists.get(manifest, ()))

    def _raise_indexes(self) -> None:
        """An index was pulled when its last manifest was, seen from the same scope."""
        above: dict[str, list[str]] = defaultdict(list)
        for manifest in self._manifests:
            for child in self._children(manifest):
                if child in self._manifests:
                    above[child].append(manifest)
        at = {
            (link.scope, link.digest): position
            for position, link in enumerate(self._stock.links)
            if link.kind is LinkKind.MANIFEST
        }
        waiting = [position for (_, digest), position in at.items() if digest in above]
        while waiting:
            position = waiting.pop()
            link = self._stock.links[position]
            for manifest in above.get(link.digest, ()):
                parent = at.get((link.scope, manifest))
                if parent is not None and self._pulled[parent] < self._pulled[position]:
                    self._pulled[parent] = self._pulled[position]
                    waiting.append(parent)

    def take_unlinked(self) -> None:
        """Bytes that nobody has a link to and no stored manifest lists."""
        for digest in self._stock.sizes:
            if digest not in self._left and not self._listed[digest]:
                self._take_bytes(digest)

    def take_for_age(self) -> None:
        """Everything whose time has come."""
        waiting = list(range(len(self._stock.links)))
        while waiting:
            position = waiting.pop()
            if not self._is_old(position):
                continue
            if self._is_pinned(position):
                self.verdict.pinned += 1
            else:
                waiting += self._take_unit(position, Why.AGE)

    def take_for_room(self, need: int) -> None:
        """The least recently pulled, until `need` bytes are free."""
        if self.verdict.size >= need:
            return
        everything = range(len(self._stock.links))
        heap = [(self._pulled[position], position) for position in everything]
        heapq.heapify(heap)
        while heap and self.verdict.size < need:
            _, position = heapq.heappop(heap)
            if self._may_go(position):
                for freed in self._take_unit(position, Why.ROOM):
                    heapq.heappush(heap, (self._pulled[freed], freed))

    def _take_unit(self, position: int, why: Why) -> list[int]:
        """Take a link, and what was pulled with it in its scope and nobody else lists. The links
        that are free by now, but were pulled later or in another scope.
        """
        until = self._pulled[position] + _PULL_TAKES
        scope = self._stock.links[position].scope
        others: list[int] = []
        unit = [position]
        while unit:
            for freed in self._take(unit.pop(), why):
                is_part = self._stock.links[freed].scope == scope and self._pulled[freed] <= until
                (unit if is_part and self._may_go(freed) else others).append(freed)
        return others

    def _take(self, position: int, why: Why) -> Iterator[int]:
        """Take one link; the links that are free for it."""
        link = self._stock.links[position]
        self._gone[position] = 1
        self._left[link.digest] -= 1
        if not self._left[link.digest]:
            self._take_bytes(link.digest)
        frees = len(self.verdict.unlinked)
        self.verdict.removals.append(Removal(link, self._pulled[position], why, frees))
        if link.kind is not LinkKind.MANIFEST:
            return
        self._manifests[link.digest] -= 1
        if self._manifests[link.digest]:
            return
        for child in self._children(link.digest):
            self._listed[child] -= 1
            if self._listed[child]:
                continue
            yield from (other for other in self._of.get(child, ()) if not self._gone[other])
            if child in self._stock.sizes and child not in self._left:
                self._take_bytes(child)

    def _take_bytes(self, digest: str) -> None:
        self.verdict.unlinked.append(digest)
        self.verdict.size += self._stock.sizes.get(digest, 0)

    def _is_free(self, position: int) -> bool:
        """Whether it is there, cached, and no stored manifest lists it."""
        link = self._stock.links[position]
        return (
            not self._gone[position]
            and self._keeps[link.scope] is not None
            and not self._listed[link.digest]
        )

    def _is_old(self, position: int) -> bool:
        """Whether it may go for its age, but for a pin."""
        keeps = self._keeps[self._stock.links[position].scope]
        if keeps is None or not self._is_free(position):
            return False
        return self._pulled[position] < self._now - max(keeps + _UNSAID, GRACE)

    def _may_go(self, position: int) -> bool:
        """Whether it may go for room."""
        return (
            self._is_free(position)
            and not self._is_pinned(position)
            and self._pulled[position] < self._now - GRACE
        )

    def _is_pinned(self, position: int) -> bool:
        link = self._stock.links[position]
        return (link.scope, link.digest) in self._stock.pinned
