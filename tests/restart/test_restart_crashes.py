"""Processes are killed with -9: what served goes on serving, and what was counted stays counted."""

from __future__ import annotations

import os
import random
import signal
from pathlib import Path

from tests.kit import clients
from tests.kit.instance import PATIENCE_S, Instance, eventually, instance, is_running
from tests.restart.test_restart_under_load import assert_nothing_lost, config

REQUEST = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"


def newest(proxy: Instance) -> dict[str, object]:
    return max(proxy.status()["generations"], key=lambda generation: generation["epoch"])


def test_a_killed_worker_is_replaced_and_its_counters_stay(short_path: Path, nginx_address: str) -> None:
    with instance(short_path, config(nginx_address)) as proxy:
        port = proxy.port("web")
        for _ in range(50):
            assert clients.exchange(port, REQUEST).startswith(b"HTTP/1.1 200")
        with clients.connect(port) as idle:
            idle.sendall(REQUEST.replace(b"Connection: close\r\n", b""))
            clients.read_response(idle)
            assert proxy.stats()["http.web.downstream_cx_active"] == 1
            before = proxy.workers()
            for pid in before:
                os.kill(pid, signal.SIGKILL)
            eventually(lambda: set(proxy.workers()).isdisjoint({*before, None, 0}), "new workers")
        eventually(lambda: proxy.stats()["server.worker_crashes"] == 2, "both crashes to be counted")
        stats = proxy.stats()
        assert stats["http.web.downstream_rq_total"] == 51
        assert stats["http.web.downstream_rq_time"]["count"] == 51
        assert stats["http.web.downstream_cx_active"] == 0, "the gauge of a dead worker vanishes"
        for _ in range(20):
            assert clients.exchange(port, REQUEST).startswith(b"HTTP/1.1 200")
        assert proxy.stats()["http.web.downstream_rq_total"] == 71


def test_a_worker_that_keeps_dying_is_covered_by_its_neighbour(short_path: Path, nginx_address: str) -> None:
    with instance(short_path, config(nginx_address)) as proxy:
        port = proxy.port("web")
        for _ in range(6):
            victim = proxy.workers()[0]
            if victim:
                os.kill(victim, signal.SIGKILL)
                eventually(lambda victim=victim: proxy.workers()[0] != victim, "the death to be noticed")
            # Half of these are hashed to the dead slot's socket.
            for _ in range(10):
                assert clients.exchange(port, REQUEST).startswith(b"HTTP/1.1 200")


def test_a_killed_control_process_is_replaced_and_traffic_never_notices(short_path: Path, nginx_address: str) -> None:
    with instance(short_path, config(nginx_address)) as proxy:
        with clients.load(proxy.port("web"), new_rate=200, keepalive=50) as load:
            before = newest(proxy)["control"]["pid"]
            os.kill(before, signal.SIGKILL)
            eventually(lambda: newest(proxy)["control"]["pid"] not in (before, None, 0), "a new control process")
            counts = load.stop()
        assert_nothing_lost(counts, proxy)


def test_a_killed_zygote_is_replaced_while_its_slots_serve(short_path: Path, nginx_address: str) -> None:
    with instance(short_path, config(nginx_address)) as proxy:
        with clients.load(proxy.port("web"), new_rate=200, keepalive=50, pace_s=0.1) as load:
            before = newest(proxy)
            os.kill(before["pid"], signal.SIGKILL)
            eventually(
                lambda: newest(proxy)["pid"] != before["pid"] and newest(proxy)["state"] == "active", "a new one"
            )
            workers = proxy.workers()
            assert all(workers) and set(workers).isdisjoint(slot["pid"] for slot in before["slots"])
            counts = load.stop()
        assert_nothing_lost(counts, proxy)
        for slot in before["slots"]:
            eventually(lambda pid=slot["pid"]: not is_running(pid), "the orphans to leave")
        assert clients.exchange(proxy.port("web"), REQUEST).startswith(b"HTTP/1.1 200")


def test_counters_are_right_whenever_the_supervisor_is_killed(short_path: Path, nginx_address: str) -> None:
    """Workers die, so the supervisor folds; it is killed at random moments meanwhile. A new one goes on counting."""
    moments = random.Random(7)
    requests = 0
    with instance(short_path, config(nginx_address)) as proxy:
        for _ in range(4):
            port = proxy.port("web")
            for _ in range(10):
                assert clients.exchange(port, REQUEST).startswith(b"HTTP/1.1 200")
                requests += 1
            eventually(lambda port=port: proxy.stats()["http.web.downstream_rq_active"] == 0, "the last counts")
            pids = proxy.pids()
            supervisor, others = pids[0], pids[1:]
            for pid in others:
                os.kill(pid, signal.SIGKILL)
            for _ in range(moments.randrange(20_000)):
                pass  # somewhere inside the supervisor's reaping and folding
            os.kill(supervisor, signal.SIGKILL)
            assert proxy.process is not None
            proxy.process.wait(PATIENCE_S)
            assert proxy.stats()["http.web.downstream_rq_total"] == requests, "with every process dead"
            proxy.kill_all()  # a zygote may have forked again between the kills
            proxy.start()
            assert proxy.stats()["http.web.downstream_rq_total"] == requests, "after a new start"


def test_slots_serve_on_when_the_supervisor_is_killed(short_path: Path, nginx_address: str) -> None:
    with instance(short_path, config(nginx_address)) as proxy:
        with clients.load(proxy.port("web"), new_rate=200, keepalive=50) as load:
            assert proxy.process is not None
            proxy._remember()
            proxy.process.kill()
            proxy.process.wait(PATIENCE_S)
            port = load.process.args[3]  # type: ignore[index]
            for _ in range(100):
                assert clients.exchange(int(port), REQUEST).startswith(b"HTTP/1.1 200")
            counts = load.stop()
        assert counts["failures"] == {}
        assert proxy.stats()["http.web.downstream_rq_total"] == counts["requests"] + 100
