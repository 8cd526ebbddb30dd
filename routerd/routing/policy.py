"""What a policy may say, as frozen values: actions, principals, cache policy, where it was said.

Owns the words of config-language.md 3 and 4. Does not own which route wins (`table.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, collapse_addresses
from typing import Any, Generic, TypeVar

from routerd.oci.platform import Platform
from routerd.oci.reference import Tag
from routerd.routing.pattern import TagGlobs

T = TypeVar("T")
IPAddress = IPv4Address | IPv6Address
IPNetwork = IPv4Network | IPv6Network


class Action(StrEnum):
    """What a caller wants. Listing tags and referrers is part of `pull`."""

    PULL = "pull"
    PUSH = "push"
    DELETE = "delete"


class Fallback(StrEnum):
    """Why an endpoint could not answer, and so when `fallback_on` asks the next one."""

    NOT_FOUND = "not_found"
    UNAVAILABLE = "unavailable"  # network, timeout, 5xx, 429
    DENIED = "denied"  # 401, 403


@dataclass(frozen=True, slots=True)
class Origin:
    """Where the policy says something. `line` is 1-based; 0 is a default that no file says."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}" if self.line else "default"


DEFAULT_ORIGIN = Origin("", 0)


@dataclass(frozen=True, slots=True)
class Setting(Generic[T]):
    """A value and where it was said."""

    value: T
    origin: Origin = DEFAULT_ORIGIN


@dataclass(frozen=True, slots=True)
class Caller:
    """Who is asking: the client's address, past trusted proxies; None: nobody in particular."""

    address: IPAddress | None = None


@dataclass(frozen=True, slots=True)
class Principal:
    """`anonymous` (everyone), `net:CIDR` or `net:loopback`. As written in `text`."""

    text: str
    networks: tuple[IPNetwork, ...] | None = None  # None: everyone

    def matches(self, caller: Caller) -> bool:
        """Whether this principal is (also) the caller."""
        if self.networks is None:
            return True
        address = caller.address
        if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        return address is not None and any(
            address.version == network.version and address in network for network in self.networks
        )


# Who asks for work that no client caused: like somebody at the machine itself.
SELF = Caller(IPv4Address("127.0.0.1"))


def is_everyone(principals: Sequence[Principal]) -> bool:
    """Whether they let anybody in: every client, or every one with an address of one version."""
    networks = [network for principal in principals for network in principal.networks or ()]
    if any(principal.networks is None for principal in principals):
        return True
    fourth = collapse_addresses([n for n in networks if isinstance(n, IPv4Network)])
    sixth = collapse_addresses([n for n in networks if isinstance(n, IPv6Network)])
    return IPv4Network("0.0.0.0/0") in fourth or IPv6Network("::/0") in sixth


ANONYMOUS = Principal("anonymous")
LOOPBACK = Principal("net:loopback", (IPv4Network("127.0.0.0/8"), IPv6Network("::1/128")))

# config-language.md 5: without `access`, pull for everyone, push and delete from net:loopback.
DEFAULT_ALLOW: Mapping[Action, Setting[tuple[Principal, ...]]] = {
    Action.PULL: Setting((ANONYMOUS,)),
    Action.PUSH: Setting((LOOPBACK,)),
    Action.DELETE: Setting((LOOPBACK,)),
}


@dataclass(frozen=True, slots=True)
class Prefetch:
    """What is fetched of a manifest that was pulled without waiting to be asked.

    `layers`: its blobs, `concurrency` of an endpoint's at once. `platforms`: of an index, these
    children and their blobs; without any, a child's blobs once a client has pulled that child.
    """

    layers: bool = False
    concurrency: int = 4
    platforms: tuple[Platform, ...] = ()


@dataclass(frozen=True, slots=True)
class CacheSettings:
    """The keys of `cache` that one endpoint or route says; None is "not said here". Seconds."""

    ttl: Setting[float] | None = None
    stale_while_revalidate: Setting[float] | None = None
    stale_if_error: Setting[float] | None = None
    stale_if_gone: Setting[float] | None = None
    negative_ttl: Setting[float] | None = None
    recheck: Setting[float] | None = None
    retain: Setting[float] | None = None
    immutable_tags: Setting[TagGlobs] | None = None
    prefetch: Setting[Prefetch] | None = None


@dataclass(frozen=True, slots=True)
class CachePolicy:
    """The effective cache policy of one step, by the cascade. Seconds; `math.inf` is `never`.

    The defaults are those of config-language.md 4. A `ttl` of None means: what upstream's
    Cache-Control says.
    """

    ttl: Setting[float | None] = Setting(None)
    stale_while_revalidate: Setting[float] = Setting(0.0)
    stale_if_error: Setting[float] = Setting(14 * 86400.0)
    stale_if_gone: Setting[float] = Setting(86400.0)
    negative_ttl: Setting[float] = Setting(10.0)
    recheck: Setting[float] = Setting(30.0)
    retain: Setting[float] = Setting(14 * 86400.0)
    immutable_tags: Setting[TagGlobs] = Setting(TagGlobs())
    prefetch: Setting[Prefetch] = Setting(Prefetch())

    def is_immutable(self, tag: Tag) -> bool:
        """Whether the tag never changes once it is known (config-language.md 4)."""
        return self.immutable_tags.value.match(tag)


NOTHING_SAID = CacheSettings()


def cascade(said: Sequence[CacheSettings], default: CachePolicy) -> CachePolicy:
    """Each key from the first that says it, else from `default` (config-language.md 2)."""
    values: dict[str, Any] = {}
    for field in fields(CacheSettings):
        for settings in said:
            value = getattr(settings, field.name)
            if value is not None:
                values[field.name] = value
                break
    return replace(default, **values)
