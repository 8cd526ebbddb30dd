"""The URLs of an endpoint of type `remote`, each with its accounts and its TLS.

Owns `url`, `auth` and `tls` in all their forms: one URL or several in failover order, one account
or several used in turn (config-language.md 5 and 6). What is accepted can be used. Does not own the
other keys (`remote.py`) nor in which order who is asked (`endpoints/`).
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from routerd.config.context import Context
from routerd.config.credentials import compile_secret
from routerd.config.document import KeyPath
from routerd.config.domains import same_domain


@dataclass(frozen=True, slots=True)
class Place:
    """Where the policy says one URL of an endpoint, its accounts and its TLS."""

    url: KeyPath
    auth: KeyPath
    tls: KeyPath


def places(context: Context, path: KeyPath) -> list[Place]:
    """One a URL of the endpoint at `path`. A URL without a login or TLS of its own has the
    endpoint's."""
    found = []
    for place in _each(context, (*path, "url")):
        if isinstance(context.get(place), dict):
            own = {key: (*place, key) for key in ("url", "auth", "tls")}
            inherits = {key for key in ("auth", "tls") if context.get(own[key]) is None}
            found.append(Place(**(own | {key: (*path, key) for key in inherits})))
        else:
            found.append(Place(place, (*path, "auth"), (*path, "tls")))
    return found


def account_places(context: Context, path: KeyPath) -> list[KeyPath]:
    """Where each account of the `auth` at `path` stands; one place also where none is written."""
    return _each(context, path)


def compile_upstreams(context: Context, path: KeyPath) -> tuple[Mapping[str, Any], ...]:
    """The URLs in failover order: `url`, `auth` (the accounts) and `tls` of each.

    What is no URL is left out, noted.
    """
    compiled: dict[KeyPath, Any] = {}  # what several URLs inherit is looked at once
    found: list[Mapping[str, Any]] = []
    shown: list[Place] = []
    for place in places(context, path):
        if place.auth not in compiled:
            compiled[place.auth] = _accounts(context, place.auth)
        if place.tls not in compiled:
            compiled[place.tls] = _tls(context, place.tls)
        url = _url(context, place.url)
        if url is not None:
            found.append({"url": url, "auth": compiled[place.auth], "tls": compiled[place.tls]})
            shown.append(place)
    _check_together(context, path, found, shown)
    return tuple(found)


def name_prefix(url: str) -> str:
    """What stands after `/v2` in a URL: a prefix of every name there, with its `/`."""
    segments = [segment for segment in urlsplit(url).path.split("/") if segment]
    after = segments[segments.index("v2") + 1 :] if "v2" in segments else []
    return "".join(f"{segment}/" for segment in after)


def _each(context: Context, path: KeyPath) -> list[KeyPath]:
    value = context.get(path)
    if isinstance(value, list):
        return [(*path, position) for position in range(len(value))]
    return [path]


# One URL


def _url(context: Context, path: KeyPath) -> str | None:
    """The URL; None, noted, where it is no URL of a registry."""
    url = context.expanded(path)
    if url is None:
        return None
    mark = context.document.value(path)
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host, parts = None, urlsplit("")
    if host is None or parts.scheme not in ("http", "https") or parts.query or parts.fragment:
        context.error("bad-value", "'url' is not the http or https URL of a registry", mark)
        return None
    if parts.username is not None or parts.password is not None:
        # Its text would show up wherever the URL does.
        context.error("bad-value", "a login does not stand in a URL; write it as 'auth'", mark)
    return url


def _tls(context: Context, path: KeyPath) -> dict[str, Any]:
    ca = context.path((*path, "ca"))
    if ca is not None and context.environment is not None:
        _check_certificates(context, (*path, "ca"), ca)
    return {
        "ca": None if ca is None else str(ca),
        "insecure": context.get((*path, "insecure"), False),
    }


def _check_certificates(context: Context, path: KeyPath, file: Path) -> None:
    mark = context.document.value(path)
    if not file.is_file():
        context.error("bad-value", f"there is no file {file.name} of certificates", mark)
        return
    try:
        # As the client will: what it cannot load is known before it serves.
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=file)
    except OSError as error:  # ssl.SSLError is one
        reason = error.strerror or type(error).__name__
        message = f"{file.name} has no certificates that can be read: {reason}"
        context.error("bad-value", message, mark)


def _accounts(context: Context, path: KeyPath) -> tuple[Mapping[str, Any], ...]:
    accounts: list[Mapping[str, Any]] = []
    names: set[tuple[str, str]] = set()
    for place in account_places(context, path):
        account = _account(context, place)
        name = (account["type"], account.get("username", ""))
        if name in names and account["type"] != "bearer":
            message = f"the same account twice: {name[1] or name[0]}"
            context.error("bad-value", message, context.document.value(place))
        names.add(name)
        accounts.append(account)
    return tuple(accounts)


def _account(context: Context, path: KeyPath) -> dict[str, Any]:
    kind = context.get((*path, "type"), "anonymous")
    if kind == "basic":
        return {
            "type": kind,
            "username": _username(context, (*path, "username")),
            "password": compile_secret(context, path, "password"),
        }
    if kind == "bearer":
        return {"type": kind, "token": compile_secret(context, path, "token")}
    return {"type": "anonymous"}


def _username(context: Context, path: KeyPath) -> str:
    name = context.expanded(path)
    if name == "":
        context.error("bad-value", "'auth.username' is empty", context.document.value(path))
    return name or ""


# Several


def _check_together(
    context: Context, path: KeyPath, found: Sequence[Mapping[str, Any]], shown: Sequence[Place]
) -> None:
    """All URLs of an endpoint are one source: the same names, and a login for whom it is meant."""
    if not found:
        return
    first = found[0]["url"]
    host = urlsplit(first).hostname or ""
    seen: set[str] = set()
    for upstream, place in zip(found, shown, strict=True):
        url, mark = upstream["url"], context.document.value(place.url)
        prefix, expected = name_prefix(url), name_prefix(first)
        if url.rstrip("/") in seen:
            context.error("bad-value", "the same URL twice", mark)
        elif prefix != expected:
            what = [f"'{text}'" if text else "no prefix" for text in (prefix, expected)]
            context.error(
                "bad-value",
                f"the URLs of an endpoint are one source, and names have {what[0]} here but "
                f"{what[1]} at the first URL; write another endpoint",
                mark,
            )
        elif _leaks(context, path, upstream, place, host):
            here = urlsplit(url).hostname
            context.error(
                "bad-value",
                f"the login of the endpoint would be sent to {here} as well, which is not of the "
                "domain of the first URL; write {url, auth} for each",
                mark,
            )
        seen.add(url.rstrip("/"))


def _leaks(
    context: Context, path: KeyPath, upstream: Mapping[str, Any], place: Place, host: str
) -> bool:
    """Whether a login that was written once goes to a stranger of the first URL's host."""
    here = urlsplit(upstream["url"]).hostname or ""
    has_login = any(account["type"] != "anonymous" for account in upstream["auth"])
    inherited = place.auth == (*path, "auth")
    return inherited and has_login and here != host and not same_domain(here, host)
