"""A cheap client: reads one blob over N connections at once and says how long that took.

Run as a program of its own, so that it does not share an interpreter with what it measures with:

    python bench/load.py PORT PATH CLIENTS SIZE      prints the seconds, as a decimal number

Every client must receive 200 and exactly SIZE bytes; anything else is exit status 1.
"""

from __future__ import annotations

import selectors
import socket
import sys
from dataclasses import dataclass
from time import perf_counter

READ_BYTES = 1 << 20
HEAD_LIMIT = 64 << 10
SILENCE_SECONDS = 60.0


class LoadError(Exception):
    """A client did not receive what it asked for."""


@dataclass(slots=True)
class Reader:
    """One connection: the head is read whole, the body only counted."""

    connection: socket.socket
    head: bytes = b""
    received: int = 0
    started: bool = False

    def read(self) -> bool:
        """Take what is there. False at the end of the connection."""
        if self.started:
            # Copied out of the kernel, as every real client does, and then forgotten.
            count = self.connection.recv_into(DISCARDED)
            self.received += count
            return count > 0
        chunk = self.connection.recv(4096)
        self.head += chunk
        head, end, body = self.head.partition(b"\r\n\r\n")
        if end:
            status = head.split(b" ", 2)[1]
            if status != b"200":
                raise LoadError(f"answered {self.head[:400]!r}")
            self.started = True
            self.received = len(body)
        elif len(self.head) > HEAD_LIMIT:
            raise LoadError("the head does not end")
        return bool(chunk)


DISCARDED = bytearray(READ_BYTES)


def read_blob(port: int, path: str, clients: int, size: int) -> float:
    """Seconds until all `clients` have read all `size` bytes. Raises LoadError."""
    request = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n"
    with selectors.DefaultSelector() as selector:
        readers = [Reader(socket.create_connection(("127.0.0.1", port))) for _ in range(clients)]
        try:
            begin = perf_counter()
            for reader in readers:
                reader.connection.sendall(request.encode())
                selector.register(reader.connection, selectors.EVENT_READ, reader)
            waiting = clients
            while waiting:
                ready = selector.select(SILENCE_SECONDS)
                if not ready:
                    raise LoadError(f"{waiting} of {clients} clients heard nothing any more")
                for key, _ in ready:
                    reader = key.data
                    if not reader.read() or reader.received >= size:
                        selector.unregister(reader.connection)
                        waiting -= 1
            seconds = perf_counter() - begin
        finally:
            for reader in readers:
                reader.connection.close()
    wrong = [reader.received for reader in readers if reader.received != size]
    if wrong:
        raise LoadError(f"{len(wrong)} of {clients} clients got {wrong[0]} of {size} bytes")
    return seconds


def main(port: str, path: str, clients: str, size: str) -> int:
    """The program. Exit status 1 with the reason when a client was let down."""
    try:
        print(read_blob(int(port), path, int(clients), int(size)))
    except (LoadError, OSError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
