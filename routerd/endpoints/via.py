"""Loops between mirrors: refused before anything is joined.

Owns reading the Via headers of a request (RFC 9110 7.6.3). Does not own writing it (`remote.py`).
"""

from __future__ import annotations

from collections.abc import Sequence

from routerd.oci.errors import Code, RegistryError, printable

LOOP_DETECTED = 508  # RFC 5842 7.2


def join_chain(headers: Sequence[str]) -> str:
    """The Via header(s) of a request as one value that can be sent on.

    A comment may hold any byte (RFC 9110 5.6.5); not everybody upstream takes those.
    """
    return ", ".join(headers).encode("ascii", "replace").decode("ascii")


def check_loop(via: str, server_name: str, max_hops: int) -> None:
    """Raises 508 where the request was here before or came through more than `max_hops` proxies."""
    hops = [hop for hop in via.split(",") if hop.strip()]
    names = [received_by(hop) for hop in hops]
    if server_name in names:
        why = "it has been here before"
    elif len(hops) > max_hops:
        why = f"it came through {len(hops)} proxies, and {max_hops} are allowed"
    else:
        return
    raise RegistryError(
        Code.UNAVAILABLE,
        f"this request runs in a circle: {why}. Via: {printable(via)}",
        status=LOOP_DETECTED,
    )


def received_by(hop: str) -> str:
    """The name in one entry of Via: `1.1 name (comment)`."""
    words = hop.split()
    return words[1] if len(words) > 1 else ""
