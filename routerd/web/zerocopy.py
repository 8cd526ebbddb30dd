"""Parts of files from the page cache to a socket without a copy through this process: sendfile(2).

Owns the ASGI message for it (extension `http.response.zerocopysend`, ASGI 3 "Zero Copy Send"), which
Hypercorn does not know, and the system call beside uvloop, which has no `loop.sendfile`. Does not
own the connection (`listener.py`) or what is sent.
"""

from __future__ import annotations

import asyncio
import errno
import os
from typing import TYPE_CHECKING, Any, cast

from routerd.runtime.files import FilePart

if TYPE_CHECKING:
    from hypercorn.typing import (
        ASGIFramework,
        ASGIReceiveCallable,
        ASGISendCallable,
        ASGISendEvent,
        Scope,
    )

ZEROCOPY = "http.response.zerocopysend"
# sendfile(2): a file system whose files the kernel cannot send.
_NOT_SENDABLE = frozenset({errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP})


def zerocopy(part: FilePart) -> ASGISendEvent:
    """The message that sends this part as the next bytes of a body that goes on."""
    message = {
        "type": ZEROCOPY,
        "file": part.fd,
        "offset": part.start,
        "count": len(part),
        "more_body": True,
    }
    return cast("ASGISendEvent", message)


def part_of(message: ASGISendEvent) -> FilePart:
    """What such a message sends."""
    said = cast("dict[str, Any]", message)
    return FilePart(said["file"], said["offset"], said["offset"] + said["count"])


def sent_bytes(message: ASGISendEvent) -> int:
    """How many bytes of a body this message was, of whichever kind."""
    said = cast("dict[str, Any]", message)
    return said["count"] if said["type"] == ZEROCOPY else len(said.get("body", b""))


def offering(app: ASGIFramework) -> ASGIFramework:
    """The same application, told that it may send such messages."""

    async def offered(scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        cast("dict[str, Any]", scope)["extensions"][ZEROCOPY] = {}
        await app(scope, receive, send)

    return offered


class FileSender:
    """Sends parts of files on the connection of a stream writer, in order with what that writes."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self._loop = asyncio.get_running_loop()
        # The event loop lets nobody else wait for a descriptor that a transport has.
        self._fd = os.dup(writer.get_extra_info("socket").fileno())

    def close(self) -> None:
        """Done with it; the connection itself is the writer's."""
        os.close(self._fd)

    async def send(self, part: FilePart) -> None:
        """Send it whole. Raises ConnectionError, and EOFError where the file is shorter."""
        await self._flush()
        await part.into_cache()
        while part:
            if self._writer.transport.is_closing():
                raise ConnectionResetError("the connection is closed")
            try:
                sent = os.sendfile(self._fd, part.fd, part.start, len(part))
            except BlockingIOError:
                await self._writable()
                await part.into_cache()  # a slow client may have been waited for for minutes
                continue
            except OSError as error:
                if error.errno not in _NOT_SENDABLE:
                    raise
                await self._copy(part)
                return
            if sent == 0:
                raise EOFError(f"the file ends at {part.start}, not at {part.stop}")
            part = part[sent:]

    async def _copy(self, part: FilePart) -> None:
        async for chunk in part.read():
            self._writer.write(chunk)
            await self._writer.drain()

    async def _flush(self) -> None:
        """Wait until the kernel has everything that was written before."""
        transport = self._writer.transport
        if transport.get_write_buffer_size() == 0:
            return
        transport.set_write_buffer_limits(high=0)
        try:
            await self._writer.drain()
        finally:
            if not transport.is_closing():
                transport.set_write_buffer_limits()

    async def _writable(self) -> None:
        writable = self._loop.create_future()
        self._loop.add_writer(self._fd, _resolve, writable)
        try:
            await writable
        finally:
            self._loop.remove_writer(self._fd)


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
