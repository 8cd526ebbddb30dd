"""Which addresses an endpoint may connect to, checked where names become addresses.

Owns the guard against upstreams that redirect into the network that routerd lives in (protocol.md
3). Checked in the resolver, so that no second look-up can give another answer. Does not own
redirects.
"""

from __future__ import annotations

import socket
from collections.abc import Collection
from ipaddress import IPv6Address, ip_address

from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver

from routerd.routing.policy import IPAddress

_METADATA = frozenset({ip_address("fd00:ec2::254"), ip_address("100.100.100.200")})


class ForbiddenAddress(OSError):
    """A host is at an address that this endpoint does not connect to."""


def parse_ip(host: str) -> IPAddress | None:
    """The address that a host is written as; None for a name."""
    try:
        return ip_address(host.strip("[]"))
    except ValueError:
        return None


def is_private(address: IPAddress) -> bool:
    """Whether the address is of this machine or of a private network."""
    return _plain(address).is_private or _plain(address).is_loopback


def _plain(address: IPAddress) -> IPAddress:
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


class Addresses:
    """The addresses of one endpoint: its own `host`, and who else it is sent to.

    Its own host was written by the operator, as were `trusted` ones: any address but link-local and
    metadata will do. Others may be private only where the endpoint itself is.
    """

    def __init__(
        self, host: str, trusted: Collection[str] = (), resolver: AbstractResolver | None = None
    ) -> None:
        self._host = host
        self._trusted = {host, *trusted}
        self._resolver = resolver
        self._is_private: bool | None = None

    def resolver(self) -> AbstractResolver:
        """For the connector; made on the event loop."""
        if self._resolver is None:
            self._resolver = ThreadedResolver()
        return _Checked(self, self._resolver)

    async def endpoint_is_private(self) -> bool:
        """Whether the endpoint's own host is on a private network. False where DNS cannot say."""
        if self._is_private is None:
            literal = parse_ip(self._host)
            try:
                addresses = [literal] if literal else await self._look_up()
            except OSError:
                return False
            self._is_private = all(is_private(address) for address in addresses)
        return self._is_private

    async def _look_up(self) -> list[IPAddress]:
        if self._resolver is None:
            self._resolver = ThreadedResolver()
        found = await self._resolver.resolve(self._host, 0, socket.AF_UNSPEC)
        return [ip_address(entry["host"]) for entry in found]

    async def check(self, host: str, address: IPAddress) -> None:
        """Raises ForbiddenAddress where `host` at this address is not to be connected to."""
        plain = _plain(address)
        if (
            plain.is_link_local
            or plain.is_multicast
            or plain.is_unspecified
            or address in _METADATA
            or plain in _METADATA
        ):
            raise ForbiddenAddress(f"{host} is at {address}, which is never connected to")
        if host in self._trusted or not is_private(address):
            return
        if not await self.endpoint_is_private():
            raise ForbiddenAddress(
                f"{host} is at {address}, a private address, and {self._host} is public"
            )


class _Checked(AbstractResolver):
    def __init__(self, addresses: Addresses, inner: AbstractResolver) -> None:
        self._addresses = addresses
        self._inner = inner

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = await self._inner.resolve(host, port, family)
        for entry in found:
            await self._addresses.check(host, ip_address(entry["host"]))
        return found

    async def close(self) -> None:
        await self._inner.close()
