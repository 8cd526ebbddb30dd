"""The form of a policy: JSON Schema errors as diagnostics at the right place.

Owns the use of jsonschema and the schema file. Does not own what names mean (`compile.py`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from importlib.resources import files
from typing import Any, Protocol

from jsonschema import Draft7Validator
from jsonschema.exceptions import SchemaError, ValidationError

from routerd.config.diagnostics import did_you_mean
from routerd.config.document import Document, KeyPath
from routerd.config.sight import shown_key, shown_value
from routerd.config.unbuilt import is_unbuilt_key, is_unbuilt_value

SHOWN_LIMIT = 60  # characters of a value that are shown in a message


class TypeInfo(Protocol):
    """What the compiler needs to know of an endpoint type."""

    name: str
    options_schema: Mapping[str, Any]
    default_actions: Any
    needs_store: bool


class TypeProblem(Exception):
    """A package that brings an endpoint type cannot be used. The message says which and why."""


TypeLookup = Callable[[str], TypeInfo | None]

BUILT_IN = ("remote", "storage")
COMMON = ("type", "actions", "cache", "previous_names")
_WORDS = {
    "object": "a mapping",
    "array": "a list",
    "string": "a text",
    "integer": "a whole number",
    "boolean": "true or false",
}


@cache
def schema_text() -> str:
    """The schema of the language, as `routerd config schema` prints it."""
    return (files("routerd") / "schemas" / "routerd.schema.json").read_text(encoding="utf-8")


@cache
def _validator() -> Draft7Validator:
    """Of the form that the other two are rewritten in first (`shorthand.py`)."""
    schema = json.loads(schema_text())
    return Draft7Validator(schema | {"if": False, "else": {"$ref": "#/definitions/policy"}})


def check(document: Document, types: TypeLookup) -> set[KeyPath]:
    """Note every problem of form; the paths whose values are not to be used. An endpoint that lacks
    a key it needs is among them as a whole.
    """
    bad: set[KeyPath] = set()
    for error in _validator().iter_errors(document.values):
        for leaf in _leaves(error):
            bad |= {_usable_whole(path) for path in _note(document, leaf, ())}
    endpoints = document.values.get("endpoints")
    if isinstance(endpoints, dict):
        for name, options in endpoints.items():
            if isinstance(options, dict):
                bad |= _check_foreign(document, name, options, types)
    return bad


def _check_foreign(
    document: Document, name: str, options: Mapping[str, Any], types: TypeLookup
) -> set[KeyPath]:
    """The options of a type that a package brings, by the package's own schema."""
    kind = options.get("type")
    path: KeyPath = ("endpoints", name)
    if not isinstance(kind, str) or kind in BUILT_IN:
        return set()
    if is_unbuilt_value((*path, "type"), kind):
        _not_supported(document, f"type '{kind}'", (*path, "type"))
        return {path}
    try:
        info = types(kind)
        if info is None:
            message = f"'{kind}' is not the type of an endpoint{did_you_mean(kind, BUILT_IN)}"
            document.error("bad-value", message, document.value((*path, "type")))
            return {path}
        Draft7Validator.check_schema(dict(info.options_schema))
    except (TypeProblem, SchemaError) as error:
        document.error("bad-value", f"type '{kind}': {error}", document.value((*path, "type")))
        return {path}
    own = {key: value for key, value in options.items() if key not in COMMON}
    bad: set[KeyPath] = set()
    for problem in Draft7Validator(dict(info.options_schema)).iter_errors(own):
        for leaf in _leaves(problem):
            bad |= {_usable_whole(place) for place in _note(document, leaf, path)}
    return bad


def _usable_whole(path: KeyPath) -> KeyPath:
    """A list with a bad item is not used at all."""
    items = (position for position, part in enumerate(path) if isinstance(part, int))
    return path[: next(items, len(path))]


def _leaves(error: ValidationError) -> Iterator[ValidationError]:
    """The errors that name a key or value, below those of if, then and allOf."""
    if error.context:
        for inner in error.context:
            yield from _leaves(inner)
    else:
        yield error


def _schema_of(error: ValidationError) -> Mapping[str, Any]:
    return error.schema if isinstance(error.schema, Mapping) else {}


def _mapping_of(error: ValidationError) -> Mapping[str, Any]:
    return error.instance if isinstance(error.instance, Mapping) else {}


def _words_of(error: ValidationError) -> list[Any]:
    words = error.validator_value
    return list(words) if isinstance(words, list) else []


def _note(document: Document, error: ValidationError, base: KeyPath) -> Iterator[KeyPath]:
    path: KeyPath = (*base, *error.absolute_path)
    match error.validator:
        case "additionalProperties":
            known = list(_schema_of(error).get("properties", {}))
            for key, value in _mapping_of(error).items():
                if key in known or (not path and key.startswith("x-")):
                    continue
                _note_key(document, (*path, key), known, value is not None)
                yield (*path, key)
        case "required":
            missing = [key for key in _words_of(error) if key not in _mapping_of(error)]
            for key in missing:
                where = _spoken(path) or "the policy"
                document.error("bad-value", f"{where} needs '{key}'", document.key(path))
            yield path
        case "type":
            _note_type(document, error, path)
            yield path
        case _ if "propertyNames" in error.absolute_schema_path:
            key = str(error.instance)
            message = f"'{_shown(key)}' is not {_schema_of(error).get('expects', 'a key here')}"
            document.error("bad-value", message, document.key((*path, key)))
            yield (*path, key)
        case _:
            _note_value(document, error, path)
            yield path


def _note_key(document: Document, path: KeyPath, known: list[str], has_value: bool) -> None:
    key = str(path[-1])
    if is_unbuilt_key(path):
        _not_supported(document, f"'{key}'", path, at_key=True)
    else:
        shown = shown_key(path, has_value)
        message = f"'{shown}' is not a key of {_spoken(path[:-1]) or 'a policy'}"
        document.error("unknown-key", message + did_you_mean(key, known), document.key(path))


def _note_type(document: Document, error: ValidationError, path: KeyPath) -> None:
    if is_unbuilt_value(path, error.instance):
        _not_supported(document, f"such a value of '{path[-1]}'", path)
        return
    wanted = _schema_of(error).get("expects") or _WORDS.get(str(error.validator_value), "")
    message = f"{_spoken(path)} is {wanted}"
    if error.validator_value == "string" and path in document.texts:
        message += "; quote what YAML takes for a number"
    document.error("wrong-type", message, document.value(path))


def _note_value(document: Document, error: ValidationError, path: KeyPath) -> None:
    if is_unbuilt_value(path, error.instance):
        _not_supported(document, f"'{error.instance}'", path)
        return
    expects = _schema_of(error).get("expects")
    suggestion = ""
    if error.validator == "enum":
        words = [str(word) for word in _words_of(error)]
        expects = "one of " + ", ".join(words)
        suggestion = did_you_mean(str(error.instance), words)
    # jsonschema's own message would print the whole value, secrets below it included.
    expects = expects or f"not valid: the type's schema has '{error.validator}' for it"
    value = None
    if not isinstance(error.instance, dict | list):
        value = shown_value(path, str(error.instance))
    shown = "" if value is None else f", not '{_shown(value)}'"
    document.error(
        "bad-value", f"{_spoken(path)} is {expects}{shown}{suggestion}", document.value(path)
    )


def _not_supported(document: Document, what: str, path: KeyPath, *, at_key: bool = False) -> None:
    document.error(
        "not-supported",
        f"{what} is part of the language, but not of this version of routerd yet",
        document.key(path) if at_key else document.value(path),
    )


def _spoken(path: KeyPath) -> str:
    """A path as a person says it: `ttl of route 'library/*'`."""
    if not path:
        return ""
    kinds = {"endpoints": "endpoint", "routes": "route"}
    head = str(path[0])
    if head in kinds and len(path) > 1:
        owner = f"{kinds[head]} '{path[1]}'"
        rest = ".".join(str(part) for part in path[2:])
        return f"'{rest}' of {owner}" if rest else owner
    return f"'{'.'.join(str(part) for part in path)}'"


def _shown(value: object) -> str:
    text = str(value)
    return text if len(text) <= SHOWN_LIMIT else text[: SHOWN_LIMIT - 1] + "…"
