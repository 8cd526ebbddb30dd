"""The options of an endpoint of type `remote`.

Owns its keys' meaning and defaults (config-language.md 5). Does not own where it is and who asks
there (`upstreams.py`), nor what the adapter makes of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from routerd.config.context import Context
from routerd.config.document import KeyPath
from routerd.config.upstreams import compile_upstreams
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
    upstreams = compile_upstreams(context, path)
    return {
        "url": upstreams,
        "namespace": _namespace(context, path, upstreams),
        "token_realms": tuple(context.get((*path, "token_realms"), ())),
        "timeouts": {
            key: context.duration((*path, "timeouts", key), default)
            for key, default in DEFAULT_TIMEOUTS.items()
        },
        "offline": context.get((*path, "offline"), False),
    }


def _namespace(
    context: Context, path: KeyPath, upstreams: Sequence[Mapping[str, Any]]
) -> str | None:
    written = context.get((*path, "namespace"))
    if written is None:
        return _well_known(context, path, upstreams)
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


def _well_known(
    context: Context, path: KeyPath, upstreams: Sequence[Mapping[str, Any]]
) -> str | None:
    """The namespace of those of the URLs that are well known."""
    hosts = [urlsplit(upstream["url"]).hostname or "" for upstream in upstreams]
    known = {WELL_KNOWN[host]: host for host in hosts if host in WELL_KNOWN}
    if len(known) > 1:
        context.error(
            "namespace-lost",
            f"the URLs of an endpoint are one source, and {' and '.join(known.values())} have the "
            f"images of {' and '.join(known)}; write an endpoint for each",
            context.document.key((*path, "url")),
        )
    return next(iter(known), None)
