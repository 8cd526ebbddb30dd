"""How long the cached content of a scope stays: the longest of what may lead to it.

Owns turning the routes around: from what an endpoint keeps to the names by which it is pulled. Pure.
Does not own what is swept (`content/retention.py`). A scope does not say by which names it came to
be; where that cannot be known, more names are taken into account rather than fewer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from routerd.oci.reference import Namespace, Repository
from routerd.routing.decision import Route
from routerd.routing.table import RouteTable


class Retention:
    """Of one endpoint under one policy. `scope_of` is the endpoint's own: how it calls a repository,
    after the route's `strip`.
    """

    def __init__(
        self, table: RouteTable, endpoint: str, scope_of: Callable[[Repository], str]
    ) -> None:
        self._table = table
        self._endpoint = endpoint
        self._scope_of = scope_of
        self._default = table.policy_of(endpoint).retain.value
        self._strips = {
            route.destination.strip
            for route in table.routes
            if route.destination is not None and endpoint in route.destination.endpoints
        }
        # All that routes name; of each with wildcards, one namespace that stands for them.
        patterns = {route.pattern.namespace: route.pattern for route in table.routes}
        self._namespaces = {pattern.sample()[0].namespace for pattern in patterns.values()}
        if (own := table.endpoints[endpoint].namespace) is not None:
            self._namespaces.add(own)

    def of(self, there: str) -> float:
        """Seconds that content of `there`, a repository's name at the endpoint, stays after a pull;
        `math.inf` is `never`. Where no route leads there any more, what the endpoint says counts.
        """
        lengths = [
            _longest(self._table.routes_of(repository), self._endpoint, self._default)
            for repository in self._names(there)
        ]
        return max(lengths, default=self._default)

    def _names(self, there: str) -> Iterator[Repository]:
        """Every name that a route leads to the endpoint and that is called `there` at it."""
        for namespace in self._namespaces:
            for name in self._called(namespace, there):
                for strip in self._strips:
                    repository = Repository(namespace, strip + name)
                    routes = self._table.routes_of(repository)
                    if any(self._leads(route, repository, strip) for route in routes):
                        yield repository

    def _called(self, namespace: Namespace, there: str) -> Iterator[str]:
        """The names that the endpoint calls `there`: it may put something before them."""
        segments = there.split("/")
        for start in range(len(segments)):
            name = "/".join(segments[start:])
            if self._scope_of(Repository(namespace, name)) == there:
                yield name

    def _leads(self, route: Route, repository: Repository, strip: str) -> bool:
        destination = route.destination
        return (
            destination is not None
            and destination.strip == strip
            and self._endpoint in destination.endpoints
            and not self._table.is_stranger(self._endpoint, route, repository)
        )


def _longest(routes: Sequence[Route], endpoint: str, default: float) -> float:
    """Of a repository's routes, in order. A setting without a tag part hides those that follow it;
    one with a tag is for some references only.
    """
    found: list[float] = []
    for route in routes:
        said = route.cache.retain
        if said is None:
            continue
        if route.pattern.tag is None:
            return max([*found, said.value])
        if route.destination is None or endpoint in route.destination.endpoints:
            found.append(said.value)
    return max([*found, default])
