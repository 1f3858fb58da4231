"""`kill -9` of the supervisor under load: nobody notices, and `hotproxy run` goes on with what serves."""

from __future__ import annotations

import os
import random
import select
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.kit import clients
from tests.kit.instance import PATIENCE_S, Instance, eventually, instance, is_running
from tests.restart.test_restart_under_load import assert_nothing_lost, config, one_generation

REQUEST = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


def brief(address: str) -> str:
    """So that a test does not wait for those that hang."""
    return config(address) + "drain_timeout: 3s\n"


def kill_supervisor(proxy: Instance) -> None:
    assert proxy.process is not None
    proxy._remember()
    proxy.process.kill()
    proxy.process.wait(PATIENCE_S)


def newest(proxy: Instance) -> dict[str, Any]:
    found: dict[str, Any] = max(proxy.status()["generations"], key=lambda generation: generation["epoch"])
    return found


def test_two_kills_under_load_lose_nothing_and_change_nobody(short_path: Path, nginx_address: str) -> None:
    with instance(short_path, brief(nginx_address)) as proxy:
        generation, port = newest(proxy), proxy.port("web")
        with clients.load(port, new_rate=300, keepalive=100, pace_s=0.1) as load:
            totals = []
            for _ in range(2):
                uptime_s = proxy.status()["uptime_s"]
                kill_supervisor(proxy)
                totals.append(proxy.stats()["http.web.downstream_rq_total"])  # with no supervisor
                for _ in range(20):
                    clients.exchange(port, REQUEST.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
                proxy.start()
                totals.append(proxy.stats()["http.web.downstream_rq_total"])
                assert proxy.status()["uptime_s"] > uptime_s
                assert proxy.status()["supervisor"]["note"] == f"re-attached to generation 1 (pid {generation['pid']})"
                again = newest(proxy)
                assert [slot["pid"] for slot in again["slots"]] == [slot["pid"] for slot in generation["slots"]]
                assert (again["pid"], again["control"]) == (generation["pid"], generation["control"])
                assert proxy.port("web") == port
            assert totals == sorted(totals)
            proxy.reload()
            eventually(lambda: one_generation(proxy), "the generation that was adopted to be gone")
            counts = load.stop()
        assert counts["closes"] <= proxy.stats()["server.handoff_refused"], "keep-alive clients notice nothing"
        counts = {key: counts[key] + 40 if key in ("ok", "requests", "connects") else counts[key] for key in counts}
        assert_nothing_lost(counts, proxy)
        stats = proxy.stats()
        assert (stats["server.worker_crashes"], stats["server.restarts"]) == (0, 1)
        assert stats["server.handoff_moved"] >= 100
        pids = proxy.pids()
        assert proxy.command("stop").returncode == 0
        assert not [pid for pid in pids[1:] if is_running(pid)]
        assert [each.name for each in (short_path / "run" / "test").iterdir()] == ["test.last-good.yaml"]


@pytest.mark.parametrize("victims", ["zygote", "a worker", "all workers", "control"])
def test_others_die_too_while_there_is_none(short_path: Path, nginx_address: str, victims: str) -> None:
    with instance(short_path, brief(nginx_address)) as proxy:
        generation, port = newest(proxy), proxy.port("web")
        for _ in range(10):
            assert ask(port).startswith(b"HTTP/1.1 200")
        eventually(lambda: proxy.stats()["http.web.downstream_cx_active"] == 0, "the last counts")
        kill_supervisor(proxy)
        workers = [slot["pid"] for slot in generation["slots"]]
        chosen = {
            "zygote": [generation["pid"]], "a worker": workers[:1], "all workers": workers,
            "control": [generation["control"]["pid"]],
        }[victims]  # fmt: skip
        for pid in chosen:
            os.kill(pid, signal.SIGKILL)
            eventually(lambda pid=pid: not is_running(pid), "its end")
        # Without its zygote a generation can't come back: the port of a ":0" is another one then.
        waiting = [clients.connect(port) for _ in range(50)]
        for sock in waiting:
            sock.sendall(REQUEST.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        proxy.start()
        for sock in waiting:
            assert clients.read_to_end(sock).startswith(b"HTTP/1.1 200 ")
            sock.close()
        assert ask(proxy.port("web")).startswith(b"HTTP/1.1 200")
        if victims != "zygote":
            assert proxy.port("web") == port and newest(proxy)["pid"] == generation["pid"]
        crashes = {"a worker": 1, "all workers": 2}.get(victims, 0)
        eventually(lambda: proxy.stats()["http.web.downstream_rq_completed"] == 61, "every request to be counted")
        assert proxy.stats()["server.worker_crashes"] == crashes
        assert proxy.reload().returncode == 0
        eventually(lambda: proxy.status()["epoch"] > 1 and len(proxy.status()["generations"]) == 1, "one generation")


def ask(port: int) -> bytes:
    return clients.exchange(port, REQUEST.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))


# Where the new generation hangs, so that the kill comes exactly there.
MOMENTS = {
    "starting": "zygote.send.HELLO@2:hang",
    "warming": "worker.send.READY@2:hang",
    "opening": "worker.send.ACCEPTING@2:hang",
}


@pytest.mark.parametrize(
    "state", [pytest.param(each, marks=pytest.mark.slow if each == "opening" else ()) for each in MOMENTS]
)
def test_a_kill_in_the_middle_of_a_reload_loses_nothing(short_path: Path, nginx_address: str, state: str) -> None:
    with instance(short_path, brief(nginx_address), start=False) as proxy:
        fault = short_path / "fault"
        fault.write_text("")
        proxy.environment["HOTPROXY_FAULT"] = f"@{fault}"
        proxy.start("--allow-faults")
        with clients.load(proxy.port("web"), new_rate=100, keepalive=50, pace_s=0.2) as load:
            fault.write_text(MOMENTS[state])
            proxy.signal(signal.SIGHUP)
            eventually(lambda: state in [each["state"] for each in proxy.status()["generations"]], state)
            fault.write_text("")
            kill_supervisor(proxy)
            proxy.start("--allow-faults")
            assert proxy.reload().returncode == 0
            eventually(lambda: one_generation(proxy), "one generation")
            counts = load.stop()
        assert_nothing_lost(counts, proxy)


@pytest.mark.slow
def test_kills_at_random_moments_of_reloads_lose_nothing(short_path: Path, nginx_address: str) -> None:
    moments = random.Random(17)
    with instance(short_path, brief(nginx_address)) as proxy:
        with clients.load(proxy.port("web"), new_rate=100, keepalive=50, pace_s=0.1) as load:
            for _ in range(6):
                proxy.signal(signal.SIGHUP)
                select.select([], [], [], moments.uniform(0.0, 0.8))  # a restart takes about so long
                kill_supervisor(proxy)
                proxy.start()
            proxy.reload()
            eventually(lambda: one_generation(proxy), "one generation")
            counts = load.stop()
        assert_nothing_lost(counts, proxy)
        assert proxy.stats()["server.worker_crashes"] == 0


def test_nobody_comes_and_all_drain(short_path: Path, nginx_address: str) -> None:
    with instance(short_path, brief(nginx_address) + "orphan_timeout: 500ms\n") as proxy:
        pids = proxy.pids()
        with clients.connect(proxy.port("web")) as kept:
            kept.sendall(REQUEST)
            clients.read_response(kept)
            kill_supervisor(proxy)
            kept.sendall(REQUEST)
            clients.read_response(kept)  # served all the while
            assert clients.read_to_end(kept) == b""
        for pid in pids:
            eventually(lambda pid=pid: not is_running(pid), "all of them to leave")


def test_stop_after_a_kill_waits_for_nobody(short_path: Path, nginx_address: str) -> None:
    with instance(short_path, brief(nginx_address)) as proxy:
        pids = proxy.pids()
        kill_supervisor(proxy)
        proxy.start()
        answer = proxy.command("stop")
        assert (answer.returncode, answer.stdout) == (0, "stopped\n"), answer.stderr
        assert not [pid for pid in pids if is_running(pid)]
        assert "killed" not in proxy.log_text()
