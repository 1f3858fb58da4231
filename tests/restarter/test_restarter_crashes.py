"""Processes killed, stopped and dying at birth: who serves meanwhile, and that nothing in a queue is lost."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit.plane import PATIENCE_S, Dialled, Plane, Refused, plane

ONE = {"a": ["127.0.0.1:0"]}


@pytest.fixture
def it(tmp_path: Path) -> Iterator[Plane]:
    with plane(tmp_path) as made:
        yield made


def stop_slots(it: Plane) -> list[int]:
    pids = it.slots()
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    return pids


def dial_many(it: Plane, count: int = 200) -> list[Dialled]:
    """Connected, but nobody has accepted them when the slots are stopped."""
    return [it.dial() for _ in range(count)]


def accepting(it: Plane, slots: int) -> bool:
    found = it.serving()["slots"]
    return len(found) == slots and all(each["state"] == "accepting" for each in found)


def test_a_killed_slot_is_forked_again_and_its_queue_is_served(it: Plane) -> None:
    it.start(listeners=ONE, slots=2)
    first = it.dial()
    assert first.epoch == 1
    pids = stop_slots(it)
    waiting = dial_many(it)
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    assert not {each.pid for each in waiting} & set(pids)
    assert first.ended()
    it.eventually(lambda: it.stats()["server.worker_crashes"] == 2)
    assert it.stats()["stand_in.accepted"] == 201
    assert it.serving()["epoch"] == 1


def test_a_killed_control_process_is_forked_again(it: Plane) -> None:
    it.start(listeners=ONE)
    control = it.serving()["control"]["pid"]
    os.kill(control, signal.SIGKILL)
    it.eventually(lambda: it.serving()["control"]["pid"] not in (0, control))
    assert it.stats()["server.worker_crashes"] == 0


def test_a_neighbour_accepts_for_a_slot_that_keeps_dying(it: Plane) -> None:
    it.start(listeners=ONE, slots=2)

    def kill_slot_1() -> bool:
        for slot in it.serving()["slots"]:
            if slot["slot"] == 1 and slot["pid"]:
                with contextlib.suppress(ProcessLookupError):  # it has died since
                    os.kill(slot["pid"], signal.SIGKILL)
        return "worker 1 (pid" in it.log and "forked again in 0.4 s" in it.log

    it.eventually(kill_slot_1)
    # Either the neighbour or the slot itself, which is back: but nobody waits for ever.
    assert {each.epoch for each in dial_many(it)} == {1}
    assert [slot["slot"] for slot in it.serving()["slots"]] == [0, 1]  # shown even while it is down
    it.eventually(lambda: accepting(it, 2))
    it.eventually(lambda: {it.dial().slot for _ in range(40)} == {0, 1})


def test_stopped_slots_do_not_hold_up_a_restart_and_lose_nothing(it: Plane) -> None:
    it.start(listeners=ONE, slots=2, stop_accepting_s=0.1)
    stop_slots(it)
    waiting = dial_many(it)
    it.reload(listeners=ONE, slots=2)
    assert {each.epoch for each in waiting} == {2}


@pytest.mark.parametrize("slots", [1, 2, 4])
def test_the_queues_of_all_slots_survive_another_number_of_slots(it: Plane, slots: int) -> None:
    it.start(listeners=ONE, slots=3, stop_accepting_s=0.1)
    stop_slots(it)
    waiting = dial_many(it)
    it.reload(listeners=ONE, slots=slots)
    assert {each.slot for each in waiting} <= set(range(slots))
    assert {each.epoch for each in waiting} == {2}
    assert {it.dial().epoch for _ in range(40)} == {2}


def test_a_slot_that_must_leave_before_it_is_ready_never_accepts(it: Plane) -> None:
    """TTIN and TTOU at once: the zygote had told a new slot to leave, and told it to accept when it was ready. It was
    offered a share of the connections, and its end was taken for a crash."""
    it.start(listeners=ONE, slots=2, fault="stop at birth 2")
    zygote = it.serving()["pid"]
    it.signal(signal.SIGTTIN)
    it.eventually(lambda: len(it.slots()) == 3)
    new = next(slot["pid"] for slot in it.serving()["slots"] if slot["slot"] == 2)
    it.eventually(lambda: stopped(new))
    os.kill(zygote, signal.SIGSTOP)
    it.eventually(lambda: stopped(zygote))
    it.signal(signal.SIGTTOU)
    it.eventually(lambda: "SIGTTOU received" in it.log)
    os.kill(new, signal.SIGCONT)
    it.eventually(lambda: sleeps(new))  # it has said READY, and waits for an answer
    os.kill(zygote, signal.SIGCONT)
    states = set()

    def gone() -> bool:
        slots = it.serving()["slots"]
        states.update(slot["state"] for slot in slots if slot["pid"] == new)
        return len(slots) == 2

    it.eventually(gone)
    assert states <= {"starting", "leaving", "draining"}
    assert it.stats()["server.worker_crashes"] == 0
    assert {it.dial().slot for _ in range(40)} == {0, 1}


def stopped(pid: int) -> bool:
    return state_of(pid) == "T"


def sleeps(pid: int) -> bool:
    return state_of(pid) == "S"


def state_of(pid: int) -> str:
    """proc(5)"""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_one_slot_more_and_one_less(it: Plane) -> None:
    it.start(listeners=ONE, slots=2)
    held = [it.dial() for _ in range(20)]
    it.signal(signal.SIGTTIN)
    it.eventually(lambda: accepting(it, 3))
    it.eventually(lambda: {it.dial().slot for _ in range(40)} == {0, 1, 2})
    stop_slots(it)
    waiting = dial_many(it)
    it.signal(signal.SIGTTOU)
    it.eventually(lambda: "2 slots instead of 3" in it.log)  # two signals at once would be one
    it.signal(signal.SIGTTOU)
    it.eventually(lambda: "1 slots instead of 2" in it.log)
    for pid in it.slots():
        os.kill(pid, signal.SIGCONT)
    assert {each.epoch for each in waiting} == {1}
    assert all(each.echoes() for each in held)
    for each in (*held, *waiting):
        each.close()
    it.eventually(lambda: len(it.slots()) == 1)
    assert {it.dial().slot for _ in range(40)} == {0}
    it.signal(signal.SIGTTIN)
    it.eventually(lambda: accepting(it, 2))
    it.eventually(lambda: {it.dial().slot for _ in range(40)} == {0, 1})
    assert it.stats()["server.worker_crashes"] == 0


def test_a_dead_zygote_is_replaced_while_its_slots_serve_on(it: Plane) -> None:
    it.start(listeners=ONE, slots=2)
    held = it.dial()
    assert held.epoch == 1
    it.wish(listeners=ONE, slots=2, fault="bad config")  # so that the replacement fails, and is tried again
    os.kill(it.serving()["pid"], signal.SIGKILL)
    it.eventually(lambda: it.serving()["state"] == "orphaned" and it.status()["last_restart"].get("ok") is False)
    assert {it.dial().epoch for _ in range(40)} == {1}
    it.wish(listeners=ONE, slots=2)
    it.eventually(lambda: it.status()["epoch"] > 1)
    assert it.dial().epoch > 1
    assert held.echoes()
    held.close()
    it.eventually(lambda: len(it.status()["generations"]) == 1)
    # A fold has happened for each of them.
    assert it.stats()["stand_in.accepted"] == 42


def test_an_orphaned_slot_that_dies_leaves_its_queue_to_another(it: Plane) -> None:
    it.start(listeners=ONE, slots=2)
    it.wish(listeners=ONE, fault="bad config")
    os.kill(it.serving()["pid"], signal.SIGKILL)
    it.eventually(lambda: it.serving()["state"] == "orphaned")
    pid = next(slot["pid"] for slot in it.serving()["slots"] if slot["slot"] == 1)
    os.kill(pid, signal.SIGSTOP)
    waiting = dial_many(it)
    os.kill(pid, signal.SIGKILL)
    assert {each.slot for each in waiting} == {0}


def test_everybody_but_the_supervisor_is_killed(it: Plane) -> None:
    it.start(listeners=ONE, slots=2)
    generation, port = it.serving(), it.port()
    os.kill(generation["pid"], signal.SIGSTOP)
    for pid in (*it.slots(), generation["control"]["pid"], generation["pid"]):
        os.kill(pid, signal.SIGKILL)
    waiting = [Dialled(socket.create_connection(("127.0.0.1", port))) for _ in range(200)]
    assert {each.epoch for each in waiting} == {2}


def test_a_unix_socket_of_somebody_else_is_refused(it: Plane, tmp_path: Path) -> None:
    it.start(listeners=ONE)
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(tmp_path / "s"))
        other.listen()
        with pytest.raises(Refused, match=rf"address in use by .* \(pid {os.getpid()}\)"):
            it.reload(listeners={"u": [f"unix:{tmp_path / 's'}"]})
    it.reload(listeners={"u": [f"unix:{tmp_path / 's'}"]})  # a file that nobody listens on any more


def test_a_slot_without_a_heartbeat_is_killed(tmp_path: Path) -> None:
    with plane(tmp_path, late_ticks=2) as it:
        it.start(listeners=ONE, slots=1)
        (pid,) = stop_slots(it)
        waiting = dial_many(it, 20)
        assert {each.pid == pid for each in waiting} == {False}
        assert "has no heartbeat: killed" in it.log


def test_new_sockets_that_a_failed_generation_listened_on_go_to_the_old_one(it: Plane) -> None:
    """Five slots where there were two: three more sockets on the same port, and one of their slots dies over it."""
    it.start(listeners=ONE, slots=2)
    with pytest.raises(Refused, match="worker 4 died"):
        it.reload(listeners=ONE, slots=5, fault="die after listen 4")
    assert {each.epoch for each in dial_many(it)} <= {1, 2}
    assert {each.epoch for each in dial_many(it)} == {1}
    it.reload(listeners=ONE, slots=2)
    assert {each.epoch for each in dial_many(it)} == {3}


def test_signals_to_the_whole_group_move_nobody_but_the_supervisor(it: Plane) -> None:
    it.start(listeners=ONE, slots=2)
    generation = it.serving()
    pids = [generation["pid"], generation["control"]["pid"], *it.slots()]
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        for pid in pids:
            os.kill(pid, number)
    it.signal(signal.SIGWINCH)
    it.signal(signal.SIGUSR1)
    assert it.dial().echoes()
    assert [generation["pid"], generation["control"]["pid"], *it.slots()] == pids
    it.signal(signal.SIGUSR2)
    it.eventually(lambda: it.status()["epoch"] == 2)
    it.eventually(lambda: "re-attached to generation 2" in it.log)


def test_orphans_drain_by_themselves_when_no_supervisor_comes(it: Plane) -> None:
    it.start(listeners=ONE, orphan_s=0.2, drain_s=0.2)
    held, generation = it.dial(), it.serving()
    assert held.echoes()
    pids = [generation["pid"], generation["control"]["pid"], *it.slots()]
    pidfds = [os.pidfd_open(pid) for pid in pids]
    assert it.process is not None
    it.process.kill()
    assert held.ended()
    for pidfd in pidfds:
        assert select.select([pidfd], [], [], PATIENCE_S)[0]
        os.close(pidfd)


def test_a_stop_during_the_start_is_no_failure(it: Plane) -> None:
    it.wish(fault="hang before HELLO")
    it.launch()
    it.eventually(lambda: (it.instance_dir / "supervisor.sock").exists() and len(it.status()["generations"]) == 1)
    it.signal(signal.SIGTERM)
    assert it.wait() == 0


def test_systemd_hears_of_every_step(it: Plane, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "n"))
        systemd.settimeout(PATIENCE_S)
        it.environment |= {"NOTIFY_SOCKET": str(tmp_path / "n"), "WATCHDOG_USEC": "200000"}
        heard: list[str] = []

        def hear(what: str) -> str:
            while True:
                text = systemd.recv(4096).decode()
                heard.append(text)
                if what in text:
                    return text

        it.start(listeners=ONE)
        assert hear("READY=1") and not [text for text in heard[:-1] if "WATCHDOG" not in text]
        it.reload(listeners=ONE)
        assert "MONOTONIC_USEC=" in hear("RELOADING=1")
        assert "generation 1 -> 2 ok" in hear("READY=1")
        with pytest.raises(Refused):
            it.reload(fault="bad config")
        hear("RELOADING=1")
        assert "STATUS=reload refused: stand-in.json:1:1: it is bad" in hear("READY=1")
        hear("WATCHDOG=1")
        it.signal(signal.SIGTERM)
        hear("STOPPING=1")
        assert it.wait() == 0
