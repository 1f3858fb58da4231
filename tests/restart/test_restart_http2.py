"""C6: HTTP/2 connections move in a hot restart, with all their open streams."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit import origin
from tests.kit.http2_crowd import crowd
from tests.kit.instance import eventually, instance
from tests.restart.test_restart_handoff import assert_gauges_zero, config
from tests.restart.test_restart_under_load import one_generation

WORKERS = [2, 3, 1, 2]


@pytest.fixture
def ports() -> Iterator[dict[str, int]]:
    with origin.echo_origin() as made:
        yield made


@pytest.mark.timeout(600)
@pytest.mark.parametrize("restarts", [4, pytest.param(40, marks=pytest.mark.slow)])
def test_connections_with_open_streams_live_through_restarts(
    short_path: Path, ports: dict[str, int], restarts: int
) -> None:
    connections = 6
    with instance(short_path, config(ports)) as proxy:
        with crowd(proxy.port("web"), connections) as living:
            living.wait_for_more(2)
            for number in range(restarts):
                proxy.write(config(ports, WORKERS[(number + 1) % len(WORKERS)]))
                said = proxy.reload().stdout
                assert "connections moved in" in said and "drain" not in said, said
                living.wait_for_more(4)
            counts = living.stop()
        assert counts["failures"] == [], f"{counts}\n{proxy.log_text()}"
        eventually(lambda: one_generation(proxy), "the old generations to be gone")
        assert_gauges_zero(proxy)
        stats = proxy.stats()
        assert stats["server.internal_errors"] == 0, proxy.log_text()
        assert stats["server.handoff_moved"] == restarts * connections and stats["server.handoff_refused"] == 0
        assert stats["http.web.downstream_cx_http2_total"] == connections
        assert stats["http.web.downstream_rq_http2_total"] == stats["http.web.downstream_rq_total"] == counts["streams"]
        assert stats["http.web.downstream_rq_2xx"] == counts["streams"]
        assert stats["http.web.http2.goaway_sent"] == stats["http.web.http2.rx_reset"] == 0


def test_h2load_sees_nothing_of_restarts(short_path: Path, nginx_address: str) -> None:
    program = origin.need("h2load")
    text = f"""
workers: 2
listeners:
  - name: web
    address: 127.0.0.1:0
    cluster: origin
clusters:
  - name: origin
    endpoints: ["{nginx_address}"]
"""
    requests = 4000
    with instance(short_path, text) as proxy:
        url = f"http://127.0.0.1:{proxy.port('web')}/"
        load = subprocess.Popen(
            [program, "-n", str(requests), "-c", "8", "-m", "10", url], stdout=subprocess.PIPE, text=True
        )
        try:
            for number in range(1, 4):
                wanted = requests * number // 5
                eventually(
                    lambda wanted=wanted: proxy.stats()["http.web.downstream_rq_total"] >= wanted, "some requests"
                )
                proxy.reload()
            said, _ = load.communicate(timeout=120)
        finally:
            load.kill()
            load.wait()
        assert f"{requests} succeeded, 0 failed, 0 errored, 0 timeout" in said, said + proxy.log_text()
        assert proxy.stats()["http.web.downstream_rq_2xx"] == requests
        assert proxy.stats()["listener.web.downstream_cx_total"] == 8
