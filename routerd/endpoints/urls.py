"""URLs taken apart: the endpoint's own, and those that a registry sends us to.

Owns what of a stranger's URL is dialled at all. Does not own which addresses are (`addresses.py`) or
who gets the login (`login.py`). Nothing is put together anew: a signature is over these bytes.
"""

from __future__ import annotations

from urllib.parse import SplitResult, urlsplit

from routerd.config.upstreams import name_prefix

_PORTS = {"http": 80, "https": 443}


def split_url(url: str) -> tuple[str, str]:
    """The URL up to the API, and the prefix of every name (config-language.md 5, `url`).

    `https://host/base/v2/prefix` is (`https://host/base`, `prefix/`).
    """
    parts = urlsplit(url)
    segments = [segment for segment in parts.path.split("/") if segment]
    at = segments.index("v2") if "v2" in segments else len(segments)
    return "/".join([f"{parts.scheme}://{parts.netloc}", *segments[:at]]), name_prefix(url)


def origin_of(url: str) -> tuple[str, str, int]:
    """Scheme, host and port (RFC 6454 4)."""
    parts = urlsplit(url)
    scheme = parts.scheme.lower()
    return scheme, (parts.hostname or "").lower(), parts.port or _PORTS.get(scheme, 0)


def parse_foreign(url: str) -> SplitResult:
    """The parts of an absolute URL that a registry sends us to.

    Raises ValueError, whose message goes on from "sends to", for one that cannot be dialled.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
        if host:
            host.encode("idna")  # as the resolver will: a label has 1 to 63 characters
    except ValueError as error:
        raise ValueError("something that is no URL") from error
    if parts.scheme and parts.scheme not in _PORTS:
        raise ValueError(f"'{parts.scheme}:'")
    if not parts.scheme or not host or port == 0:
        raise ValueError("something that is no URL")
    if "@" in parts.netloc:
        # It would be presented as a login, and the request has its own or none.
        raise ValueError("a URL with a login in it")
    return parts
