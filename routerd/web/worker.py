"""One process that serves: with `workers: 1` the only one, else one of several.

Owns what a process does between its first and its last moment: settings of the interpreter and the C
library, the listeners, the signals, the drain. Does not own binding (`sockets.py`), other processes
(`supervisor.py`), connections (`listener.py`) or the application (`app.py`).
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import socket
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any
from urllib.parse import urlsplit

import structlog
import uvloop

from routerd.config.compile import Policy
from routerd.config.settings import Address, EndpointSpec
from routerd.content.errors import StoreError
from routerd.proxy.service import Service
from routerd.runtime.tasks import Tasks
from routerd.web.app import create_admin_app, create_app
from routerd.web.control import controlled, serve_control
from routerd.web.health import Health, State
from routerd.web.listener import listen
from routerd.web.sockets import ListenError

log = structlog.get_logger("routerd.server")

# How long a thread that hashes and writes waits for the interpreter when the event loop is busy. Of
# Python's 5 ms, a download of many small steps waits more than it works (docs/performance.md).
SWITCH_SECONDS = 0.0002
TERMINATION_SECONDS = 2.0  # beyond `drain`, for connections that are cut to end
# mallopt(3): what is freed at the end of the heap, and from which size on it is not of the heap.
KEPT_BYTES = 32 * 1024 * 1024
MAPPED_BYTES = 4 * 1024 * 1024
ARENAS = 2  # else each thread may have one, and keep as much again
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8


def serve_alone(
    policy: Policy, registry: Sequence[socket.socket], admin: Sequence[socket.socket]
) -> None:
    """Be the only worker, until SIGTERM or SIGINT. Raises ListenError, StoreError."""
    _run(Worker(policy, registry, admin))


def work(
    policy: Policy,
    registry: Sequence[socket.socket],
    admin: Sequence[socket.socket],
    control: socket.socket,
) -> int:
    """Be one of several workers, until SIGTERM; the exit status."""
    try:
        _run(Worker(policy, registry, admin, control))
    except (ListenError, StoreError) as error:
        log.error("this worker cannot serve", why=str(error))
        return 1
    return 0


def prepare(policy: Policy, complain_to: int) -> int:
    """Open and close everything once, so that all workers find it made; the exit status.

    What is wrong with a store is written to the descriptor.
    """

    async def open_and_close() -> None:
        async with Service(policy):
            pass

    try:
        asyncio.run(open_and_close())
    except StoreError as error:
        os.write(complain_to, str(error).encode())
        return 1
    return 0


def _run(worker: Worker) -> None:
    sys.setswitchinterval(SWITCH_SECONDS)
    keep_freed_memory()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(worker.run())


def keep_freed_memory() -> None:
    """Have the C library keep what is freed, up to KEPT_BYTES an arena, for the next chunk of a body.

    glibc gives each freed chunk back to the system, and the next one is made of fresh pages: an
    eighth of a download's time (docs/performance.md). Another C library does as it does.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES)
        mallopt(_M_MMAP_THRESHOLD, MAPPED_BYTES)
        mallopt(_M_ARENA_MAX, ARENAS)


class Worker:
    """One process that serves: its listeners, its signals, its drain."""

    def __init__(
        self,
        policy: Policy,
        registry: Sequence[socket.socket],
        admin: Sequence[socket.socket],
        control: socket.socket | None = None,
    ) -> None:
        """`control`: the control socket, which the supervisor of several workers has made."""
        self._policy = policy
        self._control = control
        self._shared = control is not None
        self._registry = registry
        self._admin = admin
        self._health = Health()
        self._stop = asyncio.Event()
        self._ended = asyncio.Event()

    async def run(self) -> None:
        """Serve until told to stop. A second signal ends at once what still runs."""
        loop = asyncio.get_running_loop()
        # Of several workers SIGINT is the supervisor's.
        for number in (signal.SIGTERM,) if self._shared else (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal)
        loop.set_exception_handler(_on_loop_exception)
        tasks = Tasks()
        try:
            async with Service(self._policy, shared=self._shared) as service:
                with ExitStack() as stack:
                    control = self._control
                    if control is None:
                        control = stack.enter_context(controlled(self._policy.server.data))
                    await self._serve(service, tasks, control)
        finally:
            await tasks.aclose(grace=0)

    async def _serve(self, service: Service, tasks: Tasks, control: socket.socket) -> None:
        admin = tasks.spawn(
            "admin listener",
            listen(create_admin_app(self._health), self._admin, self._ended, TERMINATION_SECONDS),
        )
        drain = self._policy.server.drain
        worker = tasks.spawn(
            "registry listener",
            listen(create_app(service, self._health), self._registry, self._stop, drain),
        )
        operator = tasks.spawn("control socket", serve_control(service, control, self._ended))
        stopping = tasks.spawn("stop signal", self._stop.wait())
        self._warn_of_itself()
        self._health.state = State.READY
        log.info(
            "serving",
            listen=[_name(s) for s in self._registry],
            admin=[_name(s) for s in self._admin],
            policy=str(self._policy.path),
            fingerprint=self._policy.fingerprint[:12],
        )
        await asyncio.wait({worker, admin, stopping}, return_when=asyncio.FIRST_COMPLETED)
        self._health.state = State.DRAINING
        failed = not stopping.done()
        self._stop.set()
        for listener in self._registry:
            listener.close()  # the worker's copy goes too: from here on connections are refused
        log.info("draining", seconds=drain)
        ended = tasks.spawn("second signal", self._ended.wait())
        await asyncio.wait(
            {worker, ended},
            timeout=drain + TERMINATION_SECONDS,
            return_when=asyncio.FIRST_COMPLETED,
        )
        self._ended.set()
        worker.cancel()
        await asyncio.wait({worker, admin, operator}, timeout=TERMINATION_SECONDS)
        log.info("stopped")
        if failed:
            raise ListenError("a listener ended although nobody stopped it; see the log")

    def _warn_of_itself(self) -> None:
        """protocol.md 3: an endpoint whose URL is a listener of ours would ask itself."""
        own = {listener.getsockname()[:2] for listener in self._registry}
        for spec in self._policy.endpoints.values():
            for url in _urls(spec):
                parts = urlsplit(url)
                host = "127.0.0.1" if parts.hostname == "localhost" else parts.hostname
                if (host, parts.port) in own:
                    log.warning("the URL of this endpoint is this server's own", endpoint=spec.name)

    def _on_signal(self) -> None:
        (self._ended if self._stop.is_set() else self._stop).set()


def _on_loop_exception(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    if isinstance(context.get("exception"), asyncio.CancelledError):
        # asyncio's streams report a connection that Hypercorn cut as if that had gone wrong.
        log.warning("a connection was cut at the end of the drain")
        return
    loop.default_exception_handler(context)


def _urls(spec: EndpointSpec) -> list[str]:
    said = spec.options.get("url", "")
    if spec.type == "remote":
        return [upstream["url"] for upstream in said]
    return [said] if isinstance(said, str) else []


def _name(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return str(Address(host, port))
