"""`kill -9` of the supervisor: the next one goes on with the same processes, sockets and connections."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hotproxy.restarter.frames import Channel
from hotproxy.shm.liveness import start_time
from tests.kit.plane import PATIENCE_S, Dialled, Plane, plane, receive

ONE = {"a": ["127.0.0.1:0"]}


@pytest.fixture
def it(tmp_path: Path) -> Iterator[Plane]:
    with plane(tmp_path) as made:
        yield made


def kill_supervisor(it: Plane) -> None:
    assert it.process is not None
    it.status()  # so that what it leaves is remembered
    it.process.kill()
    it.process.wait()


def again(it: Plane) -> None:
    it.launch()
    it.until_serving()


def everybody(it: Plane) -> list[int]:
    generation = it.serving()
    return [generation["pid"], generation["control"]["pid"], *it.slots()]


def listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), PATIENCE_S).close()
    except ConnectionRefusedError:
        return False
    return True


def until_dead(pid: int, number: int = 0) -> None:
    """Sends it a signal, if one is given, and waits for its end."""
    pidfd = os.pidfd_open(pid)
    if number:
        os.kill(pid, number)
    assert select.select([pidfd], [], [], PATIENCE_S)[0]
    os.close(pidfd)


def test_another_supervisor_goes_on_with_the_same_processes(it: Plane) -> None:
    it.start(listeners=ONE, slots=2)
    held, pids, port = it.dial(), everybody(it), it.port()
    assert held.epoch == 1
    kill_supervisor(it)
    assert held.echoes()
    waiting = Dialled(socket.create_connection(("127.0.0.1", port), PATIENCE_S))
    again(it)
    assert everybody(it) == pids
    assert it.port() == port and it.status()["epoch"] == 1
    assert held.echoes() and waiting.echoes()
    assert it.stats()["stand_in.accepted"] == 2
    assert f"re-attached to generation 1 (pid {pids[0]})" in it.log
    # And it is a generation like any other.
    assert "1 -> 2" in it.reload(listeners=ONE, slots=2)["reason"]
    assert it.port() == port
    assert {it.dial().epoch for _ in range(20)} == {2}
    assert held.echoes()
    for each in (held, waiting):
        each.close()
    it.eventually(lambda: len(it.status()["generations"]) == 1)
    assert it.stats()["stand_in.accepted"] == 22
    assert it.stats()["server.worker_crashes"] == 0
    it.signal(signal.SIGTERM)
    assert it.wait() == 0
    assert list(it.instance_dir.iterdir()) == []


def test_two_kills_in_a_row(it: Plane) -> None:
    it.start(listeners=ONE, slots=2)
    held, pids = it.dial(), everybody(it)
    assert held.epoch == 1
    for _ in range(2):
        kill_supervisor(it)
        again(it)
        assert everybody(it) == pids
        assert held.echoes()


def test_who_died_meanwhile_is_forked_again_and_counted(it: Plane) -> None:
    it.start(listeners=ONE, slots=2)
    port, victims = it.port(), it.slots()
    first = it.dial()
    assert first.epoch == 1
    kill_supervisor(it)
    for pid in victims:
        until_dead(pid, signal.SIGKILL)
    waiting = [Dialled(socket.create_connection(("127.0.0.1", port), PATIENCE_S)) for _ in range(20)]
    again(it)
    assert {each.epoch for each in waiting} == {1}
    assert not {each.pid for each in waiting} & set(victims)
    assert it.stats()["server.worker_crashes"] == 2
    assert it.stats()["stand_in.accepted"] == 21
    assert it.serving()["epoch"] == 1


def test_a_neighbour_accepts_meanwhile(it: Plane) -> None:
    it.start(listeners=ONE, slots=2)
    port, (victim, other) = it.port(), it.slots()
    kill_supervisor(it)
    until_dead(victim, signal.SIGKILL)
    assert {Dialled(socket.create_connection(("127.0.0.1", port))).pid for _ in range(40)} == {other}
    again(it)
    it.eventually(lambda: {it.dial().slot for _ in range(40)} == {0, 1})


def test_generations_that_drain_are_known_again(it: Plane) -> None:
    it.start(listeners=ONE, drain_s=60)
    old = it.dial()
    assert old.epoch == 1
    it.reload(listeners=ONE, drain_s=60)
    kill_supervisor(it)
    again(it)
    assert [(each["epoch"], each["state"]) for each in it.status()["generations"]] == [(1, "draining"), (2, "active")]
    assert old.echoes()
    old.close()
    it.eventually(lambda: len(it.status()["generations"]) == 1)
    assert it.dial().epoch == 2


def test_a_drain_deadline_outlives_the_supervisor(it: Plane) -> None:
    it.start(listeners=ONE, drain_s=1)
    old = it.dial()
    assert old.epoch == 1
    it.reload(listeners=ONE)
    kill_supervisor(it)
    again(it)
    assert old.ended()
    it.eventually(lambda: len(it.status()["generations"]) == 1)


def test_a_soft_drain_outlives_the_supervisor(it: Plane) -> None:
    it.start(listeners=ONE)
    it.ask("drain")
    kill_supervisor(it)
    it.launch()
    it.eventually(lambda: "re-attached" in it.log)
    assert it.status()["state"] == "DRAINING"
    it.ask("drain", undo=True)
    assert it.status()["state"] == "LIVE"


@pytest.mark.parametrize("stopped", ["old", "new", "neither"])
def test_a_kill_in_the_middle_of_a_restart(it: Plane, stopped: str) -> None:
    """Both generations accept, or one of them does not come back in time: whoever does is gone on with."""
    it.start(listeners=ONE, slots=2, stop_accepting_s=60)
    port, first = it.port(), it.serving()
    held = it.dial()
    assert held.epoch == 1
    for pid in it.slots():
        os.kill(pid, signal.SIGSTOP)  # so that the old generation can't yield
    it.wish(listeners=ONE, slots=2)
    it.signal(signal.SIGHUP)
    it.eventually(lambda: it.status()["epoch"] == 2)
    second = it.serving()
    if stopped != "neither":
        os.kill((first if stopped == "old" else second)["pid"], signal.SIGSTOP)
    kill_supervisor(it)
    for slot in first["slots"]:
        os.kill(slot["pid"], signal.SIGCONT)
    again(it)
    assert {Dialled(socket.create_connection(("127.0.0.1", port), PATIENCE_S)).epoch for _ in range(20)} <= {1, 2, 3}
    os.kill(first["pid"], signal.SIGCONT)
    os.kill(second["pid"], signal.SIGCONT)
    assert held.echoes()
    held.close()
    it.eventually(lambda: len(it.status()["generations"]) == 1)
    assert it.status()["epoch"] == (3 if stopped == "new" else 2)
    assert {it.dial().epoch for _ in range(40)} == {it.status()["epoch"]}
    assert it.port() == port


def test_a_zygote_that_does_not_come_back_in_time_retires_when_it_does(it: Plane) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        listeners = {"a": [f"127.0.0.1:{probe.getsockname()[1]}"]}
    it.start(listeners=listeners, slots=3)
    held, pid = it.dial(), it.serving()["pid"]
    assert held.epoch == 1
    os.kill(pid, signal.SIGSTOP)
    kill_supervisor(it)
    it.wish(listeners=listeners, slots=2)
    again(it)
    assert it.status()["epoch"] == 2
    # Two generations with sockets of their own on one port, and each serves what comes to it.
    assert {it.dial().epoch for _ in range(60)} == {1, 2}
    os.kill(pid, signal.SIGCONT)
    it.eventually(lambda: any(each["state"] == "draining" for each in it.status()["generations"]))
    assert {it.dial().epoch for _ in range(60)} == {2}
    assert held.echoes()
    held.close()
    it.eventually(lambda: len(it.status()["generations"]) == 1)
    assert it.stats()["stand_in.accepted"] == 122  # and who asked whose the control process's unix socket is
    assert it.stats()["server.worker_crashes"] == 0


def test_one_that_comes_late_may_have_lost_a_process_meanwhile(it: Plane) -> None:
    it.start(listeners=ONE, slots=2)
    held, generation = it.dial(), it.serving()
    assert held.epoch == 1
    os.kill(generation["pid"], signal.SIGSTOP)
    kill_supervisor(it)
    again(it)
    assert it.status()["epoch"] == 2
    victim = next(slot["pid"] for slot in generation["slots"] if slot["pid"] != held.pid)
    os.kill(victim, signal.SIGKILL)
    os.kill(generation["control"]["pid"], signal.SIGKILL)
    it.eventually(lambda: start_time(victim) is None)
    os.kill(generation["pid"], signal.SIGCONT)
    it.eventually(lambda: any(each["state"] == "draining" for each in it.status()["generations"]))
    assert held.echoes()
    held.close()
    it.eventually(lambda: len(it.status()["generations"]) == 1)
    assert "refused" not in it.log


def test_a_zygote_that_died_meanwhile_leaves_strangers_that_drain(it: Plane) -> None:
    it.start(listeners=ONE, slots=2, drain_s=0.2)
    held, slots = it.dial(), it.slots()
    assert held.epoch == 1
    kill_supervisor(it)
    zygote = int(Path(f"/proc/{slots[0]}/stat").read_text().rpartition(")")[2].split()[1])
    until_dead(zygote, signal.SIGKILL)
    again(it)
    assert it.status()["epoch"] == 2
    assert held.echoes()
    pidfds = [os.pidfd_open(pid) for pid in slots]
    it.signal(signal.SIGTERM)
    assert it.wait() == 0
    for pidfd in pidfds:
        assert select.select([pidfd], [], [], PATIENCE_S)[0]
        os.close(pidfd)


def test_an_adopted_zygote_that_dies_is_replaced(it: Plane) -> None:
    it.start(listeners=ONE, slots=2)
    held, port = it.dial(), it.port()
    assert held.epoch == 1
    slots = it.slots()
    kill_supervisor(it)
    again(it)
    os.kill(it.serving()["pid"], signal.SIGKILL)
    it.eventually(lambda: it.status()["epoch"] == 2)
    assert it.port() == port
    assert {it.dial().epoch for _ in range(40)} == {2}
    assert held.echoes()
    held.close()
    it.eventually(lambda: len(it.status()["generations"]) == 1)
    assert [pid for pid in slots if start_time(pid) is not None] == []
    assert it.stats()["stand_in.accepted"] == 41


def test_an_orphan_of_an_adopted_zygote_that_is_killed_is_a_crash(it: Plane) -> None:
    it.start(listeners=ONE, slots=2)
    kill_supervisor(it)
    again(it)
    it.wish(listeners=ONE, fault="bad config")
    os.kill(it.serving()["pid"], signal.SIGKILL)
    it.eventually(lambda: it.serving()["state"] == "orphaned")
    os.kill(it.slots()[0], signal.SIGKILL)
    it.eventually(lambda: it.stats()["server.worker_crashes"] == 1)
    assert "crashed: it is gone, and how is not known" in it.log
    assert {it.dial().epoch for _ in range(40)} == {1}


def test_a_unix_socket_is_the_same_and_its_file_goes_at_the_end(it: Plane, tmp_path: Path) -> None:
    path = tmp_path / "s"
    it.start(listeners={"u": [f"unix:{path}"]})
    inode = path.stat().st_ino
    kill_supervisor(it)
    again(it)
    assert path.stat().st_ino == inode
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(path))
        assert sock.recv(100).startswith(b"1 ")
    it.signal(signal.SIGTERM)
    assert it.wait() == 0
    assert not path.exists()


def test_a_unix_socket_of_strangers_is_taken_over(it: Plane, tmp_path: Path) -> None:
    listeners = {"u": [f"unix:{tmp_path / 's'}"]}
    it.start(listeners=listeners)
    pid = it.serving()["pid"]
    os.kill(pid, signal.SIGSTOP)
    kill_supervisor(it)
    again(it)
    assert it.status()["epoch"] == 2
    assert sorted(os.listdir(tmp_path)) == ["log", "next.py", "run", "s", "stand-in.json"]
    os.kill(pid, signal.SIGCONT)
    it.eventually(lambda: len(it.status()["generations"]) == 1)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(tmp_path / "s"))
        assert sock.recv(100).startswith(b"2 ")


def test_more_slots_than_the_config_says_stay(it: Plane) -> None:
    it.start(listeners=ONE, slots=1)
    it.signal(signal.SIGTTIN)
    it.eventually(lambda: len(it.slots()) == 2)
    pids = it.slots()
    kill_supervisor(it)
    again(it)
    assert it.slots() == pids
    it.signal(signal.SIGTTIN)
    it.eventually(lambda: {it.dial().slot for _ in range(60)} == {0, 1, 2})


def test_a_stop_while_they_come_back_ends_them_all(it: Plane) -> None:
    it.start(listeners=ONE, drain_s=0.2)
    pids = everybody(it)
    pidfds = [os.pidfd_open(pid) for pid in pids]
    os.kill(pids[0], signal.SIGSTOP)
    kill_supervisor(it)
    it.launch()
    it.eventually(lambda: "waiting for generation 1" in it.log)
    it.signal(signal.SIGTERM)
    os.kill(pids[0], signal.SIGCONT)
    assert it.wait() == 0
    for pidfd in pidfds:
        assert select.select([pidfd], [], [], PATIENCE_S)[0]
        os.close(pidfd)
    assert "killed" not in it.log


def test_a_reload_while_they_come_back_waits(it: Plane) -> None:
    it.start(listeners=ONE)
    pid = it.serving()["pid"]
    os.kill(pid, signal.SIGSTOP)
    kill_supervisor(it)
    it.launch()
    it.eventually(lambda: "waiting for generation 1" in it.log)
    with contextlib.closing(it.connect()) as channel:
        channel.send("COMMAND", {"verb": "reload", "arguments": {}})
        assert it.status()["state"] == "INITIALIZING"
        os.kill(pid, signal.SIGCONT)
        assert "1 -> 2 ok" in receive(channel).fields["reason"]


ATTACH: dict[str, Any] = {
    "state": "serving", "slots": 1, "soft_drain": False, "deadline_s": 0.0, "moved": 0, "refused": 0, "hello": {},
}  # fmt: skip


def test_who_is_no_zygote_is_not_taken_over(it: Plane) -> None:
    it.start(listeners=ONE)
    channel: Channel = it.connect()
    channel.send("ATTACH", ATTACH)
    answer = receive(channel).fields
    assert not answer["ok"] and f"pid {os.getpid()} is no zygote of this instance" in answer["why"]
    channel.close()
    assert it.dial().epoch == 1


def test_orphans_drain_by_themselves_when_no_supervisor_comes(it: Plane) -> None:
    it.start(listeners=ONE, orphan_s=0.2, drain_s=0.2)
    held, pids = it.dial(), everybody(it)
    assert held.echoes()
    pidfds = [os.pidfd_open(pid) for pid in pids]
    kill_supervisor(it)
    assert held.ended()
    for pidfd in pidfds:
        assert select.select([pidfd], [], [], PATIENCE_S)[0]
        os.close(pidfd)


def test_one_that_drains_already_is_known_again_too(it: Plane) -> None:
    """No supervisor came in time; then one does, while connections are still open. Another generation serves."""
    it.start(listeners=ONE, orphan_s=0.1, drain_s=60)
    held, pid, port = it.dial(), it.serving()["pid"], it.port()
    assert held.echoes()
    kill_supervisor(it)
    it.eventually(lambda: not listens(port))
    again(it)
    assert it.status()["epoch"] == 2
    assert held.echoes()
    assert [each["pid"] for each in it.status()["generations"] if each["state"] == "draining"] == [pid]
    held.close()
    it.eventually(lambda: len(it.status()["generations"]) == 1)
