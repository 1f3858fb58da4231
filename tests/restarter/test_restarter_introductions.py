"""What a zygote of an earlier supervisor says when it comes back, and what of it is refused. It is played here; the
supervisor and its shared memory are real."""

from __future__ import annotations

import contextlib
import os
import select
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hotproxy.restarter.frames import PROTOCOL_VERSION, Channel, ChannelClosed, Message
from hotproxy.restarter.generation import State
from hotproxy.restarter.hello import Deadlines, Hello, WantedAddress, WantedListener
from hotproxy.restarter.ledger import Ledger
from hotproxy.restarter.supervisor import Options, Supervisor
from hotproxy.shm import reader
from hotproxy.shm.layout import LAYOUT_VERSION
from hotproxy.shm.liveness import start_time
from hotproxy.shm.memory import remove_segment
from tests.kit.forger import Forger

ADDRESS = WantedAddress("127.0.0.1:0", "tcp", host="127.0.0.1")
HELLO = Hello(
    1, 1, (WantedListener("a", (ADDRESS,)),), Deadlines(), [], "1.0", PROTOCOL_VERSION, LAYOUT_VERSION, "", {}
)  # fmt: skip
ATTACH: dict[str, Any] = {
    "state": "serving", "slots": 1, "soft_drain": False, "deadline_s": 0.0, "moved": 3, "refused": 1,
    "hello": HELLO.to_wire(),
}  # fmt: skip


class Played:
    """A zygote, and a worker that sleeps; both wait for the supervisor that is asked."""

    def __init__(self, directory: Path) -> None:
        instance_dir = directory / "run" / "t"
        instance_dir.mkdir(parents=True)
        self.worker = os.fork()
        if self.worker == 0:
            select.select([], [], [])
            os._exit(0)
        earlier = Ledger("t", instance_dir)
        earlier.next_epoch()
        earlier.admit([], "1.0")
        earlier.enlist(1, os.getpid())
        self.serial, _ = earlier.allocate(1, "worker", 0)
        self.unborn, _ = earlier.allocate(1, "worker", 1)
        earlier.activate(self.serial, self.worker)
        self.supervisor = Supervisor(Options("unused", "t", instance_dir), ["unused"])
        self.begun = self.supervisor.survivors.begin()
        self.channel = Channel(socket.socketpair()[0])
        self.sock = socket.create_server(("127.0.0.1", 0))
        self.worker_channel = Channel.pair()[0]
        self.pidfd = os.pidfd_open(self.worker)

    def attach(self, pid: int = 0, **other: Any) -> None:
        ours, self.channel = Channel.pair()
        self.supervisor.survivors.welcome(ours, pid or os.getpid(), Message("ATTACH", {**ATTACH, **other}))

    def say(self, kind: str, fields: dict[str, Any] | None = None, *fds: int) -> None:
        self.channel.send(kind, fields, fds)
        self.supervisor.loop.turn()

    def bring_socket(self, wire: list[Any] | None = None) -> None:
        fields = {"sockets": [wire or ["a", 0, 0, True, False]], "inodes": [[0, 0]], "last": True}
        self.say("SOCKETS", fields, self.sock.fileno())

    def bring_worker(self, serial: int = 0) -> None:
        forked = {"serial": serial or self.serial, "slot": 0, "role": "worker", "pid": self.worker}
        self.say("FORKED", forked, self.worker_channel.fileno(), self.pidfd)
        self.say("SLOT", {"serial": serial or self.serial, "state": "accepting"})

    @property
    def answer(self) -> dict[str, Any]:
        message = self.channel.receive()
        assert message is not None and message.kind == "ATTACHED"
        return message.fields

    def end(self) -> None:
        os.kill(self.worker, 9)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.worker, 0)
        for live in self.supervisor.live_generations():
            live.close()
        self.supervisor.sockets.close()
        self.channel.close()
        self.sock.close()
        self.worker_channel.close()
        os.close(self.pidfd)
        remove_segment(self.supervisor.ledger.segment_name)


@pytest.fixture
def it(tmp_path: Path) -> Iterator[Played]:
    played = Played(tmp_path)
    try:
        yield played
    finally:
        played.end()


def test_it_is_a_generation_of_ours_from_then_on(it: Played) -> None:
    assert it.begun
    it.attach()
    it.bring_socket()
    it.bring_worker()
    it.say("INTRODUCED")
    assert it.answer["ok"]
    (live,) = it.supervisor.live_generations()
    assert (live.epoch, live.state, live.slots, live.pid) == (1, State.ACTIVE, 1, os.getpid())
    assert [(each.pid, each.state) for each in live.slot_members] == [(it.worker, "accepting")]
    assert it.supervisor.sockets.bound(live.lease, "a") == [f"127.0.0.1:{it.sock.getsockname()[1]}"]
    assert it.supervisor.survivors.outcome == f"re-attached to generation 1 (pid {os.getpid()})"
    serials = it.supervisor.ledger.of_epoch(1)[1]
    assert serials == {it.serial}, "the slab of the process that was never forked is free again"


def test_a_death_is_counted_once_however_often_it_is_told(it: Played) -> None:
    it.attach()
    died = {"serial": it.unborn, "slot": 1, "role": "worker", "pid": 77, "status": 9}
    it.say("DIED", died)
    it.say("DIED", died)
    it.say("DIED", {**died, "serial": 99})
    it.bring_worker()
    it.say("INTRODUCED")
    it.say("DIED", died)
    values = reader.read(it.supervisor.ledger.segment_name).values
    assert values["server.worker_crashes"] == 1
    assert (values["server.handoff_moved"], values["server.handoff_refused"]) == (3, 1)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "another pid": ({"pid": 1}, "pid 1 is no zygote of this instance"),
    "another epoch": ({"hello": {**ATTACH["hello"], "epoch": 2}}, "it says it is generation 2"),
    "another protocol": ({"hello": {**ATTACH["hello"], "protocol": 99}}, "it speaks protocol 99"),
    "another layout": ({"hello": {**ATTACH["hello"], "layout": 99}}, "its shared-memory layout is 99"),
    "no hello": ({"hello": {}}, "HELLO.epoch"),
    "no slots": ({"slots": 0}, "with 0 slots"),
    "no deadline": ({"deadline_s": float("nan")}, "no deadline"),
    "impossible sums": ({"moved": -1}, "no number of connections"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_who_can_not_be_gone_on_with_is_told_so(it: Played, what: str) -> None:
    fields, why = REFUSED[what]
    it.attach(**fields)
    assert why in it.answer["why"]
    assert it.supervisor.live_generations() == [] and it.supervisor.survivors.waiting
    assert start_time(it.worker) is not None


@pytest.mark.parametrize(
    "wire", [["b", 0, 0, True, False], ["a", 1, 0, True, False], ["a", 0], ["a", 0, 0, True, 1], [7, 0, 0, True, False]]
)
def test_a_socket_that_makes_no_sense_is_refused(it: Played, wire: list[Any]) -> None:
    it.attach()
    it.bring_socket(wire)
    with contextlib.suppress(ChannelClosed):
        it.say("INTRODUCED")
    assert not it.answer["ok"]
    assert len(it.supervisor.sockets) == 0
    assert start_time(it.worker) is not None


def test_what_has_no_place_in_an_introduction_ends_it(it: Played) -> None:
    it.attach()
    it.bring_worker()
    it.say("READY")
    assert "READY is no part of an introduction" in it.answer["why"]
    assert start_time(it.worker) is not None
    it.attach()  # and it may try again
    it.bring_worker()
    it.say("INTRODUCED")
    assert it.answer["ok"]


def test_garbage_ends_it_too(it: Played) -> None:
    it.attach()
    it.channel.sock.send(b"\x00\x00\x00\x03abc")
    it.supervisor.loop.turn()
    assert not it.answer["ok"]


def test_one_that_breaks_off_may_come_again(it: Played) -> None:
    it.attach()
    it.bring_socket()
    it.bring_worker()
    it.channel.close()
    it.supervisor.loop.turn()
    assert it.supervisor.live_generations() == []
    it.attach()
    it.bring_socket()
    it.bring_worker()
    it.say("INTRODUCED")
    assert it.answer["ok"]


def test_one_that_is_here_already_is_not_taken_twice(it: Played) -> None:
    it.attach()
    it.say("INTRODUCED")
    assert it.answer["ok"]
    first = it.channel
    it.attach()
    assert "is here already" in it.answer["why"]
    assert len(it.supervisor.live_generations()) == 1
    first.close()


def test_a_child_that_is_dead_and_counted_already_is_no_reason_to_refuse_anything(it: Played) -> None:
    """It was stopped while its child died, and tells of it before it knows: the generation that served was killed."""
    it.attach()
    it.bring_worker(99)
    it.bring_worker()
    it.say("INTRODUCED")
    assert it.answer["ok"]
    assert start_time(it.worker) is not None
    assert [each.pid for each in it.supervisor.live_generations()[0].slot_members] == [it.worker]


LIKELY = {
    "role": ("worker", "control", "nobody"), "pid": (1 << 22, 0, -1), "state": ("accepting", "leaving", "x" * 300),
    "sockets": ([["a", 0, 0, True, False]], [["a", 0, 0]], [[7]]), "status": (0, 9, -1, 1 << 40),
}  # fmt: skip


def test_nothing_that_is_forged_in_an_introduction_does_any_harm(it: Played) -> None:
    """C15: it is refused, or it makes sense; the supervisor is well, and no descriptor is left over."""
    it.supervisor.loop._alarms.clear()  # nobody settles meanwhile
    forger = Forger(
        7, ("SOCKETS", "FORKED", "SLOT", "DIED", "INTRODUCED"), {**LIKELY, "serial": (it.serial, it.unborn)}
    )
    it.attach(pid=1)
    before = len(os.listdir("/proc/self/fd"))
    ends = set()
    for _ in range(600):
        it.channel.close()
        it.attach()
        while forger.send(it.channel.sock) and it.supervisor.survivors.busy:
            it.supervisor.loop.turn()
            if it.supervisor.live_generations():
                break
        ends.add(len(it.supervisor.live_generations()))
        for live in it.supervisor.live_generations():
            it.supervisor._generations.remove(live)
            live.close()
        it.supervisor.sockets.close()
        it.supervisor.survivors.waiting = True  # for it to come again
    forger.close()
    it.channel.close()
    it.attach()
    it.bring_socket()
    it.say("INTRODUCED")
    assert it.answer["ok"]
    assert ends == {0, 1}
    it.supervisor.live_generations()[0].close()
    it.supervisor.sockets.close()
    it.channel.close()
    it.attach(pid=1)
    assert len(os.listdir("/proc/self/fd")) <= before
