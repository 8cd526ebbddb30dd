"""Secrets out of a policy: written, from the environment, or in a file of their own.

Owns that a key and its `*_file` twin come to one `Secret` (config-language.md 6). Does not own
which keys hold secrets (`sight.py`).
"""

from __future__ import annotations

from routerd.config.context import Context
from routerd.config.document import KeyPath
from routerd.config.secrets import Secret


def compile_secret(context: Context, path: KeyPath, key: str) -> Secret | None:
    """The secret `key` of the mapping at `path`, or its twin `KEY_file`; None, noted, where there
    is none or an empty one.
    """
    value = context.get((*path, key))
    file = context.path((*path, f"{key}_file"))
    spoken = ".".join(str(part) for part in (*path, key))
    if value is not None and file is not None:
        mark = context.document.key((*path, f"{key}_file"))
        context.error("bad-value", f"'{key}' and '{key}_file' say the same twice", mark)
    if file is not None:
        if context.environment is not None and not file.is_file():
            mark = context.document.value((*path, f"{key}_file"))
            context.error("missing-secret", f"there is no file {file.name}", mark)
        return Secret(spoken, file=file)
    if value is None:
        context.error(
            "missing-secret",
            f"'{'.'.join(str(part) for part in path[2:])}' needs '{key}' or '{key}_file'",
            context.document.key(path),
        )
        return None
    # A package's schema may take a number for a password: its digits as they were written.
    text = value if isinstance(value, str) else context.document.texts.get((*path, key), str(value))
    expanded = context.expand(text, (*path, key))
    if expanded == "":
        message = f"'{key}' is empty"
        context.error("missing-secret", message, context.document.value((*path, key)))
    return Secret(spoken, value=expanded) if expanded else None
