"""What Prometheus scrapes is what Prometheus' own parser reads, under Envoy's names."""

import re

from prometheus_client.parser import text_string_to_metric_families

from hotproxy.shm.reader import HistogramValue, Reading
from hotproxy.shm.schema import COUNTER, HISTOGRAM, Stat, bucket_bounds, bucket_of
from hotproxy.telemetry.prometheus import BOUNDS, render
from hotproxy.telemetry.stats import ClusterStats, HttpStats, ListenerStats, TcpStats
from hotproxy.telemetry.text import quantile, render_text, to_json


def reading(stats: list[Stat], **values) -> Reading:
    """`values` by the last part of the name; everything else is 0."""
    found = {}
    for stat in stats:
        empty = HistogramValue(0, 0, ()) if stat.kind == HISTOGRAM else 0
        found[stat.name] = values.get(stat.name.rpartition(".")[2], empty)
    by_name = {stat.name: stat for stat in stats}
    return Reading(found, by_name, [], 1, 1, 1, True, 0, False, 0.0, 1, "1.0.0")


def histogram(*recorded: int) -> HistogramValue:
    buckets: dict[int, int] = {}
    for value in recorded:
        largest = bucket_bounds(bucket_of(value))[1]
        buckets[largest] = buckets.get(largest, 0) + 1
    return HistogramValue(len(recorded), sum(recorded), tuple(sorted(buckets.items())))


def samples(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found[sample.name, tuple(sorted(sample.labels.items()))] = sample.value
    return found


def test_the_families_and_labels_of_envoy():
    stats = (
        ClusterStats.declare("api") + HttpStats.declare("web") + ListenerStats.declare("web") + TcpStats.declare("db")
    )
    values = reading(stats, upstream_rq_2xx=7, upstream_rq_200=6, downstream_rq_5xx=2, downstream_cx_total=3)
    lines = "".join(render(values)).splitlines()
    for line in (
        'envoy_cluster_upstream_rq_xx{envoy_response_code_class="2",envoy_cluster_name="api"} 7',
        'envoy_cluster_upstream_rq{envoy_response_code="200",envoy_cluster_name="api"} 6',
        'envoy_http_downstream_rq_xx{envoy_response_code_class="5",envoy_http_conn_manager_prefix="web"} 2',
        'envoy_listener_downstream_cx_total{envoy_listener_address="web"} 3',
        'envoy_tcp_downstream_cx_total{envoy_tcp_prefix="db"} 3',
        'envoy_cluster_membership_total{envoy_cluster_name="api"} 0',
        "# TYPE envoy_cluster_upstream_rq_xx counter",
        "# TYPE envoy_cluster_upstream_rq_active gauge",
        "# TYPE envoy_cluster_upstream_rq_time histogram",
        'hotproxy_http_downstream_rq_internal_error{envoy_http_conn_manager_prefix="web"} 0',
    ):
        assert line in lines
    assert not any('envoy_response_code="404"' in line for line in lines)
    types = [line for line in lines if line.startswith("# TYPE")]
    assert len(types) == len(set(types))


def test_two_clusters_share_a_family_and_its_one_type_line():
    stats = ClusterStats.declare("a") + ClusterStats.declare("b")
    text = "".join(render(reading(stats, upstream_rq_total=1)))
    assert text.count("# TYPE envoy_cluster_upstream_rq_total counter\n") == 1
    found = samples(text)
    for name in "ab":
        assert found["envoy_cluster_upstream_rq_total", (("envoy_cluster_name", name),)] == 1


def test_a_statistic_without_tags_and_family_is_ours():
    stats = [Stat("server.restarts", COUNTER), Stat("server.live", COUNTER, (), "envoy_server_live")]
    assert "".join(render(reading(stats, live=1))) == (
        "# TYPE envoy_server_live counter\nenvoy_server_live{} 1\n"
        "# TYPE hotproxy_server_restarts counter\nhotproxy_server_restarts{} 0\n"
    )


def test_histograms_are_cumulative_with_envoys_bounds():
    recorded = (0, 0, 1, 3, 7, 31, 50, 700, 5_000_000)
    text = "".join(render(reading(HttpStats.declare("web"), downstream_rq_time=histogram(*recorded))))
    found = samples(text)
    name, tag = "envoy_http_downstream_rq_time", ("envoy_http_conn_manager_prefix", "web")
    counts = [found[f"{name}_bucket", (tag, ("le", f"{bound:g}"))] for bound in BOUNDS]
    assert counts == sorted(counts)
    assert counts[:5] == [2, 3, 4, 5, 5]
    assert counts[-1] == 8
    assert found[f"{name}_bucket", (tag, ("le", "+Inf"))] == 9
    assert found[f"{name}_count", (tag,)] == 9
    assert found[f"{name}_sum", (tag,)] == sum(recorded)


def test_labels_are_escaped():
    name = 'a"b\\c\nd'
    found = samples("".join(render(reading(TcpStats.declare(name), idle_timeout=4))))
    # The parser calls every counter `_total`, as OpenMetrics does.
    assert found["envoy_tcp_idle_timeout_total", (("envoy_tcp_prefix", name),)] == 4


def test_a_pattern_selects():
    stats = ClusterStats.declare("a") + ClusterStats.declare("b")
    text = "".join(render(reading(stats), re.compile(r"^cluster\.a\.upstream_cx_total$")))
    assert text.splitlines()[1:] == ['envoy_cluster_upstream_cx_total{envoy_cluster_name="a"} 0']


def test_it_streams_line_by_line():
    lines = list(render(reading(HttpStats.declare("web"))))
    assert all(line.endswith("\n") and line.count("\n") == 1 for line in lines)


def test_text_is_a_name_and_a_value_a_line():
    values = reading(ClusterStats.declare("a"), upstream_rq_200=5, upstream_rq_time=histogram(*range(100)))
    lines = list(render_text(values))
    assert "cluster.a.upstream_rq_200: 5\n" in lines
    assert "cluster.a.upstream_rq_total: 0\n" in lines
    assert not any("upstream_rq_404" in line for line in lines)
    assert lines == sorted(lines)
    assert "cluster.a.upstream_rq_time: count=100 sum=4950 P50=49 P90=91 P95=95 P99=99 P99.9=99 P100=99\n" in lines
    assert list(render_text(reading(ClusterStats.declare("a")), re.compile("rq_time$"))) == [
        "cluster.a.upstream_rq_time: No recorded values\n"
    ]


def test_json_is_one_flat_object():
    values = reading(ClusterStats.declare("a"), upstream_rq_total=5, upstream_rq_time=histogram(1, 1, 70))
    assert to_json(values, re.compile("upstream_rq_t")) == {
        "cluster.a.upstream_rq_time": {"count": 3, "sum": 72, "buckets": [[1, 2], [71, 1]]},
        "cluster.a.upstream_rq_timeout": 0,
        "cluster.a.upstream_rq_total": 5,
        "cluster.a.upstream_rq_tx_reset": 0,
    }


def test_quantiles_of_nothing_and_of_one():
    assert quantile(HistogramValue(0, 0, ()), 50) == 0
    assert quantile(histogram(9), 99.9) == 9
