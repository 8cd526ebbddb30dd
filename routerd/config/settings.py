"""The compiled policy as values: server settings, endpoint specs, and the whole.

Owns what `serve` runs with. Does not own how it is read (`document.py`, `compile.py`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Literal

from routerd.config.sizes import DEFAULT_LIMITS, StorageLimits
from routerd.oci.platform import Platform
from routerd.oci.reference import Namespace, Reference
from routerd.routing.policy import Action, IPNetwork, Origin
from routerd.routing.table import RouteTable

_ADDRESS = re.compile(r"(?:\[(?P<v6>[0-9a-fA-F:.]+)\]|(?P<host>[^\[\]:\s/]+)):(?P<port>[0-9]{1,5})")


@dataclass(frozen=True, slots=True)
class Address:
    """A listening address; port 0 is any free one."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Address:
        """`HOST:PORT` or `[IPV6]:PORT`. Raises ValueError."""
        match = _ADDRESS.fullmatch(text)
        if match is None or int(match["port"]) > 65535:
            raise ValueError(f"'{text}' is not HOST:PORT")
        return cls(match["v6"] or match["host"], int(match["port"]))

    def meets(self, other: Address) -> bool:
        """Whether both cannot be listened on at once. An IPv6 address takes no IPv4 connections."""
        if self.port != other.port or not self.port:
            return False
        mine, theirs = _hosts(self.host), _hosts(other.host)
        return bool(mine & theirs) or any(
            wildcard in one and any((":" in host) == (":" in wildcard) for host in another)
            for wildcard in ("0.0.0.0", "::")
            for one, another in ((mine, theirs), (theirs, mine))
        )

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def _hosts(host: str) -> set[str]:
    """The addresses that a host stands for, without asking a name server."""
    if host.lower() == "localhost":
        return {"127.0.0.1", "::1"}
    try:
        return {str(ip_address(host))}
    except ValueError:
        return {host.lower()}


@dataclass(frozen=True, slots=True)
class LogSettings:
    """`server.log`."""

    format: Literal["text", "json"]
    level: str


@dataclass(frozen=True, slots=True)
class AuditSettings:
    """`server.audit`. Each day has a file, named after `file` (absolute); `keep` in seconds."""

    file: Path
    keep: float


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """`server`. `drain` in seconds; `data` is absolute; `name` None: a random one kept in data;
    `audit` None: no trail is kept.
    """

    listen: tuple[Address, ...]
    admin: Address | None
    data: Path
    name: str | None
    default_namespace: Namespace
    trusted_proxies: tuple[IPNetwork, ...]
    forwarded_header: str
    max_hops: int
    workers: int
    drain: float
    log: LogSettings
    audit: AuditSettings | None


@dataclass(frozen=True, slots=True)
class EndpointSpec:
    """One endpoint: its type, and the options its adapter is made with.

    `options` are validated plain values, paths absolute, secrets wrapped in `Secret`.
    `cache_store` names the storage endpoint that keeps what this one brings; `store_path` is where
    a storage keeps its own content, None for other types, and `limits` how much of it.
    `previous_names` are what it was called before.
    """

    name: str
    type: str
    options: Mapping[str, Any]
    actions: tuple[Action, ...]
    cache_store: str | None
    store_path: Path | None
    origin: Origin
    limits: StorageLimits = DEFAULT_LIMITS
    previous_names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class WarmRule:
    """One of `warm`: images that are fetched ahead, of these platforms (none: of all), each `every`
    seconds (`math.inf`: once).
    """

    references: tuple[Reference, ...]
    platforms: tuple[Platform, ...]
    every: float


@dataclass(frozen=True, slots=True)
class Policy:
    """A policy file, compiled whole. `fingerprint` is the SHA-256 of the file, in hex."""

    server: ServerSettings
    endpoints: Mapping[str, EndpointSpec]
    table: RouteTable
    warm: tuple[WarmRule, ...]
    path: Path
    fingerprint: str

    @property
    def stores(self) -> Sequence[Path]:
        """Where content is kept, each place once."""
        paths = (spec.store_path for spec in self.endpoints.values())
        return sorted({path for path in paths if path is not None})
