"""Secrets that print as nothing but stars.

Owns that no secret reaches a log, a traceback or `config show`. Does not own where they may stand.
"""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

SECRET_FILE_LIMIT = 64 * 1024  # bytes; registry tokens are some kilobytes


class SecretError(Exception):
    """A secret cannot be read. The message names its key, never its content."""


class Secret:
    """A value that does not print. From a file, it is read on each use, so a rotated one counts."""

    __slots__ = ("_file", "_key", "_value")

    def __init__(self, key: str, *, value: str | None = None, file: Path | None = None) -> None:
        if (value is None) == (file is None):
            raise ValueError("a secret has a value or a file")
        self._key = key
        self._value = value
        self._file = file

    def reveal(self) -> str:
        """The secret itself. Blocks for a file; raises SecretError."""
        if self._file is None:
            assert self._value is not None
            return self._value
        try:
            with self._file.open("rb") as content:
                data = content.read(SECRET_FILE_LIMIT + 1)
            if len(data) > SECRET_FILE_LIMIT:
                raise SecretError(f"{self._key}: {self._file} is too large for a secret")
            return data.decode().rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            raise SecretError(f"{self._key}: cannot read {self._file}") from error

    def __repr__(self) -> str:
        return "***"

    __str__ = __repr__

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret is not to be pickled")
