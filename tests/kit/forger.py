"""Frames that no honest process sends: forged, cut, too long, out of turn, said again, of unknown kinds and versions,
with descriptors too few, too many or of the wrong sort. The same seed forges the same frames."""

from __future__ import annotations

import array
import os
import random
import socket
import stat
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgpack

from hotproxy.restarter.frames import (
    KINDS,
    MAX_FDS,
    MAX_FRAME_BYTES,
    PROTOCOL_VERSION,
    FrameError,
    Message,
    decode,
)

# The kernel's own limit, SCM_MAX_FD: beyond what a receiver has room for, so that it finds MSG_CTRUNC.
MOST_FDS = 253
HISTORY = 50
NUMBERS = (0, 1, 2, 3, 7, -1, 255, 1 << 31, 1 << 40, (1 << 63) - 1, -(1 << 63))
VALUES: dict[type, tuple[Any, ...]] = {
    int: NUMBERS,
    float: (0.0, 0.05, -1.0, 1e300, float("inf"), float("-inf"), float("nan"), 3),
    str: ("", "worker", "control", "web", "x" * 3000, "\0", "ü"),
    bool: (True, False),
    list: ([], [1], [[]], [["a", 0, 0, False, False]], [[1, 5]], [None] * 40, [["a", 0, 0]], [[[[[]]]]]),
    dict: ({}, {"serial": 1}, {"a": {"b": []}}),
}
OTHERS: tuple[Any, ...] = (None, True, 0, -1, 1.5, "x", b"x", [], {}, [[]], 1 << 63)
Packet = tuple[bytes, list[int]]


class Forger:
    """Forges what a receiver hears that knows `kinds`. `likely`: by field, values that it may take for right.

    `spares(message)`: it would have to obey this one, and what follows is not what is looked at; it is not said.
    """

    def __init__(
        self,
        seed: int,
        kinds: Sequence[str],
        likely: Mapping[str, Sequence[Any]] | None = None,
        spares: Callable[[Message], bool] = lambda message: False,
    ) -> None:
        self.words = random.Random(seed)
        self.kinds = list(kinds)
        self.likely = likely or {}
        self.spares = spares
        self.said: list[Packet] = []
        self.forged = 0
        self.stock: list[int] = []
        self._ends: list[int] = []
        self._open()

    def _open(self) -> None:
        """One descriptor of each sort; what is sent is a copy of it, and never both ends of something."""
        for kind in (socket.SOCK_SEQPACKET, socket.SOCK_STREAM, socket.SOCK_DGRAM):
            ours, theirs = socket.socketpair(socket.AF_UNIX, kind)
            self.stock.append(ours.detach())
            self._ends.append(theirs.detach())
        listening = socket.create_server(("127.0.0.1", 0))
        reading, writing = os.pipe()
        self._ends.append(writing)
        self._memory = os.memfd_create("forged")
        self.stock += [reading, os.open(os.devnull, os.O_RDWR), self._memory, listening.detach()]
        self.stock.append(os.pidfd_open(os.getpid()))

    def hang_up(self) -> None:
        """Whoever was given one end of something finds its end now."""
        self.close()
        self._open()
        self.said.clear()

    def close(self) -> None:
        while self.stock:
            os.close(self.stock.pop())
        while self._ends:
            os.close(self._ends.pop())

    def remember(self, kind: str, fields: Mapping[str, Any], fds: Sequence[int] = ()) -> None:
        """Something true that was said, to be said again at the wrong moment."""
        self.said.append((_packet(_body(kind, fields)), list(fds)))

    def send(self, sock: socket.socket) -> bool:
        """One forged frame. False: there is no room for it, or nobody hears it any more."""
        packet, fds = self.packet()
        while (message := as_message(packet, fds)) is not None and self.spares(message):
            packet, fds = self.packet()
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        try:
            sock.sendmsg([packet], rights, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except OSError:
            return False
        self.forged += 1
        return True

    def packet(self) -> Packet:
        way = self.words.choices(
            [self._true, self._of_any_kind, self._damaged, self._envelope, self._cut, self._long, self._again,
             self._memfd], [30, 8, 18, 10, 12, 1, 12, 5],
        )[0]  # fmt: skip
        packet, fds = way()
        if self.words.random() < 0.25:
            fds = self._descriptors()
        self.said = [*self.said[-HISTORY:], (packet, [fd for fd in fds if fd in self.stock])]
        return packet, fds

    def _descriptors(self) -> list[int]:
        if self.words.random() < 0.02:
            return [self.stock[0]] * self.words.randint(MAX_FDS - 1, MOST_FDS)
        return self.words.choices(self.stock, k=self.words.choice([0, 1, 1, 2, 3]))

    def _fields(self, kind: str) -> dict[str, Any]:
        return {
            name: self.words.choice(self.likely[name] if self._likely(name) else VALUES[wanted])
            for name, wanted in KINDS[kind].items()
        }

    def _likely(self, name: str) -> bool:
        return name in self.likely and self.words.random() < 0.8

    def _true(self) -> Packet:
        kind = self.words.choice(self.kinds)
        return _packet(_body(kind, self._fields(kind))), self._descriptors()

    def _of_any_kind(self) -> Packet:
        kind = self.words.choice(sorted(KINDS))
        return _packet(_body(kind, self._fields(kind))), []

    def _damaged(self) -> Packet:
        kind = self.words.choice([each for each in self.kinds if KINDS[each]] or sorted(KINDS))
        fields = self._fields(kind)
        if fields:
            name = self.words.choice(list(fields))
            fields[name] = self.words.choice(OTHERS)
            if self.words.random() < 0.3:
                del fields[name]
        fields.update(self.words.choice([{}, {}, {"more": 1}, {"memfd": self.words.choice(OTHERS)}]))
        return _packet(_body(kind, fields)), self._descriptors()

    def _envelope(self) -> Packet:
        kind = self.words.choice(self.kinds)
        fields = self._fields(kind)
        if self.words.random() < 0.1:
            return _packet(_deep(_body(kind, fields), self.words.choice([400, 600, 3000]))), self._descriptors()
        body = self.words.choice([
            {"k": kind, "v": self.words.choice([0, 2, None, "1", 1.5]), **fields}, {"v": PROTOCOL_VERSION, **fields},
            {"k": self.words.choice(["", "NOTHING", "x" * 5000, 7, None]), "v": PROTOCOL_VERSION, **fields},
            {"k": kind, **fields}, {7: 8}, [], [kind], None, 7, "x",
        ])  # fmt: skip
        return _packet(_packed(body)), []

    def _cut(self) -> Packet:
        kind = self.words.choice(self.kinds)
        packet = bytearray(_packet(_body(kind, self._fields(kind))))
        way = self.words.randrange(5)
        if way == 0:
            del packet[self.words.randrange(1, len(packet)) :]
        elif way == 1:
            packet += self.words.randbytes(self.words.randint(1, 9))
        elif way == 2:
            packet[self.words.randrange(len(packet))] = self.words.randrange(256)
        elif way == 3:  # the length is right, and what follows is not
            body = packet[4:]
            body[self.words.randrange(len(body))] = self.words.randrange(256)
            packet = bytearray(_packet(bytes(body)))
        else:
            packet = bytearray(self.words.randbytes(self.words.randint(1, 200)))
        return bytes(packet), self._descriptors()

    def _long(self) -> Packet:
        return _packet(_packed({"k": self.words.choice(self.kinds), "v": 1, "more": bytes(MAX_FRAME_BYTES)})), []

    def _again(self) -> Packet:
        return self.words.choice(self.said) if self.said else self._true()

    def _memfd(self) -> Packet:
        kind = self.words.choice(self.kinds)
        body = self.words.choice([_packed(self._fields(kind)), self.words.randbytes(30), b""])
        memfd = self._memory
        os.ftruncate(memfd, 0)
        os.pwrite(memfd, body, 0)
        size = self.words.choice([len(body), len(body), len(body) + 1, 0, -1, 1 << 40, 63 << 20, None])
        return _packet(_body(kind, {"memfd": size})), self.words.choice([[memfd], [memfd], [self.stock[0]], []])


def as_message(packet: bytes, fds: Sequence[int] = ()) -> Message | None:
    """As it is received; None when it is refused. What is in a memfd is not looked at."""
    try:
        message = decode(packet)
    except FrameError:
        return None
    message.fds = list(fds)
    return message


def is_stream(fd: int) -> bool:
    """What somebody may have accepted on, or been connected by."""
    if not stat.S_ISSOCK(os.fstat(fd).st_mode):
        return False
    with socket.socket(fileno=os.dup(fd)) as sock:
        return sock.type == socket.SOCK_STREAM


def _body(kind: str, fields: Mapping[str, Any]) -> bytes:
    return _packed({"k": kind, "v": PROTOCOL_VERSION, **fields})


def _packed(value: Any) -> bytes:
    packed: bytes = msgpack.packb(value)
    return packed


def _deep(body: bytes, depth: int) -> bytes:
    """One field more, whose value is nested deeper than msgpack itself writes."""
    return bytes([body[0] + 1]) + body[1:] + _packed("deep") + b"\x91" * depth + b"\x90"


def _packet(body: bytes) -> bytes:
    return struct.pack("!I", len(body)) + body
