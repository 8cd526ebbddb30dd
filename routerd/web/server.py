"""Serving a policy: its sockets are bound, then one process serves them, or several.

Owns the order of that. Does not own a worker (`worker.py`) or several (`supervisor.py`).
"""

from __future__ import annotations

import resource

from routerd.config.compile import Policy
from routerd.web.sockets import bind
from routerd.web.supervisor import Supervisor
from routerd.web.worker import serve_alone


def serve(policy: Policy) -> None:
    """Bind, serve until SIGTERM or SIGINT, drain, return. Raises ListenError, StoreError."""
    registry = [bind(address) for address in policy.server.listen]
    admin = [bind(policy.server.admin)] if policy.server.admin is not None else []
    raise_descriptor_limit()
    if policy.server.workers == 1:
        serve_alone(policy, registry, admin)
    else:
        Supervisor(policy, registry, admin).run()


def raise_descriptor_limit() -> None:
    """Allow as many open files as the system lets this user have: each client and blob is one."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
