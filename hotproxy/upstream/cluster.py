"""A named set of endpoints: how one of them is chosen, how long to wait for it, and what is counted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hotproxy.net.proxy_protocol import encode, passed_on
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
    pass_through_tlvs: frozenset[int] = frozenset()  # of the client's PROXY header

    def preface(self, remote: str, local: str, tlvs: bytes) -> bytes:
        """What a connection of a client with these ends begins with; `tlvs`: what a proxy has said of it."""
        if not self.proxy_protocol:
            return b""
        return encode(self.proxy_protocol, remote, local, passed_on(tlvs, self.pass_through_tlvs))
