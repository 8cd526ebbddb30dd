"""The Quart application: its settings, its one view, and the one place that renders errors.

Owns turning any failure into an answer of the registry API. Does not own what a call means
(`v2.py`) or how it is served (`server.py`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import structlog
from quart import Quart, Request, Response
from quart.typing import ResponseTypes

from routerd.oci.errors import Code, RegistryError
from routerd.proxy.service import Service
from routerd.web import responses
from routerd.web.body import ClientDisconnected
from routerd.web.connection import RegistryConnection, RegistryRequest
from routerd.web.health import Health
from routerd.web.v2 import RegistryApi

log = structlog.get_logger("routerd.web")

View = Callable[[RegistryRequest], Awaitable[Response]]


def create_app(service: Service, health: Health) -> Quart:
    """The application of the registry listener."""
    api = RegistryApi(service)

    async def view(call: RegistryRequest) -> Response:
        if (answer := health.answer(call)) is not None:
            return answer
        return await api.answer(call)

    return Application(view)


def create_admin_app(health: Health) -> Quart:
    """The application of the admin listener."""

    async def view(call: RegistryRequest) -> Response:
        if (answer := health.answer(call)) is not None:
            return answer
        raise RegistryError(
            Code.UNSUPPORTED, "the admin listener answers /healthz and /readyz", status=404
        )

    return Application(view)


class Application(Quart):
    """Quart without its dispatch: one view answers every method and path, read from the raw path.

    Its URL map, contexts and signals would cost each small answer a tenth of its time, and nothing
    here asks for them (docs/performance.md, "Small answers").
    """

    asgi_http_class = RegistryConnection
    request_class = RegistryRequest

    def __init__(self, view: View) -> None:
        super().__init__("routerd", static_folder=None)
        self._view = view
        # Quart's own limits cover a whole transfer (stack.md); `body.py` and `connection.py` bound
        # silence.
        self.config["RESPONSE_TIMEOUT"] = None
        self.config["BODY_TIMEOUT"] = None
        self.config["MAX_CONTENT_LENGTH"] = None

    async def handle_request(self, request: Request) -> ResponseTypes:
        """The answer to one request, whatever goes wrong."""
        assert isinstance(request, RegistryRequest)
        try:
            return await self._view(request)
        except RegistryError as problem:
            return _error(request, problem)
        except ClientDisconnected as problem:
            return _error(request, RegistryError(Code.BLOB_UPLOAD_INVALID, str(problem)))
        except Exception as problem:
            log.error("request failed", path=request.path, exc_info=problem)
            return _error(
                request, RegistryError(Code.UNKNOWN, "routerd failed to answer; its log says why")
            )


def _error(request: RegistryRequest, problem: RegistryError) -> Response:
    request.record.error = problem.message
    return responses.error(problem, head=request.method == "HEAD")
