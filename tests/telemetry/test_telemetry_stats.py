"""One table, declared and counted: every statistic of the contract, and every counter that a reason names."""

import pytest

from hotproxy import errors
from hotproxy.shm.cells import Slab
from hotproxy.shm.schema import COUNTER, HISTOGRAM, INSTANCE_GAUGE, Stat
from hotproxy.telemetry.stats import AccessLogStats, ClusterStats, HttpStats, ListenerStats, Scope, TcpStats

# CONTRACT's list, as far as these features exist.
PROMISED = {
    "listener.x": "downstream_cx_total downstream_cx_active downstream_cx_destroy downstream_cx_overflow",
    "http.x": "downstream_rq_total downstream_rq_active downstream_rq_completed downstream_rq_1xx downstream_rq_2xx "
    "downstream_rq_3xx downstream_rq_4xx downstream_rq_5xx downstream_cx_total downstream_cx_active "
    "downstream_cx_rx_bytes_total downstream_cx_tx_bytes_total downstream_cx_protocol_error downstream_cx_idle_timeout "
    "no_route no_cluster rq_direct_response rq_redirect downstream_rq_time",
    "tcp.x": "downstream_cx_total downstream_cx_rx_bytes_total downstream_cx_tx_bytes_total idle_timeout",
    "cluster.x": "upstream_cx_total upstream_cx_active upstream_cx_connect_fail upstream_cx_connect_timeout "
    "upstream_cx_rx_bytes_total upstream_cx_tx_bytes_total upstream_rq_total upstream_rq_active upstream_rq_completed "
    "upstream_rq_2xx upstream_rq_3xx upstream_rq_4xx upstream_rq_5xx upstream_rq_200 upstream_rq_404 upstream_rq_503 "
    "upstream_rq_retry upstream_rq_retry_success upstream_rq_timeout upstream_rq_pending_total "
    "upstream_rq_pending_active upstream_rq_rx_reset upstream_rq_tx_reset upstream_rq_time membership_total "
    "membership_healthy",
}
SCOPES: list[type[Scope]] = [ListenerStats, HttpStats, TcpStats, ClusterStats, AccessLogStats]


def declared() -> dict[str, Stat]:
    return {stat.name: stat for scope in SCOPES for stat in scope.declare("x")}


@pytest.mark.parametrize(("prefix", "names"), PROMISED.items())
def test_every_promised_name_is_declared(prefix, names):
    assert {f"{prefix}.{name}" for name in names.split()} <= declared().keys()


@pytest.mark.parametrize("scope", SCOPES)
def test_what_is_declared_can_be_counted(scope):
    slab = Slab.private(scope.declare("x"))
    scope(slab, "x")


def test_every_reason_has_its_counter():
    http = HttpStats(Slab.private(HttpStats.declare("x")), "x")
    cluster = ClusterStats(Slab.private(ClusterStats.declare("x")), "x")
    reasons = [value for value in vars(errors).values() if isinstance(value, errors.Reason)]
    reasons.append(errors.downstream_protocol_error("http1.x"))
    assert len(reasons) > 10
    for reason in reasons:
        if reason.counter:
            (cluster if reason.side is errors.Side.UPSTREAM else http).by_name(reason.counter).inc()


def test_by_name_is_the_same_counter_as_the_attribute():
    http = HttpStats(Slab.private(HttpStats.declare("x")), "x")
    http.by_name("no_route").inc()
    http.no_route.inc()
    assert http.no_route.value == 2


@pytest.mark.parametrize("name", ["", "nonsense", "downstream_rq_active", "declare"])
def test_by_name_refuses_what_is_no_counter(name):
    with pytest.raises(KeyError):
        HttpStats(Slab.private(HttpStats.declare("x")), "x").by_name(name)


def test_two_objects_of_one_name_count_together():
    slab = Slab.private(TcpStats.declare("x"))
    TcpStats(slab, "x").downstream_cx_total.inc()
    TcpStats(slab, "x").downstream_cx_total.inc()
    assert slab.counter("tcp.x.downstream_cx_total").value == 2


@pytest.mark.parametrize(
    ("code", "counted"),
    [(200, {"2xx", "200"}), (404, {"4xx", "404"}), (299, {"2xx"}), (100, {"1xx", "100"}), (999, set()), (0, set())],
)
def test_a_status_counts_its_class_and_its_code(code, counted):
    slab = Slab.private(ClusterStats.declare("x") + HttpStats.declare("x"))
    cluster, http = ClusterStats(slab, "x"), HttpStats(slab, "x")
    cluster.count_status(code)
    http.count_status(code)
    prefix = "cluster.x.upstream_rq_"
    assert {
        stat.name.removeprefix(prefix)
        for stat in ClusterStats.declare("x")
        if stat.kind == COUNTER and slab.counter(stat.name).value
    } == counted | {"completed"}
    assert http.downstream_rq_completed.value == 1
    assert sum(getattr(http, f"downstream_rq_{digit}xx").value for digit in range(1, 6)) == len(counted & {
        "1xx", "2xx", "3xx", "4xx", "5xx"
    })  # fmt: skip


def test_a_code_is_one_counter_however_often_and_through_whichever_object_it_comes():
    slab = Slab.private(ClusterStats.declare("x"))
    one, two = ClusterStats(slab, "x"), ClusterStats(slab, "x")
    for stats in (one, two, one):
        stats.count_status(204)
    assert slab.counter("cluster.x.upstream_rq_204").value == 3


def test_kinds_families_and_tags_are_envoys():
    stats = declared()
    assert stats["cluster.x.upstream_rq_2xx"] == Stat(
        "cluster.x.upstream_rq_2xx",
        COUNTER,
        (("envoy_response_code_class", "2"), ("envoy_cluster_name", "x")),
        "envoy_cluster_upstream_rq_xx",
    )
    assert stats["cluster.x.upstream_rq_503"].tags[0] == ("envoy_response_code", "503")
    assert stats["cluster.x.upstream_rq_503"].family == "envoy_cluster_upstream_rq"
    assert stats["http.x.downstream_rq_time"].kind == HISTOGRAM
    assert stats["cluster.x.membership_total"].kind == INSTANCE_GAUGE
    assert stats["listener.x.downstream_cx_accept_failed"].family == "hotproxy_listener_downstream_cx_accept_failed"
