"""Several worker processes on one data directory: started, watched, started again, drained.

Owns the processes, and for all of them the control socket and the locks of the stores. Does not own
what a worker does (`worker.py`) or binding (`sockets.py`). It runs no event loop and no threads, so
that each worker is forked from a process that is nothing but the compiled policy and open sockets; what
workers have to agree on they find in the stores' indexes.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack

import structlog

from routerd.config.compile import Policy
from routerd.content.directory import hold
from routerd.content.errors import StoreError
from routerd.web.control import controlled
from routerd.web.worker import TERMINATION_SECONDS, prepare, work

log = structlog.get_logger("routerd.supervisor")

# A worker that ends by itself is started again: at once, and after ever longer pauses where it
# does not live for LIVELY_SECONDS.
LIVELY_SECONDS = 10.0
PAUSE_SECONDS = (0.0, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
KILL_SECONDS = 2.0  # beyond the drain and its termination, for workers to end
WATCH_SECONDS = 1.0  # the longest that a pause or a deadline is noticed late

_SIGNALS = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGCHLD})
_PR_SET_PDEATHSIG = 1  # prctl(2)


class Supervisor:
    """The workers of one policy. `run` returns when all have ended after SIGTERM or SIGINT."""

    def __init__(
        self, policy: Policy, registry: Sequence[socket.socket], admin: Sequence[socket.socket]
    ) -> None:
        self._policy = policy
        self._registry = registry
        self._admin = admin
        self._control: socket.socket | None = None
        self._workers: dict[int, float] = {}  # process id -> when it was started
        self._failures = 0  # in a row
        self._restarts: list[float] = []  # when the missing ones are started; time.monotonic()
        self._kill_at: float | None = None  # time.monotonic(); set when it drains

    def run(self) -> None:
        """Run the workers. Raises StoreError where a store cannot be used."""
        with ExitStack() as stack:
            self._prepare()
            for path in self._policy.stores:
                stack.callback(os.close, hold(path))
            # Made once, and before a worker is: each of them serves it.
            self._control = stack.enter_context(controlled(self._policy.server.data))
            former = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
            stack.callback(signal.pthread_sigmask, signal.SIG_SETMASK, former)
            for _ in range(self._policy.server.workers):
                self._start()
            while self._workers or self._restarts:
                self._step(signal.sigtimedwait(_SIGNALS, WATCH_SECONDS))
        log.info("stopped")

    def _prepare(self) -> None:
        """Open everything once, in a process of its own: its threads must not be here."""
        reading, writing = os.pipe()
        with os.fdopen(reading, "rb") as said:
            pid = _fork(lambda: prepare(self._policy, writing))
            os.close(writing)
            problem = said.read().decode()
        _, status = os.waitpid(pid, 0)
        if status:
            raise StoreError(problem or "the stores could not be opened; see the log")

    def _step(self, heard: signal.struct_siginfo | None) -> None:
        now = time.monotonic()
        if heard is not None and heard.si_signo == signal.SIGCHLD:
            self._reap(now)
        elif heard is not None:
            self._stop(now)
        if self._kill_at is not None and now >= self._kill_at:
            self._tell(signal.SIGKILL)
        due = [at for at in self._restarts if at <= now]
        self._restarts = [at for at in self._restarts if at > now]
        for _ in due:
            self._start()

    def _start(self) -> None:
        control = self._control
        assert control is not None, "`run` has made it"
        pid = _fork(lambda: work(self._policy, self._registry, self._admin, control))
        self._workers[pid] = time.monotonic()

    def _reap(self, now: float) -> None:
        """See who has ended, and when each that should not have is to be started again."""
        for pid in list(self._workers):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if not ended:
                continue
            lived = now - self._workers.pop(pid)
            if self._kill_at is not None:
                continue
            self._failures = 1 if lived >= LIVELY_SECONDS else self._failures + 1
            pause = PAUSE_SECONDS[min(self._failures, len(PAUSE_SECONDS)) - 1]
            log.error("a worker ended", worker=pid, how=_how(status), again_in_seconds=pause)
            self._restarts.append(now + pause)

    def _stop(self, now: float) -> None:
        """Drain; told a second time, end at once what still runs."""
        if self._kill_at is None:
            drain = self._policy.server.drain
            self._kill_at = now + drain + TERMINATION_SECONDS + KILL_SECONDS
            for listener in self._registry:
                listener.close()  # the workers' copies go too: from then on connections are refused
        self._restarts.clear()
        self._tell(signal.SIGTERM)

    def _tell(self, number: signal.Signals) -> None:
        for pid in self._workers:
            os.kill(pid, number)


def _fork(run: Callable[[], int]) -> int:
    """`run` in a process of its own, which ends with what that returns and with this process."""
    sys.stdout.flush()
    sys.stderr.flush()
    parent = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() == parent:  # else that came too late
            # The terminal's goes to all of them; the supervisor passes it on in its own way.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
            status = run()
    finally:
        sys.stderr.flush()
        os._exit(status)


def _how(status: int) -> str:
    code = os.waitstatus_to_exitcode(status)
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
