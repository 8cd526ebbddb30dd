"""Reading the audit trail: across its files, oldest first, in memory that does not grow with it.

Owns which entries are wanted and in which order they come. Does not own what an entry is
(`audit.py`) or how it is shown (`cli/audit.py`).
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from routerd.oci.errors import RegistryError
from routerd.oci.reference import Reference
from routerd.proxy.audit import AuditEntry, Gap, parse_line
from routerd.routing.pattern import Pattern
from routerd.routing.policy import Action, IPNetwork
from routerd.runtime.dayfiles import DayFiles, day_of, lines_of

# Entries that are put in order: several processes append, each some milliseconds after the fact.
SORTED_LIMIT = 4_096


@dataclass(frozen=True, slots=True)
class Wanted:
    """What an entry has to be. Times are UTC seconds, `until` excluded; None is anything."""

    since: float = -math.inf
    until: float = math.inf
    repository: Pattern | None = None
    action: Action | None = None
    client: IPNetwork | None = None

    def takes(self, entry: AuditEntry | Gap) -> bool:
        """Whether it is wanted. A gap is wanted whenever its time is: who knows what is missing."""
        if not self.since <= entry.time < self.until:
            return False
        if isinstance(entry, Gap):
            return True
        return (
            (self.action is None or entry.action is self.action)
            and (self.client is None or _is_in(entry.client, self.client))
            and (self.repository is None or _matches(self.repository, entry.reference))
        )


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Lines of a file that are no entries: torn by a kill or a full disk, or not ours."""

    path: Path
    count: int
    first: int  # the number of the first of them, from 1


@dataclass(frozen=True, slots=True)
class Read:
    """One entry and the line that it stands in."""

    entry: AuditEntry | Gap
    line: bytes


def read(files: DayFiles, wanted: Wanted) -> Iterator[Read | Unreadable]:
    """What is wanted of the trail, oldest first; after each file what could not be read of it.

    Raises OSError.
    """
    for day, path in files.days():
        if math.isfinite(wanted.since) and day < day_of(wanted.since):
            continue
        if math.isfinite(wanted.until) and day > day_of(wanted.until):
            continue
        yield from _of_file(path, wanted)


def _of_file(path: Path, wanted: Wanted) -> Iterator[Read | Unreadable]:
    waiting: list[tuple[float, int, Read]] = []
    unreadable, first = 0, 0
    for number, line in enumerate(lines_of(path), start=1):
        try:
            entry = parse_line(line)
        except ValueError:
            unreadable, first = unreadable + 1, first or number
            continue
        if wanted.takes(entry):
            heapq.heappush(waiting, (entry.time, number, Read(entry, line)))
        if len(waiting) > SORTED_LIMIT:
            yield heapq.heappop(waiting)[2]
    while waiting:
        yield heapq.heappop(waiting)[2]
    if unreadable:
        yield Unreadable(path, unreadable, first)


def _is_in(client: str, network: IPNetwork) -> bool:
    try:
        address = ip_address(client)
    except ValueError:
        return False  # a client without an address
    return address.version == network.version and address in network


def _matches(pattern: Pattern, text: str) -> bool:
    try:
        return pattern.matches(Reference.parse(text))
    except RegistryError:
        return False
