"""Which endpoint is next: one class per policy, all behind `LoadBalancer`.

Every worker chooses on its own, from what it sees itself (`Endpoint.active`). So that workers which start together
do not all send their first requests to the first endpoint, each begins at a place of its own.
"""

from __future__ import annotations

import random
from bisect import bisect
from collections.abc import Collection, Sequence
from itertools import accumulate
from typing import Protocol

from hotproxy.config.model import LEAST_REQUEST, RANDOM, ROUND_ROBIN
from hotproxy.upstream.endpoint import Endpoint


class LoadBalancer(Protocol):
    def pick(self, avoid: Collection[Endpoint]) -> Endpoint | None:
        """The endpoint for the next request, never one of `avoid` (those that failed it already).

        None: there is none left. Does not count: `Endpoint.active` is kept by whoever sends the request.
        """


class RoundRobin:
    """In turn, by weight, smoothly: 3:1 gives a a b a, never a a a b. O(endpoints) per pick.

    nginx's algorithm (ngx_http_upstream_round_robin.c): everybody gains its weight, the richest is picked and pays
    the sum of those who took part.
    """

    __slots__ = ("_credits", "_endpoints", "_weights")

    def __init__(self, endpoints: Sequence[Endpoint], random_: random.Random) -> None:
        self._endpoints = tuple(endpoints)
        self._weights = tuple(endpoint.weight for endpoint in endpoints)
        self._credits = [0] * len(self._endpoints)
        # The sequence repeats after sum(weights) picks; beginning anywhere in it keeps the shares exact. Random
        # credits instead would take as long to even out as they are large.
        total = sum(self._weights)
        if len(self._endpoints) > 1:
            for _ in range(random_.randrange(min(total, 1000))):
                self.pick(())

    def pick(self, avoid: Collection[Endpoint]) -> Endpoint | None:
        credits = self._credits
        best = -1
        total = 0
        for index, endpoint in enumerate(self._endpoints):
            if avoid and endpoint in avoid:
                continue
            weight = self._weights[index]
            credits[index] += weight
            total += weight
            if best < 0 or credits[index] > credits[best]:
                best = index
        if best < 0:
            return None
        credits[best] -= total
        return self._endpoints[best]


class Random:
    """By chance, in proportion to weight, independent of everything else. O(log endpoints), O(endpoints) on a retry."""

    __slots__ = ("_bounds", "_endpoints", "_last", "_random", "_total")

    def __init__(self, endpoints: Sequence[Endpoint], random_: random.Random) -> None:
        self._endpoints = list(endpoints)
        self._bounds = list(accumulate(endpoint.weight for endpoint in endpoints))
        self._total = self._bounds[-1] if self._bounds else 0
        self._last = len(self._bounds) - 1  # rounded up, chance may come out at the total
        self._random = random_

    def pick(self, avoid: Collection[Endpoint]) -> Endpoint | None:
        if not avoid:
            if not self._endpoints:
                return None
            # What `random.choices` does, without its preparations: it is asked twice for a request.
            return self._endpoints[bisect(self._bounds, self._random.random() * self._total, 0, self._last)]
        rest = [endpoint for endpoint in self._endpoints if endpoint not in avoid]
        if not rest:
            return None
        return self._random.choices(rest, weights=[endpoint.weight for endpoint in rest])[0]


class LeastRequest:
    """Two by chance (in proportion to weight), of which the one with less in progress per weight. O(log endpoints).

    The power of two choices (Mitzenmacher 2001): nearly as good as asking all of them, and no herd runs to the one
    endpoint that looks idle to every worker. With equal weights it is Envoy's least_request.
    """

    __slots__ = ("_candidates", "_pair")

    def __init__(self, endpoints: Sequence[Endpoint], random_: random.Random) -> None:
        self._candidates = Random(endpoints, random_)
        self._pair = tuple(endpoints) if len(endpoints) == 2 else None

    def pick(self, avoid: Collection[Endpoint]) -> Endpoint | None:
        one = self._candidates.pick(avoid)
        if one is None:
            return None
        if self._pair is not None and not avoid:  # the second of two is the other one, whatever chance says
            two: Endpoint | None = self._pair[1] if one is self._pair[0] else self._pair[0]
        else:
            two = self._candidates.pick(avoid)
        if two is one:  # rare where there are many, and only then worth a walk through all; the chances are the same
            two = self._candidates.pick((*avoid, one))
        if two is None:
            return one
        # (active + 1) / weight, without a division: what it would have with this request.
        return two if (two.active + 1) * one.weight < (one.active + 1) * two.weight else one


POLICIES: dict[str, type[RoundRobin] | type[LeastRequest] | type[Random]] = {
    ROUND_ROBIN: RoundRobin,
    LEAST_REQUEST: LeastRequest,
    RANDOM: Random,
}
