"""The listening sockets in systemd's descriptor store: restarts and kills of everything refuse nobody."""

from __future__ import annotations

import json

import pytest

from tests.systemd.service import PORT, Service, assert_nothing_lost

URL = f"http://127.0.0.1:{PORT}/"


def stored(service: Service) -> int:
    return int(service.show("NFileDescriptorStore"))


@pytest.fixture
def serving(service: Service) -> Service:
    service.start()
    # Two workers, and the unix socket of the control process.
    service.eventually(lambda: stored(service) == 3, "its sockets to be stored")
    return service


def test_a_restart_refuses_nobody(serving: Service) -> None:
    with serving.load(new_rate=100, keepalive=0) as load:
        for _ in range(3):
            assert serving.systemctl("restart").returncode == 0, serving.journal()
            serving.eventually(lambda: stored(serving) == 3, "its sockets to be stored again")
        counts = load.stop()
    assert_nothing_lost(counts, serving)


def test_everything_is_killed_and_who_waits_is_served(serving: Service) -> None:
    with serving.load(new_rate=100, keepalive=0) as load:
        for _ in range(3):
            before = serving.pid
            assert serving.systemctl("kill", "--signal=KILL").returncode == 0
            serving.eventually(lambda before=before: serving.pid not in (0, before), "systemd to start it again")  # type: ignore[misc]
            serving.eventually(lambda: serving.show("ActiveState") == "active", "it to serve")
        counts = load.stop()
    # Those whose worker was killed with their request in its hands know it; nobody was refused.
    refused = {what: count for what, count in counts["failures"].items() if "connect" in what}
    assert refused == {}, f"{json.dumps(counts)}\n{serving.journal()}"
    assert serving.curl(URL).returncode == 0


def test_a_killed_supervisor_finds_the_sockets_of_its_workers(serving: Service) -> None:
    workers, before = [slot["pid"] for slot in serving.newest()["slots"]], serving.pid
    with serving.load() as load:
        serving.kill(before)
        serving.eventually(lambda: serving.pid not in (0, before), "systemd to start it again")
        serving.eventually(lambda: serving.show("StatusText").startswith("re-attached"), "it to go on with them")
        serving.reload()
        counts = load.stop()
    assert "re-attached to generation 1" in serving.journal()
    assert set(workers).isdisjoint(slot["pid"] for slot in serving.newest()["slots"]), "after the reload"
    assert_nothing_lost(counts, serving)
    assert stored(serving) == 3


def test_its_own_code_is_executed_in_place(serving: Service) -> None:
    before = serving.pid
    with serving.load() as load:
        serving.kill(before, "USR2")
        serving.eventually(lambda: "re-attached to generation 2" in serving.journal(), "the execve")
        counts = load.stop()
    assert (serving.pid, serving.show("NRestarts"), serving.show("ActiveState")) == (before, "0", "active")
    assert_nothing_lost(counts, serving)
    assert stored(serving) == 3


def test_after_a_stop_nobody_listens(serving: Service) -> None:
    serving.stop()
    assert "Failed to connect" in serving.curl(URL).stderr
    assert stored(serving) == 0
