"""What the two connections of a tunnel have moved, and how much of that the stats have already."""

from __future__ import annotations

from typing import Protocol

from hotproxy.telemetry.stats import ClusterStats, TcpStats


class Metered(Protocol):
    """What has gone through it, in bytes (`net.connection.Connection`)."""

    rx_bytes: int
    tx_bytes: int


class ByteMeter:
    """`counted`: rx and tx of the client's connection, rx and tx of the endpoint's, as the stats have them. It moves
    along in a dump, so that nothing is counted twice."""

    __slots__ = ("_cluster", "_tcp", "counted")

    def __init__(self, tcp: TcpStats, cluster: ClusterStats | None) -> None:
        self.counted = [0, 0, 0, 0]
        self._tcp = tcp
        self._cluster = cluster

    def count(self, down: Metered | None, up: Metered | None) -> None:
        """Bring the stats up to what the connections have moved by now."""
        counted = self.counted
        if down is not None:
            if down.rx_bytes != counted[0]:
                self._tcp.downstream_cx_rx_bytes_total.add(down.rx_bytes - counted[0])
                counted[0] = down.rx_bytes
            if down.tx_bytes != counted[1]:
                self._tcp.downstream_cx_tx_bytes_total.add(down.tx_bytes - counted[1])
                counted[1] = down.tx_bytes
        cluster = self._cluster
        if up is not None and cluster is not None:
            if up.rx_bytes != counted[2]:
                cluster.upstream_cx_rx_bytes_total.add(up.rx_bytes - counted[2])
                counted[2] = up.rx_bytes
            if up.tx_bytes != counted[3]:
                cluster.upstream_cx_tx_bytes_total.add(up.tx_bytes - counted[3])
                counted[3] = up.tx_bytes


def bytes_moved(down: Metered | None, up: Metered | None) -> int:
    """In both directions, on both connections."""
    moved = 0
    if down is not None:
        moved = down.rx_bytes + down.tx_bytes
    if up is not None:
        moved += up.rx_bytes + up.tx_bytes
    return moved
