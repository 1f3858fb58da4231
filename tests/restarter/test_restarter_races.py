"""Deaths at bad moments: between two messages, two at once, or of somebody whom others wait for."""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from hotproxy.restarter.frames import Channel
from hotproxy.restarter.generation import State
from hotproxy.restarter.live import LiveGeneration
from hotproxy.restarter.spawn import Spawned
from hotproxy.restarter.supervisor import Options, Supervisor
from tests.kit.plane import PATIENCE_S, Dialled, Plane, Refused, plane

ONE = {"a": ["127.0.0.1:0"]}


@pytest.fixture
def it(tmp_path: Path) -> Iterator[Plane]:
    with plane(tmp_path) as made:
        yield made


def stop(pid: int) -> None:
    os.kill(pid, signal.SIGSTOP)


def kill(pid: int) -> None:
    """Returns when it is dead (a zombie is)."""
    pidfd = os.pidfd_open(pid)
    os.kill(pid, signal.SIGKILL)
    assert select.select([pidfd], [], [], PATIENCE_S)[0]
    os.close(pidfd)


def slot_pid(it: Plane, slot: int) -> int:
    return next(each["pid"] for each in it.serving()["slots"] if each["slot"] == slot and each["state"] != "draining")


def dial_many(port: int, count: int = 60) -> list[Dialled]:
    return [Dialled(socket.create_connection(("127.0.0.1", port), PATIENCE_S)) for _ in range(count)]


def until_bad_config_is_tried(it: Plane) -> None:
    """The generation is orphaned and stays so: what would replace it is refused."""
    it.eventually(lambda: it.serving()["state"] == "orphaned" and it.status()["last_restart"].get("ok") is False)


def test_no_limit_for_the_drain_is_no_limit_for_the_zygote_too(it: Plane) -> None:
    """Its alarm was 30 years away, which poll(2) refuses: every zygote died as soon as it drained."""
    it.start(listeners=ONE, drain_s=0)
    old, pid = it.dial(), it.serving()["pid"]
    assert old.epoch == 1
    it.reload(listeners=ONE, drain_s=0)
    it.eventually(lambda: it.status()["generations"][0]["slots"][0]["state"] == "draining")
    it.signal(signal.SIGUSR1)  # something to wake it once more
    old.close()
    it.eventually(lambda: len(it.status()["generations"]) == 1)
    assert not Path(f"/proc/{pid}").exists()
    assert "Traceback" not in it.log


def test_a_zygote_whose_end_is_noticed_before_its_last_words(tmp_path: Path) -> None:
    """FAILED is read after it was reaped: there is nobody left to kill, and its number may be another process's."""
    instance_dir = tmp_path / "run" / "t"
    instance_dir.mkdir(parents=True)
    supervisor = Supervisor(Options("unused", "t", instance_dir), ["unused"])
    reading, writing = os.pipe()
    ours, theirs = Channel.pair()
    pid = os.fork()
    if pid == 0:
        os._exit(1)
    theirs.send("FAILED", {"why": "it can't be"})
    theirs.close()
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    live = LiveGeneration.adopt(1, Spawned(pid, ours, reading), supervisor.loop, supervisor.conversation.ears)
    supervisor._generations.append(live)
    supervisor._served = True
    supervisor.restarts.close()
    os.close(writing)
    supervisor.reap()
    assert live.state is State.GONE
    assert live.why == "it can't be"


def test_a_child_that_nobody_has_heard_of_ends(it: Plane) -> None:
    """Its zygote was killed between the fork and the message about it: it served nobody, for 60 s, with our sockets."""
    it.start(listeners=ONE)
    with pytest.raises(Refused, match="its zygote died: killed by signal 9"):
        it.reload(listeners=ONE, fault="struck after fork")
    found = re.search(r"unheard of: (\d+)", it.log)
    assert found is not None
    it.eventually(lambda: not Path(f"/proc/{found[1]}").exists())
    assert it.dial().echoes()


def test_a_slot_and_its_zygote_die_together(it: Plane) -> None:
    """Nobody forks the slot again while the config on disk is bad: the other slot accepts on its socket."""
    it.start(listeners=ONE, slots=2)
    port, zygote, slot = it.port(), it.serving()["pid"], slot_pid(it, 1)
    it.wish(fault="bad config")
    stop(zygote)
    kill(slot)
    waiting = dial_many(port)
    kill(zygote)
    until_bad_config_is_tried(it)
    assert {each.slot for each in (*waiting, *dial_many(port))} == {0}


def test_a_slot_that_leaves_inherits_nothing(it: Plane) -> None:
    """It was the oldest one left, and was given the socket of a dead one, on which it did not accept."""
    it.start(listeners=ONE, slots=3)
    port = it.port()
    for slot in (0, 1):
        before = slot_pid(it, slot)
        kill(before)
        it.eventually(lambda slot=slot, before=before: any(
            each["slot"] == slot and each["state"] == "accepting" and each["pid"] != before
            for each in it.serving()["slots"]
        ))  # fmt: skip
    held = next(made for made in iter(it.dial, None) if made.slot == 2)
    it.signal(signal.SIGTTOU)
    it.eventually(lambda: [each["state"] for each in it.serving()["slots"]].count("draining") == 1)
    it.wish(fault="bad config")
    kill(it.serving()["pid"])
    until_bad_config_is_tried(it)
    kill(slot_pid(it, 1))
    it.eventually(lambda: len(it.slots()) == 2)
    assert {each.slot for each in dial_many(port)} == {0}
    assert held.echoes()


@pytest.mark.parametrize("zygote_dies", [True, False])
def test_an_old_zygote_that_passes_nothing_on(tmp_path: Path, zygote_dies: bool) -> None:
    """Stopped, and perhaps killed, with "stop accepting" and "drain" unread: its slots must be told all the same."""
    with plane(tmp_path, late_ticks=2) as it:
        it.start(listeners=ONE, drain_s=0, stop_accepting_s=0.05, shut_s=0.05)
        old, port, zygote = it.dial(), it.port(), it.serving()["pid"]
        assert old.epoch == 1
        stop(zygote)
        it.reload(listeners=ONE)
        it.eventually(lambda: it.status()["generations"][0]["state"] == "draining")
        if zygote_dies:
            kill(zygote)
        it.eventually(lambda: {each.epoch for each in dial_many(port)} == {2})
        assert old.echoes()
        old.close()
        it.eventually(lambda: len(it.status()["generations"]) == 1)
        assert it.stats()["server.worker_crashes"] == 0  # nobody crashed: they left when they were told


def test_a_zygote_that_hangs_while_a_slot_is_dead(tmp_path: Path) -> None:
    with plane(tmp_path, late_ticks=2) as it:
        it.start(listeners=ONE, slots=2)
        port, zygote, slot = it.port(), it.serving()["pid"], slot_pid(it, 1)
        stop(zygote)
        kill(slot)
        waiting = dial_many(port)
        assert {each.epoch for each in waiting} <= {1, 2}
        it.eventually(lambda: it.status()["epoch"] == 2)
        assert "hangs: killed" in it.log


def test_a_slot_that_dies_with_the_supervisor_leaves_its_queue_to_a_neighbour(it: Plane) -> None:
    """The zygote had asked for shared memory for it, and waited for an answer that nobody could give any more."""
    it.start(listeners=ONE, slots=2)
    port, slot = it.port(), slot_pid(it, 1)
    assert it.process is not None
    stop(it.process.pid)
    os.kill(slot, signal.SIGKILL)
    it.eventually(lambda: "worker 1 (pid" in it.log)
    waiting = dial_many(port)
    it.process.kill()
    assert {each.slot for each in (*waiting, *dial_many(port))} == {0}


def test_a_generation_that_begins_to_accept_outlives_the_supervisor(it: Plane) -> None:
    """Its slots had connections already, and were killed with them."""
    it.start(listeners=ONE, slots=2)
    port = it.port()
    it.wish(listeners=ONE, slots=2, fault="hang on accept 1", accept_s=60)
    channel = it.connect()
    channel.send("COMMAND", {"verb": "reload", "arguments": {}})
    held: list[Dialled] = []

    def accepted() -> bool:
        held.extend(dial_many(port, 4))
        return held[-1].epoch == 2

    it.eventually(accepted)
    assert it.process is not None
    it.process.kill()
    it.eventually(lambda: it.log.count("the supervisor is gone; looking for another one") == 2)
    assert all(each.echoes() for each in held)
    assert {each.epoch for each in dial_many(port)} <= {1, 2}
    channel.close()


def test_numbers_that_no_process_has(it: Plane) -> None:
    """A pid or a wait status out of range raised in the supervisor, which ended over it."""
    it.start(listeners=ONE)
    for fault in ("impossible pid", "impossible status"):
        it.wish(listeners=ONE, fault=fault)
        with contextlib.suppress(Refused):
            it.ask("reload")
        assert it.dial().echoes()
    assert "is no pid" in it.log
    assert it.process is not None and it.process.poll() is None
