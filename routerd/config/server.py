"""The `server` part of a policy.

Owns its keys and defaults (config-language.md 1 and 5).
"""

from __future__ import annotations

from ipaddress import ip_network
from pathlib import Path

from routerd.config.context import Context
from routerd.config.document import KeyPath
from routerd.config.settings import Address, AuditSettings, LogSettings, ServerSettings
from routerd.oci.errors import RegistryError
from routerd.oci.reference import DOCKER_HUB, Namespace, parse_namespace
from routerd.routing.policy import IPNetwork

DEFAULT_LISTEN = "127.0.0.1:5000"
DEFAULT_ADMIN = "127.0.0.1:5001"
DEFAULT_DATA = "./routerd-data"
DEFAULT_HEADER = "X-Forwarded-For"
DEFAULT_HOPS = 5
DEFAULT_AUDIT = "audit.jsonl"
DEFAULT_AUDIT_KEEP = 30 * 86400.0  # seconds; at 400 bytes a pull some 12 GB for ten pulls a second
DEFAULT_DRAIN = 25.0  # seconds; below Kubernetes' 30 s before SIGKILL


def compile_server(context: Context) -> ServerSettings:
    """The settings; a value that cannot be used is noted and read as its default."""
    data = context.path(("server", "data"), DEFAULT_DATA)
    assert data is not None
    listen, admin = _listen(context), _admin(context)
    _check_addresses(context, listen, admin)
    return ServerSettings(
        listen=tuple(address for _, address in listen),
        admin=admin,
        data=data,
        name=context.get(("server", "name")),
        default_namespace=default_namespace(context),
        trusted_proxies=_networks(context, ("server", "trusted_proxies")),
        forwarded_header=context.get(("server", "forwarded_header"), DEFAULT_HEADER),
        max_hops=context.get(("server", "max_hops"), DEFAULT_HOPS),
        workers=context.get(("server", "workers"), 1),
        drain=context.duration(("server", "drain"), DEFAULT_DRAIN),
        log=LogSettings(
            context.get(("server", "log", "format"), "text"),
            context.get(("server", "log", "level"), "info"),
        ),
        audit=_audit(context, data),
    )


def default_namespace(context: Context) -> Namespace:
    """What a bare name means."""
    path = ("server", "default_namespace")
    text = context.get(path)
    if text is None:
        return DOCKER_HUB
    try:
        return parse_namespace(text)
    except RegistryError as error:
        context.error("bad-value", error.message, context.document.value(path))
        return DOCKER_HUB


def _audit(context: Context, data: Path) -> AuditSettings | None:
    path: KeyPath = ("server", "audit")
    server = context.get(("server",), {})
    if "audit" in server and server["audit"] is None:
        return None
    file = (data / context.get((*path, "file"), DEFAULT_AUDIT)).absolute()
    return AuditSettings(file, context.duration((*path, "keep"), DEFAULT_AUDIT_KEEP))


def _listen(context: Context) -> list[tuple[KeyPath, Address]]:
    """Each address with its place."""
    path: KeyPath = ("server", "listen")
    written = context.get(path)
    if written is None:
        return [(path, Address.parse(DEFAULT_LISTEN))]
    several = isinstance(written, list)
    places: list[tuple[KeyPath, str]] = [
        ((*path, position), text) for position, text in enumerate(written if several else [])
    ] or [(path, written)]
    found = [(place, _address(context, place, text)) for place, text in places]
    return [(place, address) for place, address in found if address is not None]


def _admin(context: Context) -> Address | None:
    path = ("server", "admin")
    server = context.get(("server",), {})
    if "admin" not in server:
        return Address.parse(DEFAULT_ADMIN)
    written = context.get(path)
    return None if written is None else _address(context, path, written)


def _check_addresses(
    context: Context, listen: list[tuple[KeyPath, Address]], admin: Address | None
) -> None:
    """No address can be listened on twice."""
    taken: list[tuple[KeyPath, Address]] = []
    admins: list[tuple[KeyPath, Address]] = [] if admin is None else [(("server", "admin"), admin)]
    for place, address in [*listen, *admins]:
        met = next((other for _, other in taken if address.meets(other)), None)
        if met is not None:
            message = f"'{address}' is taken: '{met}' is listened on already"
            context.error("bad-value", message, context.document.value(place))
        taken.append((place, address))


def _address(context: Context, path: KeyPath, text: str) -> Address | None:
    expanded = context.expand(text, path)
    try:
        return None if expanded is None else Address.parse(expanded)
    except ValueError:
        # As it is written: what a variable holds is not for a message.
        how = "" if expanded == text else ", its variables replaced"
        message = f"'{text}' is not HOST:PORT{how}"
        context.error("bad-value", message, context.document.value(path))
        return None


def _networks(context: Context, path: KeyPath) -> tuple[IPNetwork, ...]:
    found = []
    for position, text in enumerate(context.get(path, [])):
        try:
            found.append(ip_network(text))
        except ValueError as error:
            context.error(
                "bad-value",
                f"'{text}' is not a network such as 10.0.0.0/8: {error}",
                context.document.value((*path, position)),
            )
    return tuple(found)
