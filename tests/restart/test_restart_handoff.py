"""Open connections survive restarts: clients that never connect anew, of every kind, count what they see."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.kit import clients, origin
from tests.kit.instance import PATIENCE_S, Instance, eventually, instance
from tests.restart.test_restart_under_load import one_generation

ALL_KINDS = ("keepalive", "websocket", "tcp_pairs", "streams", "uploads", "slow")
# Worker counts of the successive generations.
WORKERS = [2, 3, 1, 2]


def config(ports: dict[str, int], workers: int = 2, more: str = "") -> str:
    return f"""
workers: {workers}
{more}
listeners:
  - name: web
    address: 127.0.0.1:0
    cluster: http
    timeout: 0s
  - name: db
    address: 127.0.0.1:0
    tcp: {{cluster: tcp}}
clusters:
  - name: http
    endpoints: ["127.0.0.1:{ports["http"]}"]
  - name: tcp
    endpoints: ["127.0.0.1:{ports["tcp"]}"]
"""


@pytest.fixture
def ports() -> Iterator[dict[str, int]]:
    with origin.echo_origin() as made:
        yield made


def wishes(proxy: Instance, ports: dict[str, int], **counts: Any) -> dict[str, Any]:
    where = {"http": ["127.0.0.1", proxy.port("web")], "tcp": ["127.0.0.1", proxy.port("db")], "origin": ports["http"]}
    return {**where, **counts}


def assert_all_alive(counts: dict[str, Any], proxy: Instance) -> None:
    """No client has seen anything, and the gauges are back at exactly 0."""
    assert counts["failures"] == {}, f"{counts}\n{proxy.log_text()}"
    assert_gauges_zero(proxy)
    assert proxy.stats()["server.internal_errors"] == 0, proxy.log_text()


def assert_gauges_zero(proxy: Instance) -> None:
    gauges = [name for name in proxy.stats() if name.endswith("_active") and ".upstream_cx_" not in name]
    assert len(gauges) >= 5
    eventually(lambda: not any(proxy.stats()[name] for name in gauges), f"gauges at 0: {proxy.stats()}")


def idle_upstream(proxy: Instance) -> int:
    return int(proxy.stats()["cluster.http.upstream_cx_active"])


def test_connections_of_every_kind_live_through_restarts(short_path: Path, ports: dict[str, int]) -> None:
    """C3, C4, C7, C10 in small: the same sockets from before the first restart to after the last one."""
    restarts = 8
    with instance(short_path, config(ports)) as proxy:
        with clients.long_lived(
            **wishes(proxy, ports, keepalive=150, websocket=60, tcp_pairs=60, streams=6, uploads=6, slow=3, pace_s=0.1)
        ) as living:
            for number in range(restarts):
                proxy.write(config(ports, WORKERS[(number + 1) % len(WORKERS)]))
                said = proxy.reload().stdout
                assert "connections moved in" in said and "drain" not in said, said
            eventually(lambda: one_generation(proxy), "the old generations to be gone")
            counts = living.stop()
        last = proxy.status()["last_restart"]
        assert_all_alive(counts, proxy)
        stats = proxy.stats()
        assert (last["ok"], last["refused"]) == (True, 0) and last["moved"] == 285
        assert stats["server.handoff_moved"] == restarts * 285 and stats["server.handoff_refused"] == 0
        assert counts["rounds"].keys() == set(ALL_KINDS)
        assert stats["listener.web.downstream_cx_total"] == 225 and stats["listener.db.downstream_cx_total"] == 60
        assert stats["listener.web.downstream_cx_destroy"] == 225 and stats["listener.db.downstream_cx_destroy"] == 60
        assert stats["http.web.downstream_rq_total"] == stats["http.web.downstream_rq_completed"] == counts["requests"]
        assert stats["http.web.downstream_rq_time"]["count"] == counts["requests"]


def test_idle_connections_to_endpoints_go_along(short_path: Path, ports: dict[str, int]) -> None:
    with instance(short_path, config(ports, workers=1)) as proxy:
        with clients.long_lived(**wishes(proxy, ports, keepalive=20, pace_s=0.05)) as living:
            opened = proxy.stats()["cluster.http.upstream_cx_total"]
            proxy.reload()
            eventually(lambda: one_generation(proxy), "the old generation to be gone")
            counts = living.stop()
        assert_all_alive(counts, proxy)
        assert idle_upstream(proxy) > 0
        # The new generation may have met requests before the idle connections came; never as many as there are clients.
        assert proxy.stats()["cluster.http.upstream_cx_total"] - opened < 20
        assert (
            proxy.stats()["cluster.http.upstream_cx_destroy"] + idle_upstream(proxy)
            == (proxy.stats()["cluster.http.upstream_cx_total"])
        )


def test_unix_sockets_move_as_well(short_path: Path) -> None:
    path = f"{short_path}/o.sock"
    with origin.echo_origin(path) as ports:
        text = config(ports).replace(
            "address: 127.0.0.1:0\n    cluster: http", f"address: unix:{short_path}/l.sock\n    cluster: http"
        )
        text = text.replace(f'["127.0.0.1:{ports["http"]}"]', f'["unix:{path}"]')
        with instance(short_path, text) as proxy:
            with clients.long_lived(
                http=["unix", f"{short_path}/l.sock"], tcp=["127.0.0.1", proxy.port("db")], origin=ports["http"],
                keepalive=20, websocket=10, streams=2, uploads=2,
            ) as living:  # fmt: skip
                for _ in range(3):
                    proxy.reload()
                counts = living.stop()
            assert_all_alive(counts, proxy)


def test_connections_of_a_listener_that_is_removed_drain(short_path: Path, ports: dict[str, int]) -> None:
    with instance(short_path, config(ports, more="drain_timeout: 60s")) as proxy:
        text = config(ports)
        start = text.index("  - name: db")
        without = text[:start] + text[text.index("clusters:") :]
        with clients.long_lived(**wishes(proxy, ports, keepalive=10, tcp_pairs=10)) as living:
            proxy.write(without)
            said = proxy.reload().stdout
            assert "10 connections moved in" in said and "10 drain" in said
            assert len(proxy.status()["generations"]) == 2
            counts = living.stop()
        assert_all_alive(counts, proxy)
        assert proxy.stats()["server.handoff_refused"] == 10
        eventually(lambda: one_generation(proxy), "the old generation to be gone")
        assert "listener 'db' is no longer there" in proxy.log_text()


def test_fewer_workers_take_over_from_those_that_go(short_path: Path, ports: dict[str, int]) -> None:
    with instance(short_path, config(ports, workers=3)) as proxy:
        with clients.long_lived(
            **wishes(proxy, ports, keepalive=60, websocket=20, tcp_pairs=20, streams=3, uploads=3, pace_s=0.1)
        ) as living:
            for left in (2, 1):
                proxy.signal(signal.SIGTTOU)
                eventually(lambda left=left: proxy.workers() and len(proxy.workers()) == left, f"{left} workers")
            proxy.signal(signal.SIGTTIN)
            eventually(lambda: len(proxy.workers()) == 2, "a second worker")
            counts = living.stop()
        assert_all_alive(counts, proxy)
        assert proxy.stats()["server.handoff_moved"] >= 106 // 3
        assert proxy.stats()["server.worker_crashes"] == 0


def connections(proxy: Instance) -> list[int]:
    """Of each slot that serves, in order."""
    return [slot["connections"] for slot in proxy.status()["generations"][-1]["slots"]]


def test_a_worker_more_gets_its_share_of_what_the_others_have(short_path: Path, ports: dict[str, int]) -> None:
    """TTIN, three times from one: nobody's sockets change, and everybody ends up with the same number of clients."""
    with instance(short_path, config(ports, workers=1)) as proxy:
        with clients.long_lived(
            **wishes(proxy, ports, keepalive=60, websocket=30, tcp_pairs=30, streams=3, uploads=3, pace_s=0.1)
        ) as living:
            assert connections(proxy) == [126]
            moved = 0
            for number in (2, 3, 4):
                proxy.signal(signal.SIGTTIN)
                share = 126 // number
                even = [share] * number
                eventually(
                    lambda even=even: (
                        [each - each // (even[0] + 1) for each in sorted(connections(proxy))] == even
                        and f"worker 1/{len(even) - 1} serves, {even[0]} connections moved in " in proxy.log_text()
                    ),
                    f"{number} equal workers: {connections(proxy)}\n{proxy.log_text()}",
                )
                moved += share
            assert proxy.stats()["server.handoff_moved"] == moved and proxy.stats()["server.handoff_refused"] == 0
            assert "drain" not in proxy.log_text()
            counts = living.stop()
        assert_all_alive(counts, proxy)
        assert proxy.stats()["server.worker_crashes"] == 0


def test_workers_that_go_one_after_the_other_lose_nothing(short_path: Path, ports: dict[str, int]) -> None:
    """Each of them may just be getting what the one before it has for it; and one that is new, its share."""
    with instance(short_path, config(ports, workers=4, more="drain_timeout: 60s")) as proxy:
        with clients.long_lived(**wishes(proxy, ports, keepalive=200, tcp_pairs=200, pace_s=0.5)) as living:
            for left in (3, 2, 1):
                proxy.signal(signal.SIGTTOU)
                eventually(lambda left=left: f"{left} slots instead of {left + 1}" in proxy.log_text(), "fewer slots")
            proxy.signal(signal.SIGTTIN)
            eventually(lambda: "2 slots instead of 1" in proxy.log_text(), "more slots")
            proxy.reload()
            counts = living.stop()
        assert_all_alive(counts, proxy)
        assert proxy.stats()["server.handoff_refused"] == 0, proxy.log_text()


def test_a_recycled_worker_is_another_process_with_the_same_connections(
    short_path: Path, ports: dict[str, int]
) -> None:
    with instance(short_path, config(ports)) as proxy:
        before = proxy.workers()
        with clients.long_lived(
            **wishes(proxy, ports, keepalive=60, websocket=20, tcp_pairs=20, streams=3, uploads=3, pace_s=0.1)
        ) as living:
            held = {slot["slot"]: slot["connections"] for slot in proxy.status()["generations"][0]["slots"]}
            answer = proxy.command("worker", "recycle", "1")
            assert answer.returncode == 0, answer.stderr
            assert f"worker 1: pid {before[1]} -> " in answer.stdout and "connections moved" in answer.stdout
            eventually(lambda: len(proxy.workers()) == 2, "the old process to be gone")
            after = proxy.workers()
            assert after[0] == before[0] and after[1] != before[1]
            counts = living.stop()
        assert_all_alive(counts, proxy)
        assert proxy.stats()["server.handoff_moved"] == held[1]
        assert proxy.stats()["server.worker_crashes"] == 0
        missing = proxy.command("worker", "recycle", "7")
        assert missing.returncode == 1 and "there is no worker 7 that serves; these do: 0, 1" in missing.stderr
        assert proxy.command("worker", "recycle", "x").returncode == 2


def test_a_stopped_worker_keeps_its_connections_and_holds_nobody_up(short_path: Path, ports: dict[str, int]) -> None:
    """SIGSTOP during the restart: nobody can take what it has; it is there when it runs again, and drains."""
    with instance(short_path, config(ports, more="drain_timeout: 60s\nhandoff_timeout: 500ms")) as proxy:
        with clients.long_lived(**wishes(proxy, ports, keepalive=20, tcp_pairs=20)) as living:
            stopped = proxy.workers()[0]
            os.kill(stopped, signal.SIGSTOP)
            try:
                assert "moved in" in proxy.reload().stdout
            finally:
                os.kill(stopped, signal.SIGCONT)
            assert "has no heartbeat: what it still has drains" in proxy.log_text()
            counts = living.stop()
        assert set(counts["failures"]) <= {"keepalive: Connection: close"}, f"{counts}\n{proxy.log_text()}"
        assert_gauges_zero(proxy)
        stats = proxy.stats()
        assert stats["server.worker_crashes"] == 0
        assert stats["server.handoff_moved"] + stats["server.handoff_refused"] >= 40


def storm(proxy: Instance, ports: dict[str, int], signals: int) -> None:
    """C11: HUPs at random moments; how many generations live and accept is looked at between them."""
    words = random.Random(11)
    kinds = {"keepalive": 60, "websocket": 20, "tcp_pairs": 20, "streams": 3, "uploads": 3, "pace_s": 0.1}
    with clients.long_lived(**wishes(proxy, ports, **kinds)) as living:
        for number in range(signals):
            proxy.write(config(ports, WORKERS[number % len(WORKERS)], more=f"drain_timeout: {60 + number}s"))
            proxy.signal(signal.SIGHUP)
            time.sleep(words.random() * 0.2)  # the storm itself; nothing is expected of the moment
            states = [each["state"] for each in proxy.status()["generations"]]
            assert len(states) <= 3 and sum(state in ("opening", "active", "yielding") for state in states) <= 2, states
        eventually(lambda: idle(proxy), "the last restart")
        counts = living.stop()
    assert_all_alive(counts, proxy)
    assert len(proxy.workers()) == WORKERS[(signals - 1) % len(WORKERS)], "the config that was written last"
    assert proxy.stats()["server.handoff_refused"] == 0 and proxy.stats()["server.restarts_failed"] == 0
    assert 2 <= proxy.stats()["server.restarts"] < signals


def idle(proxy: Instance) -> bool:
    """Nothing more is going to happen: asked twice, the epoch is the same and alone."""
    before = proxy.status()
    return (
        one_generation(proxy)
        and proxy.status()["epoch"] == before["epoch"] == proxy.stats()["server.hot_restart_epoch"]
    )


def test_a_storm_of_signals_is_a_few_restarts_and_nobody_notices(short_path: Path, ports: dict[str, int]) -> None:
    with instance(short_path, config(ports)) as proxy:
        storm(proxy, ports, 25)


def storm_of_orders(proxy: Instance, ports: dict[str, int], orders: int, seed: int) -> None:
    """Restarts, workers more and less, recycled ones, on each other's heels: whoever gives may be getting something, be
    asked to leave, or not be there yet. Nothing may have to drain."""
    words = random.Random(seed)
    kinds = {"keepalive": 60, "websocket": 30, "tcp_pairs": 60, "streams": 3, "uploads": 3, "pace_s": 0.3}
    asked = []
    with clients.long_lived(**wishes(proxy, ports, **kinds)) as living:
        for number in range(orders):
            order = words.choice(["TTIN", "TTOU", "TTIN", "TTOU", "HUP", "recycle", "recycle"])
            if order == "recycle":
                asked.append(proxy.begin_command("worker", "recycle", str(words.randrange(2))))
            else:
                proxy.write(config(ports, words.choice(WORKERS), more=f"drain_timeout: {60 + number}s"))
                proxy.signal(signal.Signals[f"SIG{order}"])
            time.sleep(words.random() * 0.1)  # the storm itself; nothing is expected of the moment
        for command in asked:  # it may be refused: no such worker, or a restart
            command.communicate(timeout=2 * PATIENCE_S)
        eventually(lambda: idle(proxy), "the last of them")
        counts = living.stop()
    assert_all_alive(counts, proxy)
    stats = proxy.stats()
    assert stats["server.handoff_refused"] == stats["server.worker_crashes"] == stats["server.restarts_failed"] == 0, (
        proxy.log_text()
    )


def test_orders_on_each_other_s_heels_lose_nothing(short_path: Path, ports: dict[str, int]) -> None:
    with instance(short_path, config(ports)) as proxy:
        storm_of_orders(proxy, ports, 30, seed=4)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_300_orders(short_path: Path, ports: dict[str, int]) -> None:
    with instance(short_path, config(ports)) as proxy:
        storm_of_orders(proxy, ports, 300, seed=5)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_200_signals(short_path: Path, ports: dict[str, int]) -> None:
    with instance(short_path, config(ports)) as proxy:
        storm(proxy, ports, 200)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_2000_connections_live_through_20_restarts(short_path: Path, ports: dict[str, int]) -> None:
    """C3, whole: 1,000 keep-alive, 500 WebSocket and 500 TCP connections on the same sockets."""
    with instance(short_path, config(ports)) as proxy:
        kinds = {"keepalive": 1000, "websocket": 500, "tcp_pairs": 500, "pace_s": 2.0}
        with clients.long_lived(**wishes(proxy, ports, **kinds)) as living:
            for number in range(20):
                proxy.write(config(ports, WORKERS[(number + 1) % len(WORKERS)]))
                proxy.reload()
            counts = living.stop()
        assert_all_alive(counts, proxy)
        assert proxy.stats()["server.handoff_moved"] == 40_000


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_streams_are_byte_exact_across_40_restarts(short_path: Path, ports: dict[str, int]) -> None:
    """C4, whole: in both directions, with readers that are too slow, beside 1,000 that wait."""
    with instance(short_path, config(ports)) as proxy:
        kinds = {"keepalive": 1000, "streams": 30, "uploads": 30, "slow": 10, "pace_s": 3.0}
        with clients.long_lived(**wishes(proxy, ports, **kinds)) as living:
            for number in range(40):
                proxy.write(config(ports, WORKERS[(number + 1) % len(WORKERS)]))
                proxy.reload()
            counts = living.stop()
        assert_all_alive(counts, proxy)
        assert counts["rounds"]["streams"] == counts["rounds"]["uploads"] == 30
