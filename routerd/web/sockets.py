"""Listening sockets, bound before anything else happens.

Owns binding. Does not own what listens on them (`listener.py`).
"""

from __future__ import annotations

import socket

from routerd.config.settings import Address

BACKLOG = 2048  # connections; a cluster that starts pulling arrives all at once


class ListenError(Exception):
    """A listening socket cannot be had. The message is for the operator."""


def bind(address: Address) -> socket.socket:
    """A listening TCP socket. Raises ListenError."""
    try:
        found = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        family, kind, protocol, _, where = found[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            listener.bind(where)
            # From here on connections wait for a worker instead of being refused.
            listener.listen(BACKLOG)
        except OSError:
            listener.close()
            raise
    except OSError as error:
        raise ListenError(f"cannot listen on {address}: {error.strerror or error}") from error
    return listener
