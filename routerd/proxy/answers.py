"""What a use case answers with: a manifest or a blob, and where it came from.

Owns the values between `proxy/` and `web/`. Does not own their headers: `web/responses.py`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from enum import StrEnum

from routerd.endpoints.base import Via
from routerd.oci.manifest import Manifest
from routerd.oci.reference import Digest
from routerd.routing.decision import Step
from routerd.routing.policy import Caller
from routerd.runtime.files import Part

# Called with the bytes that are there and the size, None where it is not known. Must not wait.
Progress = Callable[[int, int | None], None]


class Result(StrEnum):
    """How a request was served: the `result` of its log line and the base of its Cache-Status."""

    HIT = "hit"  # from what is stored
    REVALIDATED = "revalidated"  # from what is stored, after upstream said it is current
    STALE = "stale"  # from what is stored, although upstream could not be asked
    GONE = "stale-gone"  # from what is stored, although upstream says that there is no such tag
    REVALIDATING = "stale-revalidating"  # from what is stored, while upstream is asked behind it
    MISS = "miss"  # from upstream, stored
    COLLAPSED = "collapsed"  # from a download that another client began
    BYPASS = "bypass"  # from upstream, an endpoint without a cache


@dataclass(frozen=True, slots=True)
class Source:
    """Which step of the policy answered, and how.

    `ttl`: seconds for which a tag may be kept, negative when stale; None for content by digest.
    `private`: a login was needed to get it, so no shared cache further on may keep it.
    """

    step: Step
    result: Result
    private: bool
    ttl: float | None = None


@dataclass(frozen=True, slots=True)
class ManifestAnswer:
    """A manifest to send, whole."""

    manifest: Manifest
    source: Source


@dataclass(frozen=True, slots=True)
class BlobAnswer:
    """A blob to send. `size` in bytes, None where upstream did not say. To be closed after use.

    `read(start, stop)` yields the bytes of [start, stop) in parts; `stop` None is the end. The last bytes
    come only once the whole is verified; on failure it raises and the connection must be cut short.
    `kept()` waits until a download is stored, and raises where it could not be; None: it is stored,
    or never will be.
    """

    digest: Digest
    size: int | None
    source: Source
    read: Callable[[int, int | None], AsyncIterator[Part]]
    aclose: Callable[[], Awaitable[None]]
    kept: Callable[[], Awaitable[None]] | None = None


@dataclass(frozen=True, slots=True)
class BlobFacts:
    """What a HEAD of a blob says."""

    digest: Digest
    size: int
    source: Source


@dataclass(frozen=True, slots=True)
class Request:
    """Who asks, and what is told onwards of it. `range` is the Range header of a GET."""

    caller: Caller = field(default_factory=Caller)
    via: Via = field(default_factory=Via)
    range: str | None = None

    @property
    def client(self) -> str:
        """The address; empty for nobody in particular."""
        return "" if self.caller.address is None else str(self.caller.address)

    @property
    def created_by(self) -> str:
        """Who pushed, as kept with the content: an address, since there are no users yet."""
        return self.client
