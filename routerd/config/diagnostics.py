"""Diagnostics: what is wrong with a policy, where, and what was probably meant.

Owns their codes' severities and their rendering (config-language.md 7). Does not own finding them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from difflib import get_close_matches
from enum import StrEnum
from typing import Any

TAB_WIDTH = 1  # columns; a tab in an excerpt is shown as one space, so that the caret stays right
EXCERPT_LIMIT = 160  # characters of a source line that are shown

# Whatever follows such a key in an excerpt is not shown: it may be a secret.
_SECRET_LINE = re.compile(r"(?i)((?:password|token|secret|key)\s*:\s*)([^#,}]+)")
_LOGIN_IN_URL = re.compile(r"(//)[^/\s@]+@")


class Severity(StrEnum):
    """Errors refuse a policy; warnings do with `--strict`; notes never."""

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


@dataclass(frozen=True, slots=True)
class Mark:
    """A place in a file, 1-based; line 0 is the file as a whole. `length` in characters."""

    line: int
    column: int
    length: int = 1


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """One thing that is wrong or doubtful, with a stable code."""

    severity: Severity
    code: str
    message: str
    file: str
    mark: Mark

    def strict(self) -> Diagnostic:
        """As `--strict` takes it: a warning is an error."""
        if self.severity is Severity.WARNING:
            return replace(self, severity=Severity.ERROR)
        return self

    def to_json(self) -> Mapping[str, Any]:
        """As `--format json` prints it."""
        return {**asdict(self), "mark": asdict(self.mark)}


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` where that is certain enough, else nothing."""
    close = get_close_matches(word, list(known), n=1, cutoff=0.7)
    return f"; did you mean '{close[0]}'?" if close else ""


def in_order(diagnostics: Iterable[Diagnostic]) -> tuple[Diagnostic, ...]:
    """By their place in the file, each once."""
    return tuple(
        sorted(
            dict.fromkeys(diagnostics),
            key=lambda d: (d.file, d.mark.line, d.mark.column, d.severity, d.code, d.message),
        )
    )


def render(diagnostic: Diagnostic, lines: Sequence[str]) -> str:
    """The diagnostic with its source line and a caret. `lines` are those of its file."""
    mark = diagnostic.mark
    where = f"{diagnostic.file}:{mark.line}:{mark.column}" if mark.line else diagnostic.file
    head = f"{where}: {diagnostic.severity}[{diagnostic.code}]: {diagnostic.message}"
    if not 0 < mark.line <= len(lines):
        return head
    source = redact(lines[mark.line - 1].replace("\t", " " * TAB_WIDTH))[:EXCERPT_LIMIT]
    column = min(mark.column, len(source) + 1)
    length = max(1, min(mark.length, len(source) + 1 - column))
    number = f"{mark.line:>5}"
    caret = " " * (column - 1) + "^" * length
    return f"{head}\n{number} | {source}\n{' ' * len(number)} | {caret}"


def redact(line: str) -> str:
    """A source line without what may be a secret. `${NAME}` is none, and stays."""

    def hide(match: re.Match[str]) -> str:
        value = match[2].rstrip()
        shown = value if re.fullmatch(r"[\"']?\$\{[^}]*\}?[\"']?", value) else "***"
        return match[1] + shown + match[2][len(value) :]

    return _SECRET_LINE.sub(hide, _LOGIN_IN_URL.sub(r"\1***@", line))
