"""Durations as the language writes them: `90s`, `15m`, `12h`, `14d`, `never`.

Owns their parsing and printing. Seconds everywhere else.
"""

from __future__ import annotations

import math
import re

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"([0-9]{1,9})(s|m|h|d)", re.ASCII)


def parse_duration(text: str) -> float:
    """Seconds; `math.inf` for `never`. Raises ValueError."""
    if text == "never":
        return math.inf
    match = _DURATION.fullmatch(text)
    if match is None:
        raise ValueError(f"'{text}' is not a duration such as 90s, 15m, 12h, 14d or never")
    return float(match[1]) * _UNITS[match[2]]


def format_duration(seconds: float) -> str:
    """The shortest form in one unit."""
    if math.isinf(seconds):
        return "never"
    for unit in ("d", "h", "m", "s"):
        count = seconds / _UNITS[unit]
        if count == int(count) and count:
            return f"{int(count)}{unit}"
    return f"{round(seconds)}s"
