"""An entry of the audit trail for each GET, PUT and DELETE of a manifest, at the request's end.

Owns which requests are written down and what is said of each. Does not own the trail
(`proxy/audit.py`). A HEAD moves no manifest and is not written.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from routerd.oci.reference import Reference
from routerd.proxy.audit import NOBODY, AuditEntry, AuditTrail
from routerd.routing.policy import Action, Caller
from routerd.routing.table import RouteTable
from routerd.web.connection import RegistryRequest, RequestRecord

_ACTIONS: Mapping[str, Action] = {
    "GET": Action.PULL,
    "PUT": Action.PUSH,
    "DELETE": Action.DELETE,
}


class Auditor:
    """Watches requests for a trail; for None, does nothing."""

    def __init__(self, trail: AuditTrail | None, table: RouteTable) -> None:
        self._trail = trail
        self._table = table

    def watch(self, http: RegistryRequest, reference: Reference, caller: Caller) -> None:
        """Have the request written down when it has ended, whatever its end."""
        action = _ACTIONS.get(http.method)
        if self._trail is not None and action is not None:
            http.record.on_end = partial(self._write, self._trail, action, reference, caller)

    def _write(
        self,
        trail: AuditTrail,
        action: Action,
        reference: Reference,
        caller: Caller,
        record: RequestRecord,
    ) -> None:
        route, endpoint = self._place(action, reference, caller, record)
        trail.add(
            AuditEntry(
                time=trail.clock(),
                client=record.client,
                user=NOBODY,
                action=action,
                reference=str(reference),
                digest=record.digest or (str(reference.digest) if reference.digest else None),
                route=route,
                endpoint=endpoint,
                cache=record.result or None,
                status=record.status,
                transferred=record.received if action is Action.PUSH else record.bytes,
            )
        )

    def _place(
        self, action: Action, reference: Reference, caller: Caller, record: RequestRecord
    ) -> tuple[str | None, str | None]:
        """The route and the endpoint: of a pull who answered, of a write whom it was meant for.

        What no endpoint answered still has the route that led it there, or refused it.
        """
        if record.route:
            return record.route, record.endpoint
        decision = self._table.decide(reference, action, caller)
        steps = decision.steps
        route = decision.route or (steps[0].route if steps else None)
        endpoint = steps[0].endpoint if steps and action is not Action.PULL else None
        return None if route is None else str(route.pattern), endpoint
