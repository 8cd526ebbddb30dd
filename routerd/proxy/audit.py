"""The audit trail: who pulled, pushed or deleted which manifest, a JSON line each.

Owns what an entry says and how it is written and read. Does not own how lines come into files
(`runtime/journal.py`) or when an entry is made (`web/audit.py`).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

from routerd.content.errors import StoreError
from routerd.routing.policy import Action
from routerd.runtime.dayfiles import DayFiles
from routerd.runtime.journal import Journal

T = TypeVar("T")

NOBODY = "-"  # the user of an entry, as long as there are no users


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One GET, PUT or DELETE of a manifest, successful or not. `time` in UTC seconds, of its end.

    None is what was not known, of a request that was refused for instance. `transferred`: bytes of the
    answer's body that were sent; of a push, those of the manifest that came in.
    """

    time: float
    client: str
    user: str
    action: Action
    reference: str
    digest: str | None
    route: str | None
    endpoint: str | None
    cache: str | None
    status: int
    transferred: int

    def line(self) -> bytes:
        """The entry as a line of the trail."""
        said = {
            "time": format_time(self.time),
            "client": self.client,
            "user": self.user,
            "action": self.action,
            "reference": self.reference,
            "digest": self.digest,
            "route": self.route,
            "endpoint": self.endpoint,
            "cache": self.cache,
            "status": self.status,
            "bytes": self.transferred,
        }
        return json.dumps(said).encode() + b"\n"


@dataclass(frozen=True, slots=True)
class Gap:
    """Where entries are missing: the disk was full, or slower than the requests."""

    time: float
    lost: int

    def line(self) -> bytes:
        """The gap as a line of the trail."""
        return json.dumps({"time": format_time(self.time), "lost": self.lost}).encode() + b"\n"


def parse_line(line: bytes) -> AuditEntry | Gap:
    """Raises ValueError for anything that is not a whole line of the trail."""
    if not line.endswith(b"\n"):
        raise ValueError("the line is torn")
    try:
        said = json.loads(line)
    except RecursionError as error:
        raise ValueError("the line is nested too deeply") from error
    if not isinstance(said, dict):
        raise ValueError("the line is not an entry")
    at = parse_time(_typed(said, "time", str))
    if "lost" in said:
        return Gap(at, _typed(said, "lost", int))
    return AuditEntry(
        time=at,
        client=_typed(said, "client", str),
        user=_typed(said, "user", str),
        action=Action(_typed(said, "action", str)),
        reference=_typed(said, "reference", str),
        digest=_optional(said, "digest"),
        route=_optional(said, "route"),
        endpoint=_optional(said, "endpoint"),
        cache=_optional(said, "cache"),
        status=_typed(said, "status", int),
        transferred=_typed(said, "bytes", int),
    )


def format_time(at: float) -> str:
    """RFC 3339 in UTC, to the millisecond."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds")[:-6] + "Z"


def parse_time(text: str) -> float:
    """UTC seconds of an RFC 3339 time; without an offset it is UTC. Raises ValueError."""
    parsed = datetime.fromisoformat(text)
    return (parsed if parsed.tzinfo is not None else parsed.replace(tzinfo=UTC)).timestamp()


class AuditTrail:
    """The trail that a service writes. Opened once, closed once."""

    def __init__(self, files: DayFiles, clock: Callable[[], float] = time.time) -> None:
        self.clock = clock  # UTC seconds
        self._files = files
        self._journal = Journal(files, lambda at, lost: Gap(at, lost).line(), clock)

    async def open(self) -> None:
        """Raises StoreError where it cannot be written: a trail is kept, or the operator knows."""
        try:
            await self._journal.start()
        except OSError as error:
            raise StoreError(
                f"the audit trail {self._files.path} cannot be written: {error.filename}: "
                f"{error.strerror}; mend that, name another file in server.audit, "
                "or write 'audit: null' to have none"
            ) from error

    def add(self, entry: AuditEntry) -> None:
        """Have an entry written. Neither waits nor raises."""
        self._journal.add(entry.time, entry.line())

    async def aclose(self) -> None:
        """Write what waits."""
        await self._journal.aclose()


def _typed(said: dict[str, Any], key: str, kind: type[T]) -> T:
    value = said.get(key)
    if not isinstance(value, kind):
        raise ValueError(f"'{key}' is missing or of another type")
    return value


def _optional(said: dict[str, Any], key: str) -> str | None:
    return None if said.get(key) is None else _typed(said, key, str)
