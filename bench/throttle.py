"""A TCP forwarder that lets so many bytes a second through to its clients, all together.

python bench/throttle.py LISTEN_PORT TARGET_PORT BYTES_PER_SECOND
"""

from __future__ import annotations

import asyncio
import sys
import time

CHUNK = 64 * 1024
BURST_SECONDS = 0.01


class Throttle:
    """One budget of bytes for every connection."""

    def __init__(self, target: int, rate: float) -> None:
        self._target = target
        self._rate = rate
        self._free_at = time.monotonic()
        self._serving: set[asyncio.Task[None] | None] = set()  # which nobody else holds on to

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Forward one connection until either side ends it."""
        self._serving.add(asyncio.current_task())
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._target)
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(self._pass(reader, up_writer, limited=False))
                both.create_task(self._pass(up_reader, writer, limited=True))
        except* ConnectionError:
            pass  # one of the two has had enough
        finally:
            self._serving.discard(asyncio.current_task())
            writer.close()
            up_writer.close()

    async def _pass(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, limited: bool
    ) -> None:
        while chunk := await reader.read(CHUNK):
            if limited:
                now = time.monotonic()
                self._free_at = max(self._free_at, now) + len(chunk) / self._rate
                if self._free_at - now > BURST_SECONDS:
                    await asyncio.sleep(self._free_at - now)
            writer.write(chunk)
            await writer.drain()
        writer.write_eof()


async def main() -> None:
    """Listen until killed."""
    listen, target, rate = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    server = await asyncio.start_server(Throttle(target, rate).serve, "127.0.0.1", listen)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
