"""`${NAME}` and `${NAME:-default}` out of the environment (config-language.md 6).

Owns the syntax and the places where it counts. Does not own what the values mean.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

_VARIABLE = re.compile(r"\$(?:(\$)|\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\})")


class MissingVariable(Exception):
    """A variable without a default that is not set. Its `name`."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


def expand(text: str, environment: Mapping[str, str] | None) -> str | None:
    """`text` with its variables replaced. A lone `$` is itself, `$$` a dollar.

    None where it cannot be known: without an environment (`--no-environment`), a variable without
    a default. Raises MissingVariable.
    """
    if environment is None and any(match[2] and match[3] is None for match in _variables(text)):
        return None

    def replace(match: re.Match[str]) -> str:
        if match[1]:
            return "$"
        name, default = match[2], match[3]
        value = default if environment is None else environment.get(name, default)
        if value is None:
            raise MissingVariable(name)
        return value

    return _VARIABLE.sub(replace, text)


def has_variable(text: str) -> bool:
    """Whether something in it comes from the environment only. A default stands in the file."""
    return any(match[2] and not match[3] for match in _variables(text))


def _variables(text: str) -> Iterator[re.Match[str]]:
    return _VARIABLE.finditer(text)
