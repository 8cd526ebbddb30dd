"""The endpoints of a policy claim what is stored under their names.

Owns what of an endpoint's options is its identity (config-language.md 3), and what the operator is
told of a change. Does not own what the change does to the index (`content/identity.py`).
"""

from __future__ import annotations

from pathlib import Path

import structlog

from routerd.config.settings import EndpointSpec
from routerd.content.identity import Claim, Fingerprint
from routerd.content.rename import take_over_directory
from routerd.content.store import ContentStore
from routerd.endpoints.urls import origin_of, split_url
from routerd.oci.reference import Namespace

log = structlog.get_logger("routerd.service")


def fingerprint_of(spec: EndpointSpec, namespace: Namespace | None) -> Fingerprint | None:
    """What a remote is; None for an endpoint of another type, whose name is all there is."""
    if spec.type != "remote":
        return None
    upstreams = spec.options["url"]
    accounts = [account for upstream in upstreams for account in upstream["auth"]]
    return Fingerprint(
        str(namespace or ""),
        frozenset(_origin(upstream["url"]) for upstream in upstreams),
        # A token has no name, and a renewed one is no other account.
        frozenset(
            f"{account['type']} {account.get('username', '')}".strip()
            for account in accounts
            if account["type"] != "anonymous"
        ),
    )


def _origin(url: str) -> str:
    """Where a URL leads, however it is written. Its prefix is part of every name (`scope`)."""
    scheme, host, port = origin_of(url)
    base, _ = split_url(url)
    path = "/".join(base.split("/")[3:])
    return f"{scheme}://{host}:{port}/{path}"


async def claim_content(
    store: ContentStore, spec: EndpointSpec, namespace: Namespace | None
) -> Claim:
    """Claim what the store has under the endpoint's name, and say what became of it.

    Raises StoreFull.
    """
    fingerprint = fingerprint_of(spec, namespace)
    if not await store.index.is_settled(spec.name, fingerprint, spec.previous_names):
        # What another account had begun to receive is no proof that this one may see it. First, so
        # that a kill in between leaves nothing behind.
        await store.forget_downloads(spec.name)
    found = await store.index.claim(spec.name, fingerprint, spec.previous_names)
    say = log.bind(endpoint=spec.name)
    for old in found.taken_over:
        say.info("took over what was stored under a former name", previous=old)
    for old in found.left:
        say.warning(
            "did not take over a former name: what is stored there is of another namespace or "
            "account than what is stored under the new name",
            previous=old,
        )
    if found.is_hidden:
        say.warning(
            "another namespace or account than before: what was cached is hidden, until upstream "
            "shows it again"
        )
    elif found.has_moved:
        say.info("another URL than before: each cached tag is checked before it is served")
    return found


def claim_directory(path: Path, spec: EndpointSpec) -> None:
    """A storage endpoint's name is its directory: take over that of a former name. Blocks.

    Raises StoreError.
    """
    for old in spec.previous_names:
        former = path.with_name(old)
        if take_over_directory(path, former):
            log.info("took over the directory of a former name", endpoint=spec.name, previous=old)
        elif former.is_dir():
            log.warning(
                "did not take over the directory of a former name: there is one of the new name",
                endpoint=spec.name,
                previous=str(former),
            )


def find_directory(path: Path, spec: EndpointSpec) -> Path:
    """Where a storage endpoint's directory lies until it is claimed. Blocks."""
    formers = [path.with_name(old) for old in spec.previous_names]
    return next((place for place in (path, *formers) if place.is_dir()), path)
