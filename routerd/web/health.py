"""Health on both listeners: `/healthz` (the process answers) and `/readyz` (it takes requests).

Owns the state of serving. Does not own starting or stopping it (`server.py`).
"""

from __future__ import annotations

from enum import StrEnum

from quart import Request, Response

from routerd.web import responses


class State(StrEnum):
    """What a load balancer is told."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"


class Health:
    """The one state of this process that both listeners answer with."""

    def __init__(self) -> None:
        self.state = State.STARTING

    def answer(self, request: Request) -> Response | None:
        """The answer to a health check; None where the request is something else.

        Readiness never depends on an upstream: a mirror that still has its content is of use.
        """
        if request.path not in ("/healthz", "/readyz") or request.method not in ("GET", "HEAD"):
            return None
        ready = request.path == "/healthz" or self.state is State.READY
        return responses.document(
            {"status": str(self.state)},
            {"Cache-Control": "no-store"},
            status=200 if ready else 503,
            head=request.method == "HEAD",
        )
