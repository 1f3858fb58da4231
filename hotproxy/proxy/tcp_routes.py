"""Which cluster a TCP connection is carried to: by the server name that its TLS client asks for, then by weight.

An exact name wins over `*.suffix`, a longer suffix over a shorter one, as with Envoy's `server_names`; what no route
names, and what is no TLS, goes to the section's own cluster, if it has one.
"""

from __future__ import annotations

import random
from bisect import bisect
from collections.abc import Mapping, Sequence
from itertools import accumulate


class ClusterChoice:
    """One of several clusters, by chance, in proportion to their weights."""

    __slots__ = ("_bounds", "_names")

    def __init__(self, weights: Sequence[tuple[str, int]]) -> None:
        """At least one weight is not 0."""
        self._names = tuple(name for name, _ in weights)
        self._bounds = list(accumulate(weight for _, weight in weights))

    def pick(self, random_: random.Random) -> str:
        if len(self._names) == 1:
            return self._names[0]
        return self._names[bisect(self._bounds, random_.randrange(self._bounds[-1]))]


class TcpRoutes:
    """Of a listener; immutable. `wants_name`: somebody must look for a server name first."""

    __slots__ = ("_exact", "_rest", "_suffixes", "wants_name")

    def __init__(self, by_name: Mapping[str, ClusterChoice], rest: ClusterChoice | None) -> None:
        """Names in lower case, "*.example.com" among them."""
        self._exact = {name: choice for name, choice in by_name.items() if not name.startswith("*.")}
        self._suffixes = {name[1:]: choice for name, choice in by_name.items() if name.startswith("*.")}
        self._rest = rest
        self.wants_name = bool(by_name)

    def pick(self, server_name: str, random_: random.Random) -> str:
        """The cluster; "" when nothing fits."""
        choice = self._exact.get(server_name)
        dot = server_name.find(".")
        while choice is None and dot >= 0:  # from the left: the longest suffix comes first
            choice = self._suffixes.get(server_name[dot:])
            dot = server_name.find(".", dot + 1)
        if choice is None:
            choice = self._rest
        return "" if choice is None else choice.pick(random_)
