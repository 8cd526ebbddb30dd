"""Who is asking, as far as the network tells: the client's address past trusted proxies.

Owns reading the one configured forwarding header (protocol.md 3). Does not own what an address may
do: `routing/policy.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_address

from routerd.routing.policy import IPAddress, IPNetwork

FORWARDED_LIMIT = 32  # addresses read of one header; a longer chain is somebody playing


def parse_address(text: str) -> IPAddress | None:
    """An address as proxies write it, with or without brackets and port; None if it is none."""
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text)
    except ValueError:
        return None
    mapped = getattr(address, "ipv4_mapped", None)
    return mapped or address


def client_address(
    peer: str, forwarded: str, trusted: Sequence[IPNetwork]
) -> tuple[IPAddress | None, tuple[str, ...]]:
    """The client's address, and the chain to hand on in X-Forwarded-For with the client last.

    `forwarded` is read from the right, past trusted hops only; an entry that is not an address ends
    the reading, since nothing left of it can be believed. A peer that is not trusted is the client.
    """
    address = parse_address(peer)
    hops = forwarded.split(",")[-FORWARDED_LIMIT:] if forwarded else []
    while address is not None and hops and _trusts(trusted, address):
        before = parse_address(hops.pop())
        if before is None:
            break
        address = before
    return address, (() if address is None else (str(address),))


def _trusts(trusted: Sequence[IPNetwork], address: IPAddress) -> bool:
    return any(n.version == address.version and address in n for n in trusted)
