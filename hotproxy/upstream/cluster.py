"""A named set of endpoints: how one of them is chosen, how long to wait for it, and what is counted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hotproxy.telemetry.stats import ClusterStats
from hotproxy.upstream.endpoint import Endpoint
from hotproxy.upstream.load_balancer import LoadBalancer
from hotproxy.upstream.tls_connect import UpstreamTls


@dataclass(frozen=True, slots=True)
class Cluster:
    """Part of a snapshot. Times in seconds, 0.0 = no limit; `stats` is shared by all snapshots of a worker."""

    name: str
    endpoints: Sequence[Endpoint]
    balancer: LoadBalancer
    connect_timeout_s: float
    idle_timeout_s: float  # how long an unused connection to an endpoint is kept
    stats: ClusterStats
    proxy_protocol: int = 0  # the version of the PROXY header that begins each connection; 0: none
    tls: UpstreamTls | None = None
