"""Serving: the listening sockets, the signals, the drain. One process is supervisor and worker.

Owns binding, the process's settings and its end. The supervisor binds and hands sockets over, the
worker serves them; with `workers: 1` both are this process, on the same path. Does not own the
connections (`listener.py`), the application (`app.py`) or what it needs (`proxy/service.py`).
"""

from __future__ import annotations

import asyncio
import ctypes
import resource
import signal
import socket
import sys
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

import structlog
import uvloop

from routerd.config.compile import Policy
from routerd.config.settings import Address
from routerd.proxy.service import Service
from routerd.runtime.tasks import Tasks
from routerd.web.app import create_admin_app, create_app
from routerd.web.control import bind_control, serve_control
from routerd.web.health import Health, State
from routerd.web.listener import BACKLOG, listen

log = structlog.get_logger("routerd.server")

# How long a thread that hashes and writes waits for the interpreter when the event loop is busy. Of
# Python's 5 ms, a download of many small steps waits more than it works (docs/performance.md).
SWITCH_SECONDS = 0.0002
TERMINATION_SECONDS = 2.0  # beyond `drain`, for connections that are cut to end
# mallopt(3): what is freed at the end of the heap, and from which size on it is not of the heap.
KEPT_BYTES = 32 * 1024 * 1024
_CHUNK_BYTES = 4 * 1024 * 1024
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


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
            # From here on connections wait for the worker instead of being refused.
            listener.listen(BACKLOG)
        except OSError:
            listener.close()
            raise
    except OSError as error:
        raise ListenError(f"cannot listen on {address}: {error.strerror or error}") from error
    return listener


def serve(policy: Policy) -> None:
    """Bind, serve until SIGTERM or SIGINT, drain, return. Raises ListenError, StoreError."""
    registry = [bind(address) for address in policy.server.listen]
    admin = [bind(policy.server.admin)] if policy.server.admin is not None else []
    sys.setswitchinterval(SWITCH_SECONDS)
    raise_descriptor_limit()
    keep_freed_memory()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(Supervisor(policy, registry, admin).run())


def raise_descriptor_limit() -> None:
    """Allow as many open files as the system lets this user have: each client and blob is one."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def keep_freed_memory() -> None:
    """Have the C library keep what is freed, up to KEPT_BYTES, for the next chunk of a body.

    glibc gives each freed chunk back to the system, and the next one is made of fresh pages: an
    eighth of a download's time (docs/performance.md). Another C library does as it does.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES)
        mallopt(_M_MMAP_THRESHOLD, _CHUNK_BYTES)


class Supervisor:
    """Owns the sockets and the signals of a running routerd; runs its one worker."""

    def __init__(
        self,
        policy: Policy,
        registry: Sequence[socket.socket],
        admin: Sequence[socket.socket],
    ) -> None:
        self._policy = policy
        self._registry = registry
        self._admin = admin
        self._health = Health()
        self._stop = asyncio.Event()
        self._ended = asyncio.Event()

    async def run(self) -> None:
        """Serve until told to stop. A second signal ends at once what still runs."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal)
        loop.set_exception_handler(_on_loop_exception)
        tasks = Tasks()
        try:
            async with Service(self._policy) as service:
                await self._serve(service, tasks)
        finally:
            await tasks.aclose(grace=0)

    async def _serve(self, service: Service, tasks: Tasks) -> None:
        admin = tasks.spawn(
            "admin listener",
            listen(create_admin_app(self._health), self._admin, self._ended, TERMINATION_SECONDS),
        )
        drain = self._policy.server.drain
        worker = tasks.spawn(
            "registry listener",
            listen(create_app(service, self._health), self._registry, self._stop, drain),
        )
        control = bind_control(self._policy.server.data)
        tasks.spawn("control socket", serve_control(service, control, self._ended))
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
        await asyncio.wait({worker, admin}, timeout=TERMINATION_SECONDS)
        log.info("stopped")
        if failed:
            raise ListenError("a listener ended although nobody stopped it; see the log")

    def _warn_of_itself(self) -> None:
        """protocol.md 3: an endpoint whose URL is a listener of ours would ask itself."""
        own = {listener.getsockname()[:2] for listener in self._registry}
        for spec in self._policy.endpoints.values():
            parts = urlsplit(str(spec.options.get("url", "")))
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


def _name(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return str(Address(host, port))
