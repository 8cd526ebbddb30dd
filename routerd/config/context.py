"""What every part of the compiler reads from and notes its problems in.

Owns looking a value up together with its place, its variables and its form's verdict.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from routerd.config.diagnostics import Diagnostic, Mark, Severity
from routerd.config.document import Document, KeyPath
from routerd.config.durations import parse_duration
from routerd.config.variables import MissingVariable, expand
from routerd.routing.policy import Origin


@dataclass(frozen=True, slots=True)
class Context:
    """One compilation. `bad` are the paths that the schema refused; they read as not written."""

    document: Document
    bad: set[KeyPath]
    environment: Mapping[str, str] | None
    directory: Path  # what relative paths count from

    def get(self, path: KeyPath, default: Any = None) -> Any:
        """The value at `path`; the default where it is not written or not usable."""
        value: Any = self.document.values
        for depth, key in enumerate(path, start=1):
            if path[:depth] in self.bad or not _has(value, key):
                return default
            value = value[key]
        return value

    def names(self, path: KeyPath) -> list[str]:
        """The keys of the mapping at `path`, usable or not."""
        value = self.get(path)
        return [str(key) for key in value] if isinstance(value, dict) else []

    def origin(self, path: KeyPath) -> Origin:
        """Where the key of `path` stands."""
        return Origin(Path(self.document.file).name, self.document.key(path).line)

    def duration(self, path: KeyPath, default: float) -> float:
        """Seconds."""
        text = self.get(path)
        return default if text is None else parse_duration(text)

    def expanded(self, path: KeyPath, default: str | None = None) -> str | None:
        """The text at `path` with its variables out of the environment."""
        text = self.get(path)
        if not isinstance(text, str):
            return default
        expanded = self.expand(text, path)
        return default if expanded is None else expanded

    def expand(self, text: str, path: KeyPath) -> str | None:
        """`text`, which stands at `path`, with its variables. None, noted, where one is missing;
        None, not noted, where there is no environment to know it from: nothing to be checked.
        """
        try:
            return expand(text, self.environment)
        except MissingVariable as missing:
            message = f"the environment variable {missing.name} is not set"
            self.error("missing-secret", message, self.document.value(path))
            return None

    def path(self, path: KeyPath, default: str | None = None) -> Path | None:
        """The file or directory named at `path`, absolute."""
        text = self.expanded(path, default)
        return None if text is None else (self.directory / text).absolute()

    def error(self, code: str, message: str, mark: Mark) -> None:
        """Note an error."""
        self.document.error(code, message, mark)

    def warn(self, code: str, message: str, mark: Mark) -> None:
        """Note a warning."""
        self.note(Severity.WARNING, code, message, mark)

    def note(self, severity: Severity, code: str, message: str, mark: Mark) -> None:
        """Note anything."""
        problem = Diagnostic(severity, code, message, self.document.file, mark)
        self.document.problems.append(problem)


def _has(value: Any, key: str | int) -> bool:
    """Whether there is something at `key` of a mapping, or of a list."""
    if isinstance(value, list):
        return isinstance(key, int) and key < len(value)
    return isinstance(value, dict) and key in value
