"""The supervisor replaces its own code by execve: the same process, and nobody notices."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit.plane import PATIENCE_S, Dialled, Plane, plane

ONE = {"a": ["127.0.0.1:0"]}


@pytest.fixture
def it(tmp_path: Path) -> Iterator[Plane]:
    with plane(tmp_path) as made:
        yield made


def everybody(it: Plane) -> list[int]:
    generation = it.serving()
    return [it.status()["pid"], generation["pid"], generation["control"]["pid"], *it.slots()]


def renewals(it: Plane) -> int:
    return it.log.count("re-attached to generation")


def until_renewed(it: Plane, times: int = 1) -> None:
    it.eventually(lambda: renewals(it) == times)
    it.until_serving()


def test_other_code_is_executed_in_place(it: Plane) -> None:
    it.start(listeners=ONE, slots=2)
    held, port = it.dial(), it.port()
    assert held.epoch == 1
    it.reload(listeners=ONE, slots=2, digest="other code")
    pids = everybody(it)
    until_renewed(it)
    assert it.process is not None and pids[0] == it.process.pid
    assert everybody(it) == pids
    status = it.status()
    assert status["last_restart"]["ok"] and "1 -> 2" in status["last_restart"]["reason"]
    assert status["supervisor"]["note"] == f"re-attached to generation 2 (pid {pids[1]})"
    assert status["supervisor"]["code"] == status["supervisor"]["on_disk"] != ""
    assert held.echoes()
    assert it.port() == port
    assert it.dial().epoch == 2
    assert "1 -> 2" not in it.reload(listeners=ONE)["reason"]
    assert {it.dial().epoch for _ in range(20)} == {3}
    assert it.stats()["stand_in.accepted"] == 22
    assert it.stats()["server.restarts"] == 2
    it.signal(signal.SIGTERM)
    held.close()
    assert it.wait() == 0
    assert list(it.instance_dir.iterdir()) == []


def test_usr2_asks_for_it_whatever_code_there_is(it: Plane) -> None:
    it.start(listeners=ONE)
    for times in (1, 2, 3):
        it.signal(signal.SIGUSR2)
        until_renewed(it, times)
        assert it.status()["epoch"] == times + 1
    assert it.status()["uptime_s"] > 0
    assert it.stats()["server.restarts"] == 3


def test_no_command_is_refused_meanwhile(it: Plane) -> None:
    """One after the other, as fast as they are answered, and each of them is."""
    it.start(listeners=ONE)
    ended = threading.Event()
    failures: list[str] = []
    asked = [0]

    def ask() -> None:
        while not ended.is_set():
            try:
                with contextlib.closing(it.connect()) as channel:
                    channel.send("COMMAND", {"verb": "status", "arguments": {}})
                    assert select.select([channel], [], [], PATIENCE_S)[0]
                    message = channel.receive()
                    assert message is not None and message.fields["ok"]
                    asked[0] += 1
            except Exception as error:
                failures.append(repr(error))

    asker = threading.Thread(target=ask)
    asker.start()
    try:
        for times in range(1, 6):
            it.signal(signal.SIGUSR2)
            it.eventually(lambda times=times: renewals(it) == times)  # type: ignore[misc]
    finally:
        ended.set()
        asker.join()
    assert failures == [] and asked[0] > 20


def test_signals_are_not_lost_meanwhile_and_kill_nobody(it: Plane) -> None:
    it.start(listeners=ONE)
    it.signal(signal.SIGUSR2)
    hups = 0
    while renewals(it) < 1:
        it.signal(signal.SIGHUP)
        hups += 1
        assert it.process is not None and it.process.poll() is None, it.log
        select.select([], [], [], 0.002)
        if hups > 40:  # then they give it room
            it.eventually(lambda: renewals(it) == 1)
    it.wish(listeners={**ONE, "b": ["127.0.0.1:0"]})
    it.signal(signal.SIGHUP)
    it.eventually(lambda: it.status()["state"] == "LIVE" and len(it.status()["listeners"]) == 3)
    assert it.dial("b").echoes()


BROKEN = {
    "syntax error": ("this is no Python", "SyntaxError"),
    "exit": ("raise SystemExit(7)", "exit code 7"),
    "exception": ("raise RuntimeError('no luck')", "RuntimeError: no luck"),
    "killed": ("import os; os.kill(os.getpid(), 9)", "killed by signal 9"),
    "older": ("import argparse; argparse.ArgumentParser().parse_args()", "unrecognized arguments"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_code_that_can_not_begin_is_not_run(it: Plane, what: str) -> None:
    program, why = BROKEN[what]
    it.start(listeners=ONE)
    good = it.own_program.read_text()
    it.own_program.write_text(program)
    it.reload(listeners=ONE, digest="broken")
    it.eventually(lambda: "the old one goes on" in it.log)
    assert why in it.status()["supervisor"]["note"]
    assert it.dial().epoch == 2
    # The same code is not tried again, but USR2 does.
    it.reload(listeners=ONE, digest="broken")
    assert it.log.count("it is rehearsed") == 1
    it.own_program.write_text(good)
    it.signal(signal.SIGUSR2)
    until_renewed(it)
    assert it.dial().epoch == 4
    assert list(it.instance_dir.glob("rehearsal*")) == []


def test_code_that_hangs_is_not_run(it: Plane, tmp_path: Path) -> None:
    """It has bound its socket already. Nobody waits for it, and it is gone in the end."""
    it.start(listeners=ONE)
    it.own_program.write_text(
        "import signal, sys; from hotproxy.restarter.commands import CommandSocket as C\n"
        "C.close = lambda self: signal.pause()\n" + it.own_program.read_text()
    )
    it.reload(listeners=ONE, digest="hangs")
    it.eventually(lambda: (it.instance_dir / "rehearsal").exists())
    assert it.reload(listeners=ONE, digest="hangs")["last_restart"]["ok"]
    assert it.dial().epoch == 3
    it.eventually(lambda: "it was not ready within 10 s" in it.status()["supervisor"]["note"])
    assert list(it.instance_dir.glob("rehearsal*")) == []
    assert it.dial().epoch == 3


def test_signals_to_the_whole_group_are_not_for_a_rehearsal(it: Plane, tmp_path: Path) -> None:
    """It would die of them, or start a generation of its own."""
    it.start(listeners=ONE)
    it.own_program.write_text(
        "import os, pathlib, select, signal, sys\n"
        "here = pathlib.Path(sys.argv[0]).parent\n"
        "(here / 'pid').write_text(str(os.getpid()))\n"
        "while not (here / 'go').exists(): select.select([], [], [], 0.01)\n" + it.own_program.read_text()
    )
    it.reload(listeners=ONE, digest="other")
    it.eventually(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text() != "")
    for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGUSR2):
        os.kill(int((tmp_path / "pid").read_text()), number)
    (tmp_path / "go").touch()
    until_renewed(it)
    assert it.status()["epoch"] == 2
    assert it.log.count("ok in") == 2, "nobody has started anything more"


def test_a_stop_during_the_rehearsal_ends_it(it: Plane) -> None:
    it.start(listeners=ONE)
    it.own_program.write_text("import signal; signal.pause()")
    it.reload(listeners=ONE, digest="hangs")
    it.eventually(lambda: "it is rehearsed" in it.log)
    assert it.process is not None
    children = Path(f"/proc/{it.process.pid}/task/{it.process.pid}/children").read_text().split()
    it.signal(signal.SIGTERM)
    assert it.wait() == 0
    assert not any(Path(f"/proc/{pid}").exists() for pid in children)
    assert list(it.instance_dir.iterdir()) == []


def test_it_waits_for_a_restart_that_is_refused_and_does_nothing(it: Plane) -> None:
    it.start(listeners=ONE)
    it.wish(fault="bad config")
    it.signal(signal.SIGUSR2)
    it.eventually(lambda: it.status()["last_restart"].get("ok") is False)
    it.reload(listeners=ONE)
    assert "rehearsed" not in it.log
    assert it.dial().epoch == 3


def test_what_is_handed_over_makes_no_sense_to_the_new_code(it: Plane) -> None:
    """It is a start as after a crash then: the generations come back, and the lock is still held."""
    it.start(listeners=ONE, slots=2)
    held, port = it.dial(), it.port()
    assert held.epoch == 1
    it.own_program.write_text("import hotproxy.restarter.resume as r; r.VERSION = 99\n" + it.own_program.read_text())
    it.signal(signal.SIGUSR2)
    until_renewed(it)
    assert "can't be read: it is no version 99" in it.log
    assert held.echoes() and it.port() == port
    assert {it.dial().epoch for _ in range(40)} == {2}
    it.reload(listeners=ONE)
    assert {it.dial().epoch for _ in range(40)} == {3}


def test_new_code_that_dies_at_once_is_a_supervisor_that_was_killed(it: Plane) -> None:
    """Its rehearsal went well, and then it fails all the same: the next one goes on with what serves."""
    it.start(listeners=ONE, slots=2)
    held = it.dial()
    assert held.epoch == 1
    good = it.own_program.read_text()
    it.own_program.write_text("import sys\nif '--resume' in sys.argv: sys.exit(5)\n" + good)
    it.signal(signal.SIGUSR2)
    assert it.wait() == 5
    assert held.echoes()
    it.own_program.write_text(good)
    it.launch()
    it.until_serving()
    assert it.serving()["epoch"] == 2
    assert held.echoes()
    assert {it.dial().epoch for _ in range(20)} == {2}


KILLS_ALL = """
import os, pathlib, select, sys
def descendants(pid):
    for child in pathlib.Path(f'/proc/{pid}/task/{pid}/children').read_text().split():
        yield from descendants(int(child))
        yield int(child)
if '--resume' in sys.argv:
    for pid in list(descendants(os.getpid())):
        os.kill(pid, 9)
    here = pathlib.Path(sys.argv[0]).parent
    (here / 'dead').touch()
    while not (here / 'go').exists():
        select.select([], [], [], 0.01)
"""


def test_all_others_die_at_that_moment_and_no_queue_is_lost(it: Plane, tmp_path: Path) -> None:
    """Nobody but the supervisor has the listening sockets then; it hands them to its own next version."""
    it.start(listeners=ONE, slots=2)
    port = it.port()
    it.own_program.write_text(KILLS_ALL + it.own_program.read_text())
    it.signal(signal.SIGUSR2)
    it.eventually(lambda: (tmp_path / "dead").exists())
    waiting = [Dialled(socket.create_connection(("127.0.0.1", port), PATIENCE_S)) for _ in range(100)]
    (tmp_path / "go").touch()
    assert {each.epoch for each in waiting} == {3}
    it.until_serving()
    assert it.port() == port
