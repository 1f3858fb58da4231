"""C10 and C18: what is counted is what clients have seen, and whoever asks is answered, at every moment of restarts."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.kit import clients
from tests.kit.instance import Instance, eventually, instance
from tests.restart.test_restart_handoff import assert_gauges_zero
from tests.restart.test_restart_under_load import WORKERS, assert_nothing_lost, config, one_generation

ASKED = ("stats", "status", "admin")


@pytest.mark.timeout(900)
@pytest.mark.parametrize("restarts", [8, pytest.param(100, marks=pytest.mark.slow)])
def test_sums_are_exact_and_everybody_is_answered(short_path: Path, nginx_address: str, restarts: int) -> None:
    with instance(short_path, config(nginx_address)) as proxy, clients.watch(proxy) as watch:
        with clients.load(proxy.port("web"), new_rate=300, keepalive=50, pace_s=0.1) as load:
            for number in range(restarts):
                proxy.write(config(nginx_address, WORKERS[(number + 1) % len(WORKERS)]))
                proxy.reload()
            counts = load.stop()
        assert_nothing_lost(counts, proxy)
        eventually(lambda: one_generation(proxy), "the old generation to be gone")
        assert_gauges_zero(proxy)
        stats = proxy.stats()
        assert stats["server.restarts"] == restarts
        assert stats["http.web.downstream_rq_time"]["count"] == counts["requests"]
        assert stats["cluster.origin.upstream_rq_time"]["count"] == counts["requests"]
        seen = watch.stop()
        assert seen["failures"] == {} and seen["fell"] == [], f"{seen}\n{proxy.log_text()}"
        assert all(seen["answers"][what] > restarts for what in ASKED), seen
        assert seen["accepting"] <= 2 and seen["alive"] <= 3


@pytest.mark.timeout(900)
@pytest.mark.parametrize("kills", [4, pytest.param(20, marks=pytest.mark.slow)])
def test_kill_9_of_workers_spoils_the_sums_by_no_more_than_they_held(
    short_path: Path, nginx_address: str, kills: int
) -> None:
    with instance(short_path, config(nginx_address)) as proxy, clients.watch(proxy) as watch:
        with clients.load(proxy.port("web"), new_rate=300, keepalive=50, pace_s=0.05) as load:
            for number in range(kills):
                killed = proxy.workers()[number % 2]
                os.kill(killed, signal.SIGKILL)
                eventually(lambda killed=killed: ready_without(proxy, killed), "another worker in its place")
                proxy.reload()
            counts = load.stop()
        stats = proxy.stats()
        allowed = stats["server.crashed_in_flight"]
        assert stats["server.worker_crashes"] == kills and allowed > 0
        assert abs(stats["http.web.downstream_rq_completed"] - counts["ok"]) <= allowed, f"{counts} {stats}"
        assert abs(stats["http.web.downstream_rq_time"]["count"] - counts["ok"]) <= allowed, f"{counts} {stats}"
        assert sum(counts["failures"].values()) <= allowed, f"{counts} {stats}"
        assert_gauges_zero(proxy)
        seen = watch.stop()
        assert seen["failures"] == {} and seen["fell"] == [], f"{seen}\n{proxy.log_text()}"
        assert all(seen["answers"][what] > kills for what in ASKED), seen


def ready_without(proxy: Instance, pid: int) -> bool:
    slots = proxy.status()["generations"][-1]["slots"]
    return len(slots) == 2 and all(slot["state"] == "accepting" and slot["pid"] != pid for slot in slots)
