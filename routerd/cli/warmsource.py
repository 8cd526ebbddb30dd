"""Who fetches for `routerd cache warm`: the server that runs on the data, else this process.

Owns asking the one and being the other. Does not own what is printed (`warm.py`).
"""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

from routerd.config.settings import Policy
from routerd.content.errors import StoreError
from routerd.oci.platform import Platform
from routerd.oci.reference import Reference
from routerd.proxy.service import Service
from routerd.proxy.warmfeed import feed, plain
from routerd.runtime.logs import configure

CONTROL_SOCKET = "control.sock"  # in the data directory; mode 0600

Line = Mapping[str, Any]


class SourceError(Exception):
    """Nobody can fetch. The message is for the operator."""


def rows_of(
    policy: Policy, references: Sequence[Reference], platforms: Sequence[Platform]
) -> Iterator[Line]:
    """What moves and what came of each image, as `warmfeed.plain` says it. Raises SourceError."""
    connection = _Control(policy.server.data / CONTROL_SOCKET)
    try:
        connection.connect()
    except (FileNotFoundError, ConnectionRefusedError):
        return _alone(policy, references, platforms)
    except OSError as error:
        raise SourceError(f"{connection.path}: {error.strerror}") from error
    return _asked(connection, references, platforms)


class _Control(http.client.HTTPConnection):
    """HTTP over the control socket of a server."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost")  # with no timeout: an image takes as long as it takes
        self.path = path

    def connect(self) -> None:
        """As `http.client` does it, to a path."""
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.connect(str(self.path))
        except BaseException:
            connection.close()
            raise
        self.sock = connection


def _asked(
    connection: _Control, references: Sequence[Reference], platforms: Sequence[Platform]
) -> Iterator[Line]:
    body = {"references": list(map(str, references)), "platforms": list(map(str, platforms))}
    try:
        connection.request("POST", "/v1/warm", json.dumps(body))
        answer = connection.getresponse()
        if answer.status != 200:
            [problem] = json.loads(answer.read())["errors"]
            raise SourceError(f"the server refuses: {problem['message']}")
        for line in answer:
            yield json.loads(line)
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise SourceError(f"the server stopped answering: {error}") from error
    finally:
        connection.close()


def _alone(
    policy: Policy, references: Sequence[Reference], platforms: Sequence[Platform]
) -> Iterator[Line]:
    """Fetch in this process. No schedule and no trail: that is for who serves."""
    configure(policy.server.log.format, "error")  # what a server would log stands in the lines
    quiet = replace(policy, server=replace(policy.server, audit=None), warm=())
    with asyncio.Runner() as runner:
        lines = _served(quiet, references, platforms)

        async def following() -> Line | None:
            return await anext(lines, None)

        try:
            while (line := runner.run(following())) is not None:
                yield line
        except StoreError as error:
            raise SourceError(str(error)) from error
        finally:
            runner.run(lines.aclose())


async def _served(
    policy: Policy, references: Sequence[Reference], platforms: Sequence[Platform]
) -> AsyncGenerator[Line, None]:
    async with (
        Service(policy) as service,
        aclosing(feed(service.warm, references, platforms)) as rows,
    ):
        async for row in rows:
            yield plain(row)
