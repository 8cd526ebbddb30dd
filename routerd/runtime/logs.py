"""Where log lines go and how they look: one event a line on stderr, as logfmt or JSON.

Owns the set-up of structlog and of the standard library's logging, through which the floors below
and the libraries speak. Does not own what is logged.
"""

from __future__ import annotations

import logging
import re
import sys
from typing import Literal

import structlog

LogFormat = Literal["text", "json"]

_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]")  # line ends are the renderer's
_render_logfmt = structlog.processors.LogfmtRenderer(
    key_order=["timestamp", "level", "event"], bool_as_flag=False
)


def configure(log_format: LogFormat, level: str) -> None:
    """Send every log line to stderr. `level` is a name of `logging`, in any case."""
    number = logging.getLevelNamesMapping()[level.upper()]
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    renderer: structlog.typing.Processor
    if log_format == "json":
        renderer = structlog.processors.JSONRenderer()
    elif sys.stderr.isatty():
        renderer = structlog.dev.ConsoleRenderer(sort_keys=False)
    else:
        # For programs that collect logs, and at half the cost a request.
        renderer = _logfmt
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.ExtraAdder()],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(number)
    for noisy in ("httpx", "aiohttp.access", "hypercorn.error", "asyncio"):
        # One line a request is ours to write; the libraries speak up only about trouble.
        logging.getLogger(noisy).setLevel(max(number, logging.WARNING))


def _logfmt(logger: object, name: str, event: structlog.typing.EventDict) -> str:
    """One line without control characters, which a log's reader would obey, and with words for keys."""
    clean = {
        "_".join(key.split()): _CONTROL.sub(_escaped, value) if isinstance(value, str) else value
        for key, value in event.items()
    }
    return _render_logfmt(logger, name, clean)


def _escaped(control: re.Match[str]) -> str:
    return control[0].encode("unicode_escape").decode("ascii")
