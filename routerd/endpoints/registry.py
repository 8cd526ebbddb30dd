"""The types of endpoints: the built-in ones, and those that installed packages bring.

Owns the entry-point group `routerd.endpoints`. A package is loaded only when a policy names its
type, and a built-in name wins over a package's.
"""

from __future__ import annotations

from importlib.metadata import entry_points

from routerd.config.schema import TypeProblem
from routerd.endpoints.base import EndpointType
from routerd.endpoints.remote import REMOTE
from routerd.endpoints.storage import STORAGE

GROUP = "routerd.endpoints"

_BUILT_IN: dict[str, EndpointType] = {REMOTE.name: REMOTE, STORAGE.name: STORAGE}
_NEEDED = ("name", "options_schema", "default_actions", "needs_store", "create")


def lookup_type(name: str) -> EndpointType | None:
    """The endpoint type of this name; None where there is none. Raises TypeProblem."""
    if name in _BUILT_IN:
        return _BUILT_IN[name]
    found = entry_points(group=GROUP, name=name)
    if not found:
        return None
    point = next(iter(found))
    try:
        kind = point.load()
    except Exception as error:  # a stranger's code may fail in any way
        raise TypeProblem(
            f"the package of {point.value} cannot be loaded: {type(error).__name__}: {error}"
        ) from error
    missing = [attribute for attribute in _NEEDED if not hasattr(kind, attribute)]
    if missing:
        raise TypeProblem(f"{point.value} is no endpoint type: it lacks {', '.join(missing)}")
    return kind  # type: ignore[no-any-return]
