"""Bytes of a tunnel reach the stats once, whoever asks and however often."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from hotproxy.proxy.byte_meter import ByteMeter, bytes_moved
from hotproxy.shm.cells import Slab
from hotproxy.telemetry.stats import ClusterStats, TcpStats


@pytest.fixture
def stats():
    slab = Slab.private(TcpStats.declare("db") + ClusterStats.declare("c"))
    return TcpStats(slab, "db"), ClusterStats(slab, "c")


def test_only_what_is_new_is_counted(stats):
    tcp, cluster = stats
    meter = ByteMeter(tcp, cluster)
    down, up = SimpleNamespace(rx_bytes=5, tx_bytes=0), SimpleNamespace(rx_bytes=0, tx_bytes=0)
    meter.count(down, None)
    meter.count(down, up)
    down.tx_bytes, up.rx_bytes, up.tx_bytes = 7, 8, 5
    meter.count(down, up)
    meter.count(down, up)
    assert (tcp.downstream_cx_rx_bytes_total.value, tcp.downstream_cx_tx_bytes_total.value) == (5, 7)
    assert (cluster.upstream_cx_rx_bytes_total.value, cluster.upstream_cx_tx_bytes_total.value) == (8, 5)
    assert bytes_moved(down, up) == 25
    assert bytes_moved(None, None) == 0


def test_what_was_counted_elsewhere_is_not_counted_again(stats):
    tcp, cluster = stats
    meter = ByteMeter(tcp, cluster)
    meter.counted = [5, 7, 8, 5]
    meter.count(SimpleNamespace(rx_bytes=6, tx_bytes=7), SimpleNamespace(rx_bytes=8, tx_bytes=6))
    assert tcp.downstream_cx_rx_bytes_total.value == 1
    assert cluster.upstream_cx_tx_bytes_total.value == 1


def test_a_cluster_that_is_gone_counts_nothing(stats):
    tcp, _ = stats
    ByteMeter(tcp, None).count(None, SimpleNamespace(rx_bytes=8, tx_bytes=6))
    assert tcp.downstream_cx_rx_bytes_total.value == 0
