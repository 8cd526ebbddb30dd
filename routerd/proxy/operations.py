"""The operator's use cases by name, with plain arguments in and plain rows out.

Owns the names and arguments that the control socket and the command line share, so that both do the
same. Does not own what is done, HTTP, or printing.
"""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from dataclasses import asdict, dataclass
from typing import Any

from routerd.content.verify import VERIFY_RATE
from routerd.oci.errors import Code, RegistryError
from routerd.oci.platform import Platform
from routerd.oci.reference import Reference
from routerd.proxy import holdings, warmfeed
from routerd.proxy.checking import verify
from routerd.proxy.copies import Copies
from routerd.proxy.service import Service

Arguments = Mapping[str, Any]
Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Operation:
    """One use case: the types of its arguments, of which `needed` must be there. `claims`: it does
    something in an endpoint's name, so that what is stored has to be the endpoint's own; else it is
    the same under any policy, and may be tried with a draft.
    """

    rows: Callable[[Service, Arguments], AsyncGenerator[Any, None]]
    arguments: Mapping[str, type | tuple[type, ...]]
    needed: frozenset[str] = frozenset()
    claims: bool = False


def run(service: Service, name: str, arguments: Arguments) -> AsyncGenerator[Row, None]:
    """The rows of an operation, as they come. Raises RegistryError, first or between two rows."""
    operation = OPERATIONS.get(name)
    if operation is None:
        known = ", ".join(sorted(OPERATIONS))
        raise RegistryError(
            Code.UNSUPPORTED, f"there is no operation '{name}', there are: {known}", status=404
        )
    _check(name, operation, arguments)
    return _plain(operation.rows(service, arguments))


async def _plain(rows: AsyncGenerator[Any, None]) -> AsyncGenerator[Row, None]:
    async with aclosing(rows):  # who hangs up stops what is done for him
        async for row in rows:
            yield {"kind": row.kind, **asdict(row)}


def _check(name: str, operation: Operation, arguments: Arguments) -> None:
    unknown = arguments.keys() - operation.arguments.keys()
    missing = operation.needed - arguments.keys()
    wrong = [
        key
        for key, kinds in operation.arguments.items()
        if key in arguments and not isinstance(arguments[key], kinds)
    ]
    for what, keys in (("does not take", unknown), ("needs", missing), ("cannot use", wrong)):
        if keys:
            raise RegistryError(
                Code.UNSUPPORTED, f"{name} {what} {', '.join(sorted(keys))}", status=400
            )


def _reference(service: Service, arguments: Arguments) -> Reference:
    return Reference.parse(arguments["reference"], service.policy.server.default_namespace)


def _ls(service: Service, arguments: Arguments) -> AsyncGenerator[Any, None]:
    endpoint, repository = arguments.get("endpoint"), arguments.get("repository")
    return holdings.ls(service.stores, service.readers, endpoint, repository)


def _stat(service: Service, _arguments: Arguments) -> AsyncGenerator[Any, None]:
    return holdings.stat(service.stores)


Use = Callable[[Copies, Reference, str | None], AsyncGenerator[Any, None]]


def _on_copies(use: Use) -> Operation:
    """A use case of `Copies`."""

    def rows(service: Service, arguments: Arguments) -> AsyncGenerator[Any, None]:
        copies = Copies(service.policy.table, service.readers, service.stores)
        return use(copies, _reference(service, arguments), arguments.get("endpoint"))

    return Operation(
        rows, {"reference": str, "endpoint": str}, frozenset({"reference"}), claims=True
    )


async def _verify(service: Service, arguments: Arguments) -> AsyncGenerator[Any, None]:
    rate = float(arguments.get("rate", VERIFY_RATE))
    if not rate > 0 or math.isnan(rate):
        raise RegistryError(Code.UNSUPPORTED, "a rate is more than 0 bytes a second", status=400)
    only = arguments.get("store")
    if only is not None and only not in service.stores:
        raise RegistryError(Code.NAME_UNKNOWN, f"the policy has no storage endpoint '{only}'")
    for name, store in service.stores.items():
        if only in (None, name):
            async with aclosing(verify(name, store, rate, service.refetch)) as rows:
                async for row in rows:
                    yield row


def _gc(service: Service, _arguments: Arguments) -> AsyncGenerator[Any, None]:
    return holdings.gc(service.stores)


def _warm(service: Service, arguments: Arguments) -> AsyncGenerator[Any, None]:
    references, platforms = arguments["references"], arguments.get("platforms", [])
    if not references or not all(isinstance(text, str) for text in [*references, *platforms]):
        raise RegistryError(
            Code.UNSUPPORTED,
            "warm needs references, each a text, and platforms, if any",
            status=400,
        )
    default = service.policy.server.default_namespace
    try:
        parsed = [Reference.parse(text, default) for text in references]
        wanted = [Platform.parse(text) for text in platforms]
    except RegistryError as error:
        raise RegistryError(error.code, error.message, status=400) from error
    except ValueError as error:
        raise RegistryError(Code.UNSUPPORTED, str(error), status=400) from error
    return warmfeed.feed(service.warm, parsed, wanted)


OPERATIONS: Mapping[str, Operation] = {
    "ls": Operation(_ls, {"endpoint": str, "repository": str}),
    "stat": Operation(_stat, {}),
    "purge": _on_copies(Copies.purge),
    "refresh": _on_copies(Copies.refresh),
    "pin": _on_copies(Copies.pin),
    "unpin": _on_copies(Copies.unpin),
    "gc": Operation(_gc, {}),
    "warm": Operation(
        _warm, {"references": list, "platforms": list}, frozenset({"references"}), claims=True
    ),
    "verify": Operation(_verify, {"store": str, "rate": (int, float)}),
}
