"""Asking a running server, or doing it here where none runs.

Owns the choice between the control socket and the data of a stopped server, and what is said when
neither can be had. Does not own the operations: both ways lead to `proxy/operations.py`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click
import httpx

from routerd.config.settings import Policy
from routerd.content.errors import StoreError, StoreInUse
from routerd.oci.errors import RegistryError
from routerd.proxy.operations import OPERATIONS, Row, run
from routerd.proxy.service import Service
from routerd.runtime.unixsocket import is_answered, short_path
from routerd.web.control import PREFIX, SOCKET

_CONNECT_SECONDS = 5.0  # an operation itself may take hours

T = TypeVar("T")


def rows_of(
    policy: Policy, name: str, arguments: Mapping[str, Any], *, begins: bool = False
) -> Iterator[Row]:
    """The rows of an operation, from whoever can tell. `begins`: also where nothing is stored yet.

    Raises click.ClickException.
    """
    data = policy.server.data
    given = {key: value for key, value in arguments.items() if value is not None}
    if is_served(data):
        return _asked(data / SOCKET, name, given)
    if not begins and not data.is_dir():
        raise click.ClickException(
            f"there is nothing in {data} yet, and no server runs on it: is this the server's policy?"
        )
    return _done_here(policy, name, given)


def is_served(data: Path) -> bool:
    """Whether a server answers at the control socket. Raises click.ClickException."""
    path = data / SOCKET
    try:
        return is_answered(path)
    except OSError as error:
        raise click.ClickException(
            f"a server has made the control socket {path}, but it cannot be asked "
            f"({error.strerror}): run this as the user that it runs as"
        ) from error


def _asked(path: Path, name: str, arguments: Mapping[str, Any]) -> Iterator[Row]:
    timeout = httpx.Timeout(None, connect=_CONNECT_SECONDS)
    with short_path(path) as uds:
        transport = httpx.HTTPTransport(uds=uds)
        try:
            with (
                httpx.Client(transport=transport, timeout=timeout) as client,
                client.stream("POST", f"http://routerd{PREFIX}{name}", json=arguments) as answer,
            ):
                if answer.status_code != 200:
                    raise click.ClickException(_problem(answer.read()))
                for line in answer.iter_lines():
                    yield json.loads(line)
        except httpx.HTTPError as error:
            raise click.ClickException(
                f"the server broke off ({error}); its log says why"
            ) from error


def _problem(body: bytes) -> str:
    try:
        message: str = json.loads(body)["errors"][0]["message"]
    except (ValueError, LookupError, TypeError):
        return "the server refused without a reason; its log says why"
    return message


def _done_here(policy: Policy, name: str, arguments: Mapping[str, Any]) -> Iterator[Row]:
    async def rows() -> AsyncGenerator[Row, None]:
        async with (
            Service(policy, background=False, claims=OPERATIONS[name].claims) as service,
            aclosing(run(service, name, arguments)) as found,
        ):
            async for row in found:
                yield json.loads(json.dumps(row))  # as the socket would have carried it

    return each(rows(), policy.server.data)


async def _next(rows: AsyncGenerator[T, None]) -> T | None:
    return await anext(rows, None)


def each(rows: AsyncGenerator[T, None], data: Path) -> Iterator[T]:
    """What an asynchronous generator yields, in a loop of its own. Raises click.ClickException."""
    with asyncio.Runner() as runner, translated(data):
        try:
            while (row := runner.run(_next(rows))) is not None:
                yield row
        finally:
            runner.run(rows.aclose())


@contextmanager
def translated(data: Path) -> Iterator[None]:
    """What goes wrong on a stopped server's data, as the end of a command."""
    try:
        yield
    except StoreInUse as error:
        raise click.ClickException(
            f"{error}, and nobody answers at {data / SOCKET}: wait until it has started, or stop it"
        ) from error
    except (StoreError, OSError) as error:
        raise click.ClickException(str(error)) from error
    except RegistryError as error:
        raise click.ClickException(error.message) from error
