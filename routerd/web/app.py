"""The Quart application: its settings, its one route, and the one place that renders errors.

Owns turning any failure into an answer of the registry API. Does not own what a call means
(`v2.py`) or how it is served (`server.py`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import structlog
from quart import Quart, Response, request
from werkzeug.exceptions import HTTPException

from routerd.oci.errors import Code, RegistryError
from routerd.proxy.service import Service
from routerd.web import responses
from routerd.web.body import ClientDisconnected
from routerd.web.connection import RegistryConnection, RegistryRequest
from routerd.web.health import Health
from routerd.web.v2 import RegistryApi

log = structlog.get_logger("routerd.web")

METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]

View = Callable[[RegistryRequest], Awaitable[Response]]


def create_app(service: Service, health: Health) -> Quart:
    """The application of the registry listener."""
    api = RegistryApi(service)

    async def view(call: RegistryRequest) -> Response:
        if (answer := health.answer(call)) is not None:
            return answer
        return await api.answer(call)

    return _application(view)


def create_admin_app(health: Health) -> Quart:
    """The application of the admin listener."""

    async def view(call: RegistryRequest) -> Response:
        if (answer := health.answer(call)) is not None:
            return answer
        raise RegistryError(
            Code.UNSUPPORTED, "the admin listener answers /healthz and /readyz", status=404
        )

    return _application(view)


def _application(view: View) -> Quart:
    app = Quart("routerd", static_folder=None)
    app.asgi_http_class = RegistryConnection
    app.request_class = RegistryRequest
    # Quart's own limits cover a whole transfer (stack.md); `body.py` and `connection.py` bound silence.
    app.config["RESPONSE_TIMEOUT"] = None
    app.config["BODY_TIMEOUT"] = None
    app.config["MAX_CONTENT_LENGTH"] = None
    app.config["PROVIDE_AUTOMATIC_OPTIONS"] = False
    # A registry's paths are read from the raw path, from the right: no redirects, no rewriting.
    app.url_map.merge_slashes = False
    app.url_map.strict_slashes = False
    app.url_map.redirect_defaults = False

    async def handle(path: str = "") -> Response:
        return await view(request._get_current_object())  # type: ignore[attr-defined]

    app.add_url_rule("/", "root", handle, methods=METHODS)
    app.add_url_rule("/<path:path>", "any", handle, methods=METHODS)
    app.register_error_handler(RegistryError, _on_registry_error)
    app.register_error_handler(HTTPException, _on_http_exception)
    app.register_error_handler(ClientDisconnected, _on_disconnect)
    app.register_error_handler(Exception, _on_failure)
    return app


async def _on_registry_error(problem: RegistryError) -> Response:
    request.record.error = problem.message  # type: ignore[attr-defined]
    return responses.error(problem, head=request.method == "HEAD")


async def _on_http_exception(problem: HTTPException) -> Response:
    # Only Quart itself raises these: a method or a path that no route of it has.
    return await _on_registry_error(
        RegistryError(
            Code.UNSUPPORTED, f"{problem.code} {problem.name}", status=problem.code or 400
        )
    )


async def _on_disconnect(problem: ClientDisconnected) -> Response:
    return await _on_registry_error(RegistryError(Code.BLOB_UPLOAD_INVALID, str(problem)))


async def _on_failure(problem: Exception) -> Response:
    log.error("request failed", path=request.path, exc_info=problem)
    return await _on_registry_error(
        RegistryError(Code.UNKNOWN, "routerd failed to answer; its log says why")
    )
