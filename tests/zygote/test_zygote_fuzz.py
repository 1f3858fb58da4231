"""C15: forged frames at a zygote, whose supervisor is this test: it forks, serves on, and says what it has refused."""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hotproxy.restarter.frames import Channel, ChannelFull, Message
from hotproxy.restarter.ledger import Ledger
from hotproxy.restarter.spawn import Spawned, spawn
from tests.kit.forger import Forger, is_stream
from tests.kit.instance import PATIENCE_S, eventually
from tests.kit.plane import STAND_IN

ORDERS = (
    "SOCKETS", "ACCEPT_ON", "ADOPT", "SHUT", "UNDRAIN", "SLOTS", "GIVE", "TAKE", "RECYCLE", "DISMISS", "REOPEN_LOGS",
    "UNKNOWN", "DRAIN", "SLAB_IS",
)  # fmt: skip
WIRES = (
    [], [["a", 0, 0, True, False]], [["a", 0, 9, True, False]], [["a", 0]], [7], [[]], [["a", "0", 0, True, False]],
    [["b", 0, 0, False, True]], [[None] * 5], ["a"], [{"a": 1}], [["admin", 0, 0, True, True], ["a", 0, 1]],
)  # fmt: skip
LIKELY = {
    "sockets": WIRES, "slots": (0, -1, 1 << 20, 1 << 40, 1025), "serial": (1, 2, 3, 4), "slot": (0, 1, -1, 99),
    "deadline_s": (0.0, float("nan"), float("-inf"), -1.0), "role": ("worker", "control"),
    "place": ({}, {"serial": 1}, {"serial": -1, "object": 0, "offset": 1 << 40}), "last": (True, False),
    "pairs": ([[1, 5]], [7], []), "pair": (1,), "step_s": (0.05,), "until_s": (1.0,),
}  # fmt: skip
BURST = 30


def must_be_obeyed(message: Message) -> bool:
    """What ends it, and what it keeps: other slots, sockets, no sockets any more."""
    kind, fields = message.kind, message.fields
    if "memfd" in fields:  # whatever is in there
        return kind in ("SHUT", "SOCKETS", "ADOPT", "SLOTS", "RECYCLE", "DRAIN", "ACCEPT_OFF")
    if kind == "SHUT":
        return any(isinstance(wire, list) and wire[:3] in (["a", 0, 0], ["a", 0, 1]) for wire in fields["sockets"])
    if kind in ("SOCKETS", "ADOPT"):
        return len(fields["sockets"]) == len(message.fds) and all(map(is_stream, message.fds))
    return (
        kind == "ACCEPT_OFF"
        or (kind == "SLOTS" and 1 <= fields["slots"] <= 1024)
        or (kind == "RECYCLE" and fields["slot"] in (0, 1))
        or (kind == "DRAIN" and fields["deadline_s"] > 0.0)
    )


class Supervisor:
    """As much of one as a zygote needs: sockets, shared memory, and orders."""

    def __init__(self, directory: Path) -> None:
        self.instance_dir = directory / "run" / "t"
        self.instance_dir.mkdir(parents=True)
        config = directory / "stand-in.json"
        config.write_text('{"slots": 2, "listeners": {"a": ["127.0.0.1:0"]}}')
        self.ledger = Ledger("t", self.instance_dir)
        self.ledger.next_epoch()
        arguments = ["--epoch", "1", "--config", str(config), "--segment", self.ledger.segment_name]
        command = [sys.executable, str(STAND_IN)]
        self.zygote: Spawned = spawn(command, [*arguments, "--instance-dir", str(self.instance_dir)])
        self.channel: Channel = self.zygote.channel
        self.sockets = [socket.socket() for _ in range(2)]
        for sock in self.sockets:
            sock.bind(("127.0.0.1", 0))
        self.members: dict[int, int] = {}  # slot -> pid

    def serve(self) -> None:
        hello = self.until("HELLO").fields
        self.ledger.admit(hello["stats"], hello["version"])
        wires = [["a", 0, slot, False, False] for slot in range(2)]
        self.channel.send("SOCKETS", {"sockets": wires, "last": True}, [sock.fileno() for sock in self.sockets])
        self.until("READY")
        self.channel.send("ACCEPT_ON")
        self.until("ACCEPTING")

    def until(self, kind: str, true: Callable[[Message], bool] = lambda message: True) -> Message:
        """Serves it until it says this."""
        while True:
            message = self.receive()
            self.answer(message)
            if message.kind == kind and true(message):
                return message

    def receive(self) -> Message:
        while (message := self.channel.receive()) is None:
            assert select.select([self.channel], [], [], PATIENCE_S)[0], "the zygote says nothing"
        return message

    def answer(self, message: Message) -> None:
        fields = message.fields
        if message.kind == "SLAB":
            serial, place = self.ledger.allocate(1, fields["role"], fields["slot"])
            self.channel.send("SLAB_IS", {**fields, "serial": serial, "place": place})
        elif message.kind == "FORKED":
            self.ledger.activate(fields["serial"], fields["pid"])
            self.members[fields["slot"] if fields["role"] == "worker" else -1] = fields["pid"]
        elif message.kind == "DIED":
            self.ledger.fold(fields["serial"])
        message.close_fds()

    def settle(self) -> None:
        """All that was said is read, and all that it said to that is."""
        while True:
            try:
                self.channel.send("MOVED", {"serial": 0, "pair": 0, "moved": 0, "refused": 0, "why": ""})
                break
            except ChannelFull:
                self.answer(self.receive())
        self.until("UNKNOWN", lambda message: bool(message.fields["kind"] == "MOVED"))

    def greeting(self, slot: int) -> bytes:
        with socket.create_connection(self.sockets[slot].getsockname(), PATIENCE_S) as sock:
            return sock.recv(100)

    def fds(self) -> int:
        return len(os.listdir(f"/proc/{self.zygote.pid}/fd"))

    def close(self) -> None:
        os.kill(self.zygote.pid, signal.SIGKILL)
        os.waitpid(self.zygote.pid, 0)
        for pid in self.members.values():
            os.kill(pid, signal.SIGKILL) if Path(f"/proc/{pid}").exists() else None
        self.channel.close()
        os.close(self.zygote.stderr)
        self.ledger.close()
        for sock in self.sockets:
            sock.close()
        for entry in Path("/dev/shm").glob(f"{self.ledger.segment_name[1:]}*"):
            entry.unlink()


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[Supervisor]:
    made = Supervisor(tmp_path)
    yield made
    made.close()


@pytest.mark.timeout(900)
@pytest.mark.parametrize("count", [3000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_a_zygote_serves_on_whatever_its_supervisor_says(supervisor: Supervisor, count: int) -> None:
    forger = Forger(5, ORDERS, LIKELY, must_be_obeyed)
    supervisor.serve()
    before, members = supervisor.fds(), dict(supervisor.members)
    while forger.forged < count:
        for _ in range(BURST):
            forger.send(supervisor.channel.sock)
        supervisor.settle()
    forger.close()
    eventually(lambda: supervisor.fds() == before, "every descriptor to be closed")
    assert supervisor.members == members, "nobody has died"
    # Who dies is forked again, as ever.
    os.kill(members[1], signal.SIGKILL)
    supervisor.until("SLOT", lambda message: message.fields["state"] == "accepting")
    assert supervisor.members[1] != members[1]
    assert [supervisor.greeting(slot).split()[1] for slot in range(2)] == [b"0", b"1"]
