"""Which values of a policy may be shown, and which parts of them.

Owns the rule what holds a secret: by its place in the document and by its name, misspelled ones
included (config-language.md 6), and what of it stands in a message. Does not own source text
(`redaction.py`) nor the secrets themselves (`secrets.py`).
"""

from __future__ import annotations

import re
from difflib import get_close_matches
from enum import Enum, auto
from functools import lru_cache

NAMES_IN_MEMORY = 4096  # keys whose verdict is remembered

KeyPath = tuple[str | int, ...]

_NEAR = 0.75  # difflib's ratio: `pasword`, `passwrd` and `tokn` are near enough
_SECRET_WORDS = ("password", "passphrase", "passwd", "token", "secret", "credential", "apikey")
_SHORT_SECRET_WORDS = frozenset({"pass", "pwd", "pw", "pat", "key"})  # too short to be misspelled
_LOGIN_WORDS = ("auth", "authentication", "login", "credentials")
_HARMLESS = frozenset({"path", "token_realms"})  # keys of the language that look like the above
_ADDRESS_WORDS = ("url", "upstream", "proxy")
_LOGIN_TYPES = frozenset({"anonymous", "basic", "bearer", "docker-config", "helper"})
_IN_LOGIN = frozenset({"type", "username", "password", "token", "password_file", "token_file"})

_VARIABLE = re.compile(r"\$\{[A-Za-z_][A-Za-z0-9_]*\}")
_LOGIN_IN_URL = re.compile(r"(?<=://).*@", re.DOTALL)
_LOGIN_ALONE = re.compile(r"\A(?!.*://)[^@]*:.*@", re.DOTALL)
_TO_LAST_AT = re.compile(r"(?:(?<=://)|\A(?!.*://)).*@", re.DOTALL)
# No port: a login whose host is missing, cut off by a comment or a quote.
_NO_PORT = re.compile(r"(?<=://)[^/?#@\[\]$]*:(?!\d*(?:[/?#]|\Z)).*", re.DOTALL)
_QUERY = re.compile(r"(?<=\?).+", re.DOTALL)
_WORD = re.compile(r"\w+")


class Sight(Enum):
    """What of a value may be shown."""

    TOP = auto()  # the document
    TABLE = auto()  # the document, in the proposal's form
    NAMES = auto()  # `endpoints`: the keys are names, whatever they sound like
    OPEN = auto()  # all but what a key's name says is secret
    PLAIN = auto()  # all but a login in a URL: routes
    ADDRESS = auto()  # a URL: all but what may be a login or a query
    LOGIN = auto()  # below `auth`: only what is known to be harmless
    KIND = auto()  # `auth.type`
    SECRET = auto()  # nothing


def below(sight: Sight, key: str) -> Sight:
    """What may be shown of the value of `key` in a mapping that is seen so."""
    word = key.lower()
    if sight in (Sight.SECRET, Sight.PLAIN, Sight.KIND):
        return sight
    if sight is Sight.NAMES:
        return Sight.OPEN
    if sight is Sight.LOGIN:
        if word == "type":
            return Sight.KIND
        return Sight.OPEN if word == "username" or word.endswith("_file") else Sight.SECRET
    if sight in (Sight.TOP, Sight.TABLE):
        if word in ("endpoints", "registries"):
            return Sight.NAMES
        if word in ("routes", "acl"):
            return Sight.PLAIN
        if sight is Sight.TABLE and word not in (*_ADDRESS_WORDS, "server", "version", "username"):
            return Sight.SECRET
    return by_name(word)


@lru_cache(NAMES_IN_MEMORY)
def by_name(word: str) -> Sight:
    """What may be shown of the value of a key in lower case, wherever it stands."""
    if word in _HARMLESS or word.endswith("_file"):
        return Sight.OPEN
    if get_close_matches(word, _LOGIN_WORDS, n=1, cutoff=_NEAR):
        return Sight.LOGIN
    if is_secret_key(word):
        return Sight.SECRET
    if get_close_matches(word, _ADDRESS_WORDS, n=1, cutoff=0.6):
        return Sight.ADDRESS
    return Sight.OPEN


@lru_cache(NAMES_IN_MEMORY)
def is_secret_key(name: str) -> bool:
    """Whether a key of this name holds a secret, by its words: `password`, `api_token`, `tokn`."""
    word = name.lower()
    if word in _HARMLESS or word.endswith("_file"):
        return False
    return any(
        part in _SHORT_SECRET_WORDS or get_close_matches(part, _SECRET_WORDS, n=1, cutoff=_NEAR)
        for part in re.split(r"[^a-z0-9]+", word)
    )


def sight_of(path: KeyPath) -> Sight:
    """What may be shown of the value at `path` of a policy (not in the proposal's form)."""
    sight = Sight.TOP
    for part in path:
        if isinstance(part, str):
            sight = below(sight, part)
    return sight


def shown_value(path: KeyPath, text: str) -> str | None:
    """`text`, which stands at `path`, as a message may have it; None where it may not."""
    hidden = hidden_parts(sight_of(path), text)
    for start, end in reversed(hidden):
        text = f"{text[:start]}***{text[end:]}"
    return None if text == "***" else text


def shown_key(path: KeyPath, has_value: bool) -> str:
    """The key at the end of `path` as a message may have it."""
    key = str(path[-1])
    span = hidden_in_key(sight_of(path[:-1]), key, has_value)
    return key if span is None else key[: span[0]] + "***" + key[span[1] :]


def hidden_parts(sight: Sight, value: str) -> list[tuple[int, int]]:
    """The parts of a value that are not shown, as it is seen."""
    whole = [(0, len(value))]
    if not value or _VARIABLE.fullmatch(value):
        return []
    parts: tuple[re.Match[str] | None, ...]
    match sight:
        case Sight.SECRET | Sight.LOGIN:
            return whole
        case Sight.KIND:
            return [] if value in _LOGIN_TYPES else whole
        case Sight.ADDRESS:
            parts = (_TO_LAST_AT.search(value) or _NO_PORT.search(value), _QUERY.search(value))
        case Sight.PLAIN:
            parts = (_LOGIN_IN_URL.search(value), None)
        case _:
            parts = (_LOGIN_IN_URL.search(value) or _LOGIN_ALONE.search(value), None)
    return [(part.start(), max(part.start(), part.end() - (value[part.end() - 1] == "@")))
            for part in parts if part is not None]  # fmt: skip


def hidden_in_key(sight: Sight, key: str, has_value: bool) -> tuple[int, int] | None:
    """The part of a key that is not shown. Below a login, `password:hunter2` without a space is a
    key, and so is `{hunter2}`.
    """
    if sight in (Sight.SECRET, Sight.LOGIN, Sight.KIND) or (sight is Sight.TABLE and not has_value):
        is_word = has_value and sight in (Sight.LOGIN, Sight.TABLE) and _WORD.fullmatch(key)
        if key in _IN_LOGIN or is_word:
            return None
        head = key.partition(":")[0]
        return (len(head) + 1 if head.lower() in _IN_LOGIN else 0, len(key))
    login = _LOGIN_IN_URL.search(key)
    return None if login is None else (login.start(), login.end() - 1)
