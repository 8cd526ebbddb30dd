"""Diagnostics: what is wrong with a policy, where, and what was probably meant.

Owns their codes' severities and their rendering (config-language.md 7). Does not own finding them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from difflib import get_close_matches
from enum import StrEnum
from typing import Any

TAB_WIDTH = 1  # columns; a tab in an excerpt is shown as one space, so that the caret stays right
EXCERPT_LIMIT = 160  # characters of a source line that are shown


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
    """The diagnostic with its source line and a caret. `lines` are those of its file, without
    secrets (`redaction.py`).
    """
    mark = diagnostic.mark
    where = f"{diagnostic.file}:{mark.line}:{mark.column}" if mark.line else diagnostic.file
    head = f"{where}: {diagnostic.severity}[{diagnostic.code}]: {diagnostic.message}"
    if not 0 < mark.line <= len(lines):
        return head
    source, column = _window(lines[mark.line - 1].replace("\t", " " * TAB_WIDTH), mark.column)
    length = max(1, min(mark.length, len(source) + 1 - column))
    number = f"{mark.line:>5}"
    caret = " " * (column - 1) + "^" * length
    return f"{head}\n{number} | {source}\n{' ' * len(number)} | {caret}"


def _window(line: str, column: int) -> tuple[str, int]:
    """The part of a long line around the column, and the column in it."""
    column = min(column, len(line) + 1)
    if len(line) <= EXCERPT_LIMIT:
        return line, column
    start = max(0, min(column - 1 - EXCERPT_LIMIT // 2, len(line) - EXCERPT_LIMIT))
    end = start + EXCERPT_LIMIT
    before, after = "…" if start else "", "…" if end < len(line) else ""
    return before + line[start:end] + after, column - start + len(before)
