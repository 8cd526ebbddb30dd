"""Log lines that are no terminal's: one event a line, whatever is in it."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = r"""
import logging, structlog
from routerd.runtime.logs import configure
configure("text", "info")
log = structlog.get_logger("x")
log.info("request", path="/v2/\x1b[31m\r\tx", flag=True, status=404, error='a "quoted" word\nand more')
logging.getLogger("lib").warning("from a library", extra={"two words": "value"})
try:
    1 / 0
except ZeroDivisionError as error:
    log.error("failed", exc_info=error)
"""


def test_a_logfmt_line_is_one_line_without_control_characters() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True
    )
    lines = done.stderr.splitlines()
    assert len(lines) == 3, done.stderr
    first, second, third = lines
    assert first.startswith("timestamp=2")
    assert first.partition(" ")[2] == (
        r"level=info event=request path=/v2/\x1b[31m\r\tx flag=true status=404 "
        r'error="a \"quoted\" word\nand more"'
    )
    assert 'event="from a library"' in second
    assert "two_words=value" in second
    assert r"ZeroDivisionError: division by zero" in third
