"""A generation without a data plane: the real zygote with slots that greet and echo, and can be told to fail.

Run by a supervisor instead of `python -m hotproxy.zygote`. Its config is JSON:

    {"slots": 2, "listeners": {"a": ["127.0.0.1:0"]}, "drain_s": 5, "ready_s": 5, "fault": "", "stats": []}

A connection is greeted with "<epoch> <slot> <pid>\\n"; what it sends comes back; at its end the slot closes it.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import select
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from hotproxy.restarter.digest import supervisor_code
from hotproxy.restarter.frames import KINDS, PROTOCOL_VERSION, Channel, ChannelClosed, Message
from hotproxy.restarter.hello import Deadlines, Hello, WantedAddress, WantedListener
from hotproxy.restarter.instance_dir import SUPERVISOR_SOCKET
from hotproxy.restarter.outbox import Outbox
from hotproxy.shm.layout import LAYOUT_VERSION
from hotproxy.shm.schema import COUNTER, Stat, to_wire
from hotproxy.zygote import __main__ as entry
from hotproxy.zygote import begin
from hotproxy.zygote import main as zygote_main
from hotproxy.zygote.child import Child
from hotproxy.zygote.main import Zygote
from hotproxy.zygote.program import Birth, Orders

TICK_S = 0.02
CONTROL = "control"


class StandIn:
    """A `zygote.program.Program`."""

    def __init__(self, config: dict[str, Any], orders: Orders) -> None:
        epoch, instance_dir = orders.epoch, orders.instance_dir
        self.config = config
        self.fault = config.get("fault", "")
        control = WantedAddress(f"unix:{instance_dir}/admin.sock", "unix", path=f"{instance_dir}/admin.sock")
        listeners = [
            WantedListener(name, tuple(wanted(text) for text in texts))
            for name, texts in config.get("listeners", {}).items()
        ]
        deadlines = Deadlines(**{name: config[name] for name in config if name.endswith("_s")})
        stats = [Stat("stand_in.accepted", COUNTER), *(Stat(*each) for each in config.get("stats", []))]
        digest = config.get("digest") or supervisor_code()
        self.hello = Hello(
            epoch, config.get("slots", 2), (*listeners, WantedListener(CONTROL, (control,), shared=True)), deadlines,
            to_wire(stats), "stand-in", PROTOCOL_VERSION, LAYOUT_VERSION, digest, {}, not orders.pure, orders.pure,
            "it is bad" if self.fault == "bad config" else "",
        )  # fmt: skip

    @staticmethod
    def is_control(listener: str) -> bool:
        return listener == CONTROL

    def work(self, birth: Birth) -> int:
        slot = f"{birth.slot}"
        if self.fault == f"die at birth {slot}":
            return 3
        if self.fault == f"hang at birth {slot}":
            signal.pause()
        if self.fault == f"stop at birth {slot}":
            os.kill(os.getpid(), signal.SIGSTOP)
        return Slot(birth, self.hello.epoch, self.fault.removesuffix(f" {slot}")).run()

    def control(self, birth: Birth) -> int:
        return Slot(birth, self.hello.epoch, "").run()


def wanted(text: str) -> WantedAddress:
    if text.startswith("unix:"):
        return WantedAddress(text, "unix", path=text[5:])
    host, _, port = text.rpartition(":")
    return WantedAddress(text, "tcp", host=host.strip("[]"), port=int(port))


class Slot:
    """The worker's conversation, the short way: poll, one turn, no event loop."""

    def __init__(self, birth: Birth, epoch: int, fault: str) -> None:
        self.birth, self.channel, self.fault = birth, birth.channel, fault
        self.greeting = f"{epoch} {birth.slot} {os.getpid()}\n".encode()
        self.accepted = birth.slab.counter("stand_in.accepted")
        self.sockets = {(each.listener, each.address_index, each.slot): each.sock for each in birth.sockets}
        self.accepts = self.told = self.leaves = self.gone = False
        self.deadline_s = 0.0
        self.connections: dict[int, socket.socket] = {}

    def run(self) -> int:
        self.channel.send("READY")
        while not self.leaves or (self.connections and time.monotonic() < self.deadline_s):
            self.birth.slab.heartbeat_ns = time.monotonic_ns()
            self.birth.slab.connections = len(self.connections)
            self.turn()
        return 0

    def turn(self) -> None:
        poll = select.poll()
        sockets = {sock.fileno(): sock for sock in self.sockets.values()} if self.accepts else {}
        if not self.gone:
            poll.register(self.channel, select.POLLIN)
        for fd in (*sockets, *self.connections):
            poll.register(fd, select.POLLIN)
        for fd, _ in poll.poll(TICK_S * 1000):
            if fd in sockets:
                self.accept(sockets[fd])
            elif fd in self.connections:
                self.echo(self.connections[fd])
            else:
                self.listen_to_zygote()

    def accept(self, listening: socket.socket) -> bool:
        try:
            sock, _ = listening.accept()
        except OSError:
            return False  # a sibling was faster, or it is shut
        self.accepted.inc()
        sock.setblocking(False)
        self.connections[sock.fileno()] = sock
        with contextlib.suppress(BrokenPipeError):  # it only asked who accepts here; what it says is EOF
            sock.sendall(self.greeting)
        return True

    def echo(self, sock: socket.socket) -> None:
        try:
            data = sock.recv(65536)
        except OSError:
            data = b""
        if data:
            sock.sendall(data)
        else:
            del self.connections[sock.fileno()]
            sock.close()

    def listen_to_zygote(self) -> None:
        try:
            message = self.channel.receive()
        except ChannelClosed:
            self.gone = True
            self.leaves = self.leaves or not self.told
            return
        if message is not None:
            self.obey(message)
            message.close_fds()

    def obey(self, message: Message) -> None:
        kind, fields = message.kind, message.fields
        if kind == "ACCEPT_ON":
            if self.fault == "die on accept":
                os._exit(4)
            for sock in self.sockets.values():
                sock.listen(1024)
            self.accepts = self.told = True
            if self.fault == "die after listen":
                os._exit(5)
            if self.fault != "hang on accept":
                self.channel.send("ACCEPTING")
        elif kind == "ACCEPT_OFF":
            self.accepts = False
            self.channel.send("ACCEPT_STOPPED")
        elif kind == "ADOPT":
            for (listener, index, slot, listening, _), fd in zip(fields["sockets"], message.fds, strict=True):
                sock = socket.socket(fileno=fd)
                if not listening:
                    sock.listen(1024)
                self.sockets[listener, index, slot] = sock
            message.fds = []
        elif kind == "RELEASE":
            for wire in fields["sockets"]:
                self.sockets.pop(tuple(wire[:3])).close()
        elif kind == "SHUT":
            for wire in fields["sockets"]:
                self.shut(self.sockets.pop(tuple(wire[:3])))
            self.channel.send("SHUT_DONE")
        elif kind == "DRAIN" and fields["deadline_s"]:
            self.accepts, self.leaves, self.deadline_s = False, True, fields["deadline_s"]
            for sock in self.sockets.values():
                sock.close()
            self.sockets.clear()

    def shut(self, sock: socket.socket) -> None:
        while self.accept(sock):
            pass
        try:
            sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # another slot was faster: the socket is shared
        sock.close()


def struck_after(fork: Callable[..., Any]) -> Callable[..., Any]:
    """The zygote is killed before it can tell anybody of the child."""

    def struck(*arguments: Any) -> Any:
        made = fork(*arguments)
        os.write(2, f"unheard of: {made[0]}\n".encode())
        os.kill(os.getpid(), signal.SIGKILL)
        return made

    return struck


def forged(post: Callable[..., None], fault: str) -> Callable[..., None]:
    """As `Outbox.post`, with a number that no process has in what is said of the children."""

    def say(outbox: Any, kind: str, fields: dict[str, Any] | None = None, fds: Any = ()) -> None:
        said = dict(fields or {})
        if kind == "FORKED" and fault == "impossible pid":
            said["pid"] = 2**64 - 1
        post(outbox, kind, said, fds)
        if kind == "FORKED" and fault == "impossible status":
            post(outbox, "DIED", {**said, "status": 2**40})

    return say


class Babbler(Zygote):
    """Says whatever comes to its mind, once it serves; every frame is well-formed."""

    def _on_accepting(self, child: Child) -> None:
        before = self._phase
        super()._on_accepting(child)
        if self._phase is not before:
            words = random.Random(7)
            for _ in range(3000):
                kind = words.choice(sorted(set(KINDS) - {"FAILED"}))
                fields = {name: anything(words, wanted) for name, wanted in KINDS[kind].items()}
                self._supervisor.post(
                    kind, fields, words.choice([[], [0], [0, 1], [self._supervisor.channel.fileno()] * 2])
                )


def anything(words: random.Random, wanted: type) -> Any:
    values: dict[type, list[Any]] = {
        int: [0, 1, 2, 3, 5, -1, 2**40], float: [0.0, 1e300], str: ["", "worker", "control", "x" * 3000, "\0"],
        bool: [True, False], list: [[], [1], [["a", 0, 0, False, False]]], dict: [{}, {"serial": 1}],
    }  # fmt: skip
    return words.choice(values[wanted])


def load_and_live(channel: Channel, orders: Orders) -> int:
    """What `hotproxy.zygote.begin.begin` is to hotproxy."""
    epoch, segment = orders.epoch, orders.segment
    wishes = json.loads(Path(orders.config).read_text())
    fault = wishes.get("fault", "")
    if fault == "import error":
        raise ModuleNotFoundError("No module named 'nowhere'")
    if fault == "exit before HELLO":
        os._exit(7)
    if fault == "killed before HELLO":
        os.kill(os.getpid(), signal.SIGKILL)
    if fault == "hang before HELLO":
        signal.pause()
    if fault == "garbage":
        channel.sock.send(b"\x00\x00\x00\x03abc")
        signal.pause()
    if fault == "cut short":
        channel.sock.send(b"\x00\x00\x00\x99abc")
        signal.pause()
    if fault == "READY first":
        channel.send("READY")
        signal.pause()
    supervisor_path = orders.instance_dir / SUPERVISOR_SOCKET
    if fault == "bad config" and not orders.fallback:
        bad = "stand-in.json:1:1: it is bad\n  two lines of it"
        return begin.live(channel, lambda: bad, epoch, segment, supervisor_path)
    program = StandIn(wishes, orders)
    if fault.startswith("impossible"):
        Outbox.post = forged(Outbox.post, fault)  # type: ignore[method-assign]
    if fault == "struck after fork":
        zygote_main.fork = struck_after(zygote_main.fork)
    if fault == "babble":
        begin.Zygote = Babbler  # type: ignore[misc]
    if fault == "other epoch":
        channel.send("HELLO", {**program.hello.to_wire(), "epoch": 99})
        signal.pause()
    if fault == "mad HELLO":
        channel.send("HELLO", {**program.hello.to_wire(), "listeners": [{"name": 7}]})
        signal.pause()
    return begin.live(channel, lambda: program, epoch, segment, supervisor_path)


if __name__ == "__main__":
    if json.loads(Path(sys.argv[sys.argv.index("--config") + 1]).read_text()).get("fault") == "no interpreter":
        sys.exit("the interpreter says why")
    begin.begin = load_and_live
    sys.exit(entry.main())
