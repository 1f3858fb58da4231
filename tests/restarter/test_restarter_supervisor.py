"""A real supervisor with stand-in generations: starting, restarting, refusing, stopping."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from hotproxy.restarter.commands import MAX_CALLERS
from hotproxy.restarter.frames import ChannelClosed
from hotproxy.shm import reader
from tests.kit.plane import PATIENCE_S, Plane, Refused, plane, receive

ONE = {"a": ["127.0.0.1:0"]}


@pytest.fixture
def it(tmp_path: Path) -> Iterator[Plane]:
    with plane(tmp_path) as made:
        yield made


def test_it_serves_and_stops_with_nothing_left(it: Plane) -> None:
    it.start(listeners=ONE)
    assert it.dial().epoch == 1
    it.signal(signal.SIGTERM)
    assert it.wait() == 0
    assert list(it.instance_dir.iterdir()) == []


def test_a_reload_keeps_the_port_and_counts(it: Plane) -> None:
    it.start(listeners=ONE)
    port = it.port()
    it.dial().greeting  # noqa: B018
    answer = it.reload(listeners=ONE)
    assert answer["last_restart"]["ok"] and "1 -> 2" in answer["reason"]
    assert it.port() == port
    assert it.dial().epoch == 2
    it.eventually(lambda: len(it.status()["generations"]) == 1)
    assert it.stats()["server.restarts"] == 1
    assert it.stats()["stand_in.accepted"] == 2


def test_status_says_how_the_last_restart_went(it: Plane) -> None:
    it.start(listeners=ONE)
    assert it.status()["last_restart"] == {}, "a start is no restart"
    answer = it.reload(listeners=ONE)
    last = it.status()["last_restart"]
    assert last == answer["last_restart"] and last["reason"] == answer["reason"]
    assert list(last) == ["ok", "reason", "moved", "refused", "move_ms", "ms"]
    assert (last["ok"], last["moved"], last["refused"]) == (True, 0, 0)
    assert last["reason"] == f"generation 1 -> 2 ok in {last['ms']} ms" and 0 <= last["move_ms"] <= last["ms"]
    with pytest.raises(Refused) as refused:
        it.reload(listeners=ONE, fault="bad config")
    last = it.status()["last_restart"]
    assert (last["ok"], last["reason"], last["moved"]) == (False, str(refused.value), 0)
    assert {name: value for name, value in it.stats().items() if name.startswith("server.restarts")} == {
        "server.restarts": 1, "server.restarts_failed": 1,
    }  # fmt: skip


def test_an_open_connection_outlives_its_generation_until_the_deadline(it: Plane) -> None:
    it.start(listeners=ONE)
    old = it.dial()
    assert old.epoch == 1
    it.reload(listeners=ONE)
    assert old.echoes()
    assert [each["state"] for each in it.status()["generations"]] == ["draining", "active"]
    old.close()
    it.eventually(lambda: len(it.status()["generations"]) == 1)


def test_the_drain_deadline_ends_the_rest(it: Plane) -> None:
    it.start(listeners=ONE, drain_s=0.2)
    old = it.dial()
    assert old.epoch == 1
    it.reload(listeners=ONE)
    assert old.ended()
    it.eventually(lambda: len(it.status()["generations"]) == 1)


REFUSALS = {
    "import error": "ModuleNotFoundError: No module named 'nowhere'",
    "no interpreter": "died before it was ready: exit code 1: the interpreter says why",
    "exit before HELLO": "exit code 7",
    "killed before HELLO": "killed by signal 9",
    "bad config": "it is bad\n  two lines of it",
    "garbage": "breaks the protocol",
    "cut short": "breaks the protocol: the frame says 153 bytes and has 3",
    "READY first": "READY out of turn",
    "other epoch": "it says it is generation 99",
    "mad HELLO": "WantedListener.name is int",
    "die at birth 1": "worker 1 died before it served: exit code 3",
    "hang at birth 0": "its slots were not ready within 0.3 s",
    "die on accept 1": "worker 1 died before it served: exit code 4",
    "die after listen 0": "worker 0 died before it served: exit code 5",
    "hang on accept 1": "its slots did not accept within 0.3 s",
}


@pytest.fixture(scope="module")
def steady(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plane]:
    """One that survives all of these in turn."""
    with plane(tmp_path_factory.mktemp("steady")) as made:
        made.start(listeners=ONE, slots=2)
        yield made


@pytest.mark.parametrize("fault", REFUSALS)
def test_a_generation_that_fails_changes_nothing(steady: Plane, fault: str) -> None:
    it, before, refused_before = steady, steady.slots(), steady.stats()["server.restarts_failed"]
    with pytest.raises(Refused) as refused:
        it.reload(listeners={**ONE, "b": ["127.0.0.1:0"]}, slots=3, fault=fault, ready_s=0.3, accept_s=0.3)
    assert REFUSALS[fault] in str(refused.value)
    assert it.status()["last_restart"]["ok"] is False
    it.eventually(lambda: len(it.status()["generations"]) == 1)
    assert it.slots() == before
    # Every socket of the port is somebody's who accepts: none is a black hole.
    assert {it.dial().epoch for _ in range(40)} == {1}
    assert it.stats()["server.restarts_failed"] == refused_before + 1


def test_after_all_that_a_good_one_serves(steady: Plane) -> None:
    assert steady.reload(listeners=ONE)["last_restart"]["ok"]
    assert steady.dial().epoch > 1


def test_signals_to_the_whole_group_do_not_end_a_zygote_that_begins(it: Plane) -> None:
    """A HUP to every process killed the zygote that the supervisor had just started for it: the reload was refused."""
    it.start(listeners=ONE)
    it.wish(listeners=ONE, fault="hang before HELLO")
    channel = it.connect()
    channel.send("COMMAND", {"verb": "reload", "arguments": {"timeout_s": 0.5}})
    it.eventually(lambda: len(it.status()["generations"]) == 2)
    pid = it.status()["generations"][1]["pid"]
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        os.kill(pid, number)
    assert "it does not serve within the 0.5 s given" in receive(channel).fields["reason"]
    channel.close()


def test_a_reload_without_patience(it: Plane) -> None:
    it.start(listeners=ONE)
    it.wish(listeners=ONE, fault="hang before HELLO")
    with pytest.raises(Refused, match=r"within the 0\.2 s given"):
        it.ask("reload", timeout_s=0.2)


def test_a_port_that_somebody_else_has_is_refused_by_name(it: Plane) -> None:
    with socket.create_server(("127.0.0.1", 0), reuse_port=True) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        it.start(listeners=ONE)
        with pytest.raises(Refused, match=rf"listener 'b': {address}: address in use by .* \(pid {os.getpid()}\)"):
            it.reload(listeners={**ONE, "b": [address]})
    assert it.reload(listeners={**ONE, "b": [address]})["last_restart"]["ok"]


def test_a_first_generation_that_fails_is_the_end(it: Plane) -> None:
    it.wish(fault="bad config")
    it.launch()
    assert it.wait() == 1
    assert "\nstand-in.json:1:1: it is bad\n  two lines of it\n" in "\n" + it.log
    assert list(it.instance_dir.iterdir()) == []
    assert not Path("/dev/shm", it.segment[1:]).exists()


def test_a_second_run_names_the_first(it: Plane) -> None:
    it.start(listeners=ONE)
    first = it.process
    assert first is not None
    it.launch()
    assert it.wait() == 1
    assert f"instance 't' is already running (pid {first.pid}" in it.log
    it.process = first
    assert it.dial().epoch == 1


def test_requests_while_one_runs_are_one_more(it: Plane) -> None:
    it.start(listeners=ONE)
    it.wish(listeners=ONE)
    channels = [it.connect() for _ in range(5)]
    for channel in channels:
        channel.send("COMMAND", {"verb": "reload", "arguments": {}})
    for channel in channels:
        assert select.select([channel], [], [], PATIENCE_S)[0]
        message = channel.receive()
        assert message is not None and message.fields["ok"]
        channel.close()
    assert it.status()["epoch"] == 3


def test_listeners_come_and_go(it: Plane) -> None:
    it.start(listeners=ONE)
    port = it.port()
    waiting = [it.dial() for _ in range(20)]
    it.reload(listeners={"b": ["127.0.0.1:0"]})
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))
    assert {each.epoch for each in waiting} == {1}
    assert it.dial("b").epoch == 2


def test_unix_sockets_are_shared_carried_and_removed(it: Plane, tmp_path: Path) -> None:
    path = tmp_path / "s"
    it.start(listeners={"u": [f"unix:{path}"]}, slots=2)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(path))
        assert sock.recv(100).startswith(b"1 ")
    it.reload(listeners={"u": [f"unix:{path}"]})
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(path))
        assert sock.recv(100).startswith(b"2 ")
    it.reload(listeners=ONE)
    assert not path.exists()


def test_four_generations_are_never_alive(it: Plane) -> None:
    it.start(listeners=ONE, drain_s=0)
    held = []
    for epoch in range(1, 6):
        held.append(it.dial())
        assert held[-1].epoch == epoch
        assert len(it.status()["generations"]) <= 3
        it.reload(listeners=ONE, drain_s=0)
    assert held[0].ended()
    assert held[-1].echoes()


def test_a_stop_drains_and_a_second_signal_does_not(it: Plane) -> None:
    it.start(listeners=ONE, drain_s=0)
    held = it.dial()
    assert held.echoes()
    port = it.port()
    it.signal(signal.SIGTERM)
    it.eventually(lambda: it.status()["state"] == "DRAINING" and it.status()["generations"][0]["state"] == "draining")
    assert held.echoes()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))
    it.signal(signal.SIGINT)
    assert it.wait() == 0
    assert held.ended()


def test_the_stop_command_waits_for_the_end(it: Plane) -> None:
    it.start(listeners=ONE, drain_s=0)
    held = it.dial()
    assert held.echoes()
    assert it.ask("stop", timeout_s=0.1)["reason"] == "stopped"
    assert held.ended()
    assert it.wait() == 0


def test_a_forged_command_is_refused_and_nobody_minds(it: Plane) -> None:
    it.start(listeners=ONE)
    for data in (b"", b"x", b"\x00\x00\x00\x01\xc1", b"\xff" * 5000):
        channel = it.connect()
        channel.sock.send(data)
        channel.close()
    channel = it.connect()
    channel.send("REOPEN_LOGS")
    assert select.select([channel], [], [], PATIENCE_S)[0]
    message = channel.receive()
    assert message is not None and message.kind == "UNKNOWN"
    with pytest.raises(Refused, match="unknown command 'explode'"):
        it.ask("explode")
    assert it.ask("ping")["reason"] == "alive"


def test_people_who_connect_and_say_nothing_keep_nobody_from_an_answer(it: Plane) -> None:
    it.start(listeners=ONE)
    silent = [it.connect() for _ in range(MAX_CALLERS * 2)]
    assert it.ask("ping")["reason"] == "alive"
    it.wish(listeners=ONE, fault="hang before HELLO")
    silent.append(it.connect())  # in the place of "ping"
    for channel in silent[-MAX_CALLERS:]:
        channel.send("COMMAND", {"verb": "reload", "arguments": {}})
    it.signal(signal.SIGHUP)
    it.eventually(lambda: it.log.count("command 'reload'") == MAX_CALLERS)
    with pytest.raises(ChannelClosed):
        it.ask("ping")
    for channel in silent:
        channel.close()

    def answers() -> bool:
        with contextlib.suppress(ChannelClosed):  # they may be heard to be gone a moment later
            return bool(it.ask("ping")["reason"] == "alive")
        return False

    it.eventually(answers)


def test_nothing_is_imported_after_the_start(it: Plane) -> None:
    """An upgrade replaces the files under a supervisor that runs for years."""
    it.start(listeners=ONE)
    for listener in ("127.0.0.1:0", f"unix:{it.instance_dir}/s"):
        it.reload(listeners={**ONE, "b": [listener]})
    with pytest.raises(Refused):
        it.reload(fault="bad config")
    it.signal(signal.SIGTTIN)
    it.eventually(lambda: len(it.slots()) == 3)
    it.signal(signal.SIGTERM)
    it.wait()
    assert "late import" not in it.log


def test_whatever_a_generation_says_once_it_serves_the_supervisor_survives(it: Plane) -> None:
    it.start(listeners=ONE)
    it.reload(listeners=ONE, fault="babble")
    assert it.dial().echoes()
    assert it.reload(listeners=ONE)["last_restart"]["ok"]
    assert it.dial().epoch == 3
    it.signal(signal.SIGTERM)
    assert it.wait() == 0


def test_many_restarts_leave_no_descriptor_and_no_slab(it: Plane) -> None:
    it.start(listeners={**ONE, "u": [f"unix:{it.instance_dir}/u"]}, slots=2)
    assert it.process is not None

    def alone() -> bool:
        return len(it.status()["generations"]) == 1

    def held() -> tuple[int, int]:
        it.eventually(alone)
        return len(os.listdir(f"/proc/{it.process.pid}/fd")), len(reader.read(it.segment).processes)  # type: ignore[union-attr]

    before = held()
    for number in range(10):
        it.reload(listeners={**ONE, "u": [f"unix:{it.instance_dir}/u"], "b": ["127.0.0.1:0"]}, slots=2)
        with pytest.raises(Refused):
            it.reload(fault=list(REFUSALS)[number], ready_s=0.2)
    it.reload(listeners={**ONE, "u": [f"unix:{it.instance_dir}/u"]}, slots=2)
    # Not more; an answered caller's connection may have been counted before it was closed.
    it.eventually(lambda: held() <= before)


def test_hundreds_of_signals_at_once_are_a_few_restarts(it: Plane) -> None:
    it.start(listeners=ONE)
    for number in range(300):
        it.signal(signal.SIGHUP)
        if number % 30 == 0:
            assert it.dial().epoch >= 1
            assert len(it.status()["generations"]) <= 3
    it.eventually(lambda: len(it.status()["generations"]) == 1)
    assert it.stats()["server.restarts_failed"] == 0
