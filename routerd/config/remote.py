"""The options of an endpoint of type `remote`.

Owns its keys' meaning and defaults (config-language.md 5) and that what is accepted can be used:
the URL, the certificates, the login. Does not own what the adapter makes of them.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from routerd.config.context import Context
from routerd.config.credentials import compile_secret
from routerd.config.document import KeyPath
from routerd.oci.errors import RegistryError
from routerd.oci.reference import parse_namespace

# Whose images well-known registries have, by the host of their URL.
WELL_KNOWN: Mapping[str, str] = {
    "registry-1.docker.io": "docker.io",
    "registry-1.docker.com": "docker.io",
    "index.docker.io": "docker.io",
    "docker.io": "docker.io",
    "mirror.gcr.io": "docker.io",
    "ghcr.io": "ghcr.io",
    "quay.io": "quay.io",
    "gcr.io": "gcr.io",
    "registry.k8s.io": "registry.k8s.io",
    "mcr.microsoft.com": "mcr.microsoft.com",
    "public.ecr.aws": "public.ecr.aws",
    "registry.gitlab.com": "registry.gitlab.com",
    "lscr.io": "lscr.io",
}
DEFAULT_TIMEOUTS = {"connect": 5.0, "response": 30.0, "stall": 60.0}  # seconds


def remote_options(context: Context, path: KeyPath) -> dict[str, Any]:
    url = context.expanded((*path, "url"))
    host = None if url is None else _checked_url(context, (*path, "url"), url)
    ca = context.path((*path, "tls", "ca"))
    if ca is not None and context.environment is not None:
        _check_certificates(context, (*path, "tls", "ca"), ca)
    return {
        "url": url if url and host else "",  # what is no URL is not taken apart again
        "namespace": _namespace(context, path, host),
        "auth": _auth(context, (*path, "auth")),
        "token_realms": tuple(context.get((*path, "token_realms"), ())),
        "tls": {
            "ca": None if ca is None else str(ca),
            "insecure": context.get((*path, "tls", "insecure"), False),
        },
        "timeouts": {
            key: context.duration((*path, "timeouts", key), default)
            for key, default in DEFAULT_TIMEOUTS.items()
        },
    }


def _checked_url(context: Context, path: KeyPath, url: str) -> str | None:
    """The URL's host; None, noted, where it is no URL of a registry."""
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
    return host


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


def _namespace(context: Context, path: KeyPath, host: str | None) -> str | None:
    written = context.get((*path, "namespace"))
    if written is None:
        return WELL_KNOWN.get(host or "")
    if written == "*":
        context.error(
            "not-supported",
            "namespace '*' is part of the language, but not of this version of routerd yet",
            context.document.value((*path, "namespace")),
        )
        return None
    try:
        return parse_namespace(written)
    except RegistryError as error:
        mark = context.document.value((*path, "namespace"))
        context.error("bad-value", error.message, mark)
        return None


def _auth(context: Context, path: KeyPath) -> dict[str, Any]:
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
