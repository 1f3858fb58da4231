"""The main job: config and code are replaced under load, and the clients' own counts say that nothing was lost."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.kit import clients
from tests.kit.instance import Instance, eventually, instance

RESTARTS = 20
NEW_PER_SECOND = 1000
KEEPALIVE_CLIENTS = 200
# Worker counts of the successive generations: up, down, up.
WORKERS = [2, 4, 1, 2]


def config(origin_address: str, workers: int = 2) -> str:
    return f"""
workers: {workers}
listeners:
  - name: web
    address: 127.0.0.1:0
    cluster: origin
clusters:
  - name: origin
    endpoints: ["{origin_address}"]
"""


def one_generation(proxy: Instance) -> bool:
    return len(proxy.status()["generations"]) == 1


def assert_nothing_lost(counts: dict[str, Any], proxy: Instance) -> None:
    """Every request was answered right, and the shared counters say what the clients say, to the last one."""
    assert counts["failures"] == {}, f"{counts}\n{proxy.log_text()}"
    assert counts["ok"] == counts["requests"]
    eventually(lambda: proxy.stats()["http.web.downstream_cx_active"] == 0, "every connection to be closed")
    stats = proxy.stats()
    assert stats["http.web.downstream_rq_total"] == counts["requests"]
    assert stats["http.web.downstream_rq_2xx"] == counts["requests"]
    assert stats["http.web.downstream_rq_completed"] == counts["requests"]
    assert stats["listener.web.downstream_cx_total"] == counts["connects"]
    assert stats["cluster.origin.upstream_rq_total"] == counts["requests"]
    assert stats["http.web.downstream_rq_time"]["count"] == counts["requests"]
    for gauge in (
        "http.web.downstream_rq_active",
        "listener.web.downstream_cx_active",
        "cluster.origin.upstream_rq_active",
    ):
        assert stats[gauge] == 0, gauge


def test_twenty_restarts_under_load_lose_nothing(short_path: Path, nginx_address: str) -> None:
    with instance(short_path, config(nginx_address)) as proxy:
        with clients.load(proxy.port("web"), NEW_PER_SECOND, KEEPALIVE_CLIENTS) as load:
            for number in range(RESTARTS):
                workers = WORKERS[(number + 1) % len(WORKERS)]
                proxy.write(config(nginx_address, workers))
                epoch = proxy.status()["epoch"]
                proxy.signal(signal.SIGHUP)
                eventually(lambda epoch=epoch: proxy.status()["epoch"] > epoch, "the restart")
                assert len(proxy.workers()) == workers
            eventually(lambda: one_generation(proxy), "the old generations to be gone")
            counts = load.stop()
        stats = proxy.stats()
        assert stats["server.restarts"] == RESTARTS
        assert stats["server.handoff_moved"] > RESTARTS // 2 * KEEPALIVE_CLIENTS, "they were there at every restart"
        assert counts["closes"] <= stats["server.handoff_refused"], "keep-alive clients notice no restart"
        assert_nothing_lost(counts, proxy)


def test_four_hundred_queued_connections_survive_a_restart(short_path: Path, nginx_address: str) -> None:
    """They wait in the accept queues of workers that are stopped; the new generation takes them from there."""
    with instance(short_path, config(nginx_address)) as proxy:
        stopped = proxy.workers()
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        waiting = clients.queue_requests(proxy.port("web"), 400)
        proxy.reload()
        assert clients.unanswered(waiting) == []
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)
        eventually(lambda: one_generation(proxy), "the old generation to be gone")
        assert proxy.stats()["http.web.downstream_rq_total"] == 400


def test_four_hundred_queued_connections_survive_kill_9_of_their_workers(short_path: Path, nginx_address: str) -> None:
    with instance(short_path, config(nginx_address)) as proxy:
        stopped = proxy.workers()
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        waiting = clients.queue_requests(proxy.port("web"), 400)
        for pid in stopped:
            os.kill(pid, signal.SIGKILL)
        assert clients.unanswered(waiting) == []
        assert set(proxy.workers()).isdisjoint(stopped)
        assert proxy.stats()["server.worker_crashes"] == 2


@pytest.mark.slow
def test_queues_survive_four_slots_that_become_one_and_four_again(short_path: Path, nginx_address: str) -> None:
    """A socket of a slot that no longer exists still gets its share of connections from the kernel."""
    with instance(short_path, config(nginx_address, workers=4)) as proxy:
        for workers in (1, 4):
            stopped = proxy.workers()
            for pid in stopped:
                os.kill(pid, signal.SIGSTOP)
            waiting = clients.queue_requests(proxy.port("web"), 400)
            proxy.write(config(nginx_address, workers))
            proxy.reload()
            assert clients.unanswered(waiting) == []
            for pid in stopped:
                os.kill(pid, signal.SIGCONT)
            assert clients.unanswered(clients.queue_requests(proxy.port("web"), 100)) == []
            eventually(lambda: one_generation(proxy), "the old generation to be gone")
        assert proxy.stats()["http.web.downstream_rq_total"] == 1000
