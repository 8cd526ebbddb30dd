"""Which hosts belong to one domain: to whom a login may be shown beside the host it is for.

Owns the use of the public suffix list. Does not own who is sent a login (`endpoints/login.py`).
"""

from __future__ import annotations

from ipaddress import ip_address

from publicsuffixlist import PublicSuffixList

_suffixes = PublicSuffixList()


def same_domain(one: str, other: str) -> bool:
    """Whether two hosts have one registrable domain. An address is of no domain."""
    if _is_address(one) or _is_address(other):
        return False
    domain = _suffixes.privatesuffix(one)
    return domain is not None and domain == _suffixes.privatesuffix(other)


def _is_address(host: str) -> bool:
    try:
        ip_address(host.strip("[]"))
    except ValueError:
        return False
    return True
