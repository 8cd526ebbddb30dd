"""Unix sockets in directories whose names may be long.

Owns getting around the 107 bytes that the kernel allows for a socket's path (unix(7)). Does not own
what is spoken on it.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_PATH_LIMIT = 107  # bytes


@contextmanager
def short_path(path: Path) -> Iterator[str]:
    """A name of the socket that the kernel takes, good until left."""
    name = str(path.absolute())
    if len(os.fsencode(name)) <= _PATH_LIMIT:
        yield name
        return
    directory = os.open(path.absolute().parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)


def is_answered(path: Path) -> bool:
    """Whether somebody listens there. Raises PermissionError where this user may not ask."""
    with short_path(path) as name, socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(name)
        except (FileNotFoundError, ConnectionRefusedError):
            return False
    return True


def bind_unix(path: Path, backlog: int) -> socket.socket:
    """A listening socket that only this user may connect to; in place of one that nobody serves.

    Raises OSError.
    """
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX)
    try:
        with short_path(path) as name:
            listener.bind(name)
        path.chmod(0o600)  # before it listens, nobody can connect
        listener.listen(backlog)
    except OSError:
        listener.close()
        raise
    return listener
