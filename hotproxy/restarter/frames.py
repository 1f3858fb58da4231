"""The messages between supervisor, zygote, slots and control process, and the descriptors that travel with them.

A frame is one packet of an inherited `AF_UNIX SOCK_SEQPACKET` socketpair (or of `supervisor.sock`):

    4 bytes  length of what follows, big-endian (a packet cut short is noticed)
    msgpack  {"k": kind, "v": version, ...fields}; or {"k": kind, "v": version, "memfd": size} where the fields did not
             fit and lie, as msgpack, in the last descriptor

Every kind is listed in `KINDS` with the fields it must have and their types: what does not fit is refused with a
`FrameError` that says why, and its descriptors are closed. Fields may be added; a receiver ignores those it does not
know. Records of live connections are opaque bytes here.
"""

from __future__ import annotations

import array
import errno
import os
import select
import socket
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgpack

from hotproxy.restarter.faults import FAULTS_HERE
from hotproxy.shm.bulk import no_collections

# What both ends must speak; HELLO carries it. Raised only when the meaning of an existing field changes.
PROTOCOL_VERSION: Final = 1
# What slots must both speak to move connections; HELLO's `codecs` carry it under this name.
HANDOFF: Final = "handoff"
HANDOFF_VERSION: Final = 1
# The kernel's SCM_MAX_FD is 253; a message with more is refused by it.
MAX_FDS: Final = 250
# Below the default socket buffer (208 KiB), so that one packet always fits once the buffer is empty.
MAX_FRAME_BYTES: Final = 128 * 1024
# Larger states travel in a memfd. A generation's statistics schema is the largest: some 100 bytes a name.
MAX_MEMFD_BYTES: Final = 64 * 1024 * 1024

# sendmsg(2) and unix(7): too many descriptors in flight for this user's limit, no memory, no socket buffer.
STARVED: Final = frozenset((errno.ETOOMANYREFS, errno.ENOBUFS, errno.ENOMEM))

_LENGTH: Final = struct.Struct("!I")
_FD_SPACE: Final = socket.CMSG_SPACE(MAX_FDS * array.array("i").itemsize)

# kind -> {field: type}. The direction is in the comment: S supervisor, Z zygote, W slot, C control process, U a user's
# command.
KINDS: Final[dict[str, dict[str, type]]] = {
    # the beginning of a generation
    "HELLO": {  # Z -> S: what the supervisor must know of this generation, and the sockets it asks for
        "epoch": int,
        "protocol": int,
        "codecs": dict,
        "supervisor_digest": str,
        "layout": int,
        "version": str,
        "slots": int,
        "listeners": list,
        "deadlines": dict,
        "stats": list,
        # and, since they were added: "compiled", "pure", "fallback" (hello.py)
    },
    # S -> Z: [listener, address index, slot, listening, shared]; fds in order. Also before a SLOTS that needs more.
    # `tickets` besides, the secret of TLS sessions (ticket_chain): an older supervisor has none
    "SOCKETS": {"sockets": list, "last": bool},
    "SLAB": {"role": str, "slot": int},  # Z -> S: shared memory for a process that is about to be forked
    "SLAB_IS": {"role": str, "slot": int, "serial": int, "place": dict},  # S -> Z: where it lies
    # Z -> S; fds: a copy of the zygote's end of the channel to it (the supervisor's if the zygote dies), its pidfd
    "FORKED": {"serial": int, "slot": int, "role": str, "pid": int},
    "DIED": {"serial": int, "slot": int, "role": str, "pid": int, "status": int},  # Z -> S: reaped; fold its slab
    "SLOT": {"serial": int, "state": str},  # Z -> S: how a slot or the control process is, for `hotproxy status`
    "READY": {},  # W -> Z, C -> Z: warm; Z -> S: every slot and the control process are
    "FAILED": {"why": str},  # Z -> S, W -> Z: this generation can't be; the process exits after it
    "SERVES": {},  # S -> Z -> C: it does, and is alone with it soon: what it runs is the last good config
    # whose turn it is to accept
    "ACCEPT_ON": {},  # S -> Z -> W, C
    "ACCEPTING": {},  # W -> Z, Z -> S: every listening socket listens and is watched
    "ACCEPT_OFF": {},  # S -> Z -> W, C: stop accepting, close nothing
    "ACCEPT_STOPPED": {},  # W -> Z -> S
    "ADOPT": {"sockets": list},  # Z -> W, S -> Z: accept on these too; fds in order
    "RELEASE": {"sockets": list},  # Z -> W: stop accepting on these, close your copies: their own slot is back
    "SHUT": {"sockets": list},  # S -> Z -> W: these listeners are removed: accept what waits, then shut them down
    "SHUT_DONE": {},  # W -> Z -> S: ... done
    # a zygote whose supervisor is gone, to the next one, on `supervisor.sock`: ATTACH, SOCKETS (as it was given them),
    # FORKED and SLOT for each child, DIED for deaths that nobody may have heard of, INTRODUCED
    # Z -> S; `moved`, `refused`: sums of MOVED that it could not tell
    "ATTACH": {
        "state": str,
        "slots": int,
        "soft_drain": bool,
        "deadline_s": float,
        "moved": int,
        "refused": int,
        "hello": dict,
    },
    "INTRODUCED": {},  # Z -> S
    "ATTACHED": {"ok": bool, "why": str},  # S -> Z: all is as before; or why it can't be
    # the move of connections: from a slot that leaves to one that stays, or from those that stay to one that is new,
    # through socketpairs of the supervisor
    # S -> Z -> W, fds: a channel for each of [pair, share of your connections]; give them away there, `step_s` for each
    # answer, no wave begun after `until_s` (CLOCK_MONOTONIC). The last one gets the rest too, unless it says
    # `stays` = True: then who gives goes on with that.
    "GIVE": {"serial": int, "pairs": list, "step_s": float, "until_s": float},
    "TAKE": {"serial": int, "pair": int, "step_s": float, "until_s": float},  # S -> Z -> W, fd: take what comes there
    # W -> Z -> S, of who gives: this pair is over; `refused`: still here, and drains
    "MOVED": {"serial": int, "pair": int, "moved": int, "refused": int, "why": str},
    # W -> Z -> S, of who gives: no answer. `committed`: to COMMIT, so that who takes must be dead before I go on
    "STUCK": {"serial": int, "pair": int, "committed": bool},
    # W -> W, who gives to who takes: [kind, listener, number of descriptors, state], fds in order
    "OFFER": {"wave": int, "last": bool, "records": list},
    "TAKEN": {"wave": int},  # W <- W: this part of the wave is loaded, go on
    "PREPARED": {"wave": int, "refused": list},  # W <- W: the wave is loaded, but for these of its records
    "COMMIT": {"wave": int},  # W -> W: it is yours once you have said so
    "COMMITTED": {"wave": int},  # W <- W: it is mine
    # the end of a generation
    # S -> Z -> W: leave when the last connection is gone, or at this CLOCK_MONOTONIC; 0: only say so (`hotproxy drain`)
    "DRAIN": {"deadline_s": float},
    "UNDRAIN": {},  # S -> Z -> W: answer normally again (`hotproxy drain --undo`)
    "SLOTS": {"slots": int},  # S -> Z: from now on so many
    "RECYCLE": {"slot": int},  # S -> Z: a new process for this slot; the one that is there leaves when it accepts
    "DISMISS": {"serial": int},  # S -> Z: this slot, which leaves, has given away what it could: it drains
    "REOPEN_LOGS": {},  # S -> Z -> W, C
    "PING": {},  # S -> Z: nothing; who does not read it hangs
    # `supervisor.sock`
    "COMMAND": {"verb": str, "arguments": dict},  # U -> S
    "RESULT": {"ok": bool, "reason": str, "data": dict},  # S -> U
    # both ways
    "UNKNOWN": {"kind": str, "why": str},  # the answer to a frame that was refused
}


class FrameError(Exception):
    """A frame that breaks the rules; says which one. The channel stays usable."""


class DescriptorsLost(FrameError):
    """MSG_CTRUNC: the message came without all of its descriptors, and those that did come are closed.

    `fields` is empty where they were in one of them.
    """

    def __init__(self, kind: str, fields: dict[str, Any]) -> None:
        super().__init__(
            f"descriptors of {kind} were lost on the way (MSG_CTRUNC: too many at once, or no free number)"
        )
        self.kind = kind
        self.fields = fields


class ChannelClosed(Exception):
    """The other end is gone (EOF, EPIPE, ECONNRESET)."""


class ChannelFull(Exception):
    """The other end does not read: its socket buffer is full. Nothing was sent."""


class ChannelStarved(ChannelFull):
    """The kernel is out of something that the frame needs: descriptors, memory. Nothing was sent; later it may be."""


@dataclass(slots=True)
class Message:
    """One received frame. Whoever gets it owns `fds`."""

    kind: str
    fields: dict[str, Any]
    fds: list[int] = field(default_factory=list)

    def close_fds(self) -> None:
        while self.fds:
            os.close(self.fds.pop())


def encode(kind: str, fields: Mapping[str, Any]) -> bytes:
    """The frame's bytes, length included; its fields must match `KINDS`."""
    check(kind, fields)
    body: bytes = msgpack.packb({"k": kind, "v": PROTOCOL_VERSION, **fields})
    return _LENGTH.pack(len(body)) + body


def decode(packet: bytes) -> Message:
    """A packet as a message without its descriptors. Raises FrameError."""
    if len(packet) < _LENGTH.size:
        raise FrameError(f"{len(packet)} bytes are no frame" if packet else "an empty packet")
    (length,) = _LENGTH.unpack_from(packet)
    if length != len(packet) - _LENGTH.size:
        raise FrameError(f"the frame says {length} bytes and has {len(packet) - _LENGTH.size}")
    fields = _unpack_map(packet[_LENGTH.size :])
    kind, version = fields.pop("k", None), fields.pop("v", None)
    if not isinstance(kind, str):
        raise FrameError("the frame has no kind")
    if version != PROTOCOL_VERSION:
        raise FrameError(f"{kind} has version {version!r}, this process speaks {PROTOCOL_VERSION}")
    if "memfd" not in fields:
        check(kind, fields)
    return Message(kind, fields)


def check(kind: str, fields: Mapping[str, Any]) -> None:
    """Raises FrameError unless `kind` is known and every field that it must have is there and of its type."""
    wanted = KINDS.get(kind)
    if wanted is None:
        raise FrameError(f"unknown kind {kind[:40]!r}")
    for name, kind_of_field in wanted.items():
        value = fields.get(name)
        if isinstance(value, bool) and kind_of_field is not bool:
            raise FrameError(f"{kind}.{name} is a boolean, not {kind_of_field.__name__}")
        if kind_of_field is float and isinstance(value, int):
            continue
        if not isinstance(value, kind_of_field):
            raise FrameError(f"{kind}.{name} is {type(value).__name__}, not {kind_of_field.__name__}")


def _unpack_map(body: bytes) -> dict[str, Any]:
    try:
        fields = msgpack.unpackb(body)
    except Exception as error:  # msgpack raises a dozen unrelated types, ValueError and RecursionError among them
        raise FrameError(f"not msgpack: {type(error).__name__}: {error}") from None
    if not isinstance(fields, dict) or not all(isinstance(name, str) for name in fields):
        raise FrameError("not a map with text keys")
    return fields


class Channel:
    """One end of a SEQPACKET pair. Never blocks: its owner waits for readability with its own selector or loop."""

    __slots__ = ("sock",)

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        sock.setblocking(False)

    @classmethod
    def pair(cls) -> tuple[Channel, Channel]:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        return cls(ours), cls(theirs)

    def fileno(self) -> int:
        return self.sock.fileno()

    def close(self) -> None:
        self.sock.close()

    def send(self, kind: str, fields: Mapping[str, Any] | None = None, fds: Sequence[int] = ()) -> None:
        """Send one frame; the descriptors stay the caller's own too. Raises ChannelFull or ChannelClosed."""
        if FAULTS_HERE.armed is not None and FAULTS_HERE.strike("send", kind, self.sock):
            return
        fields = fields or {}
        packet = encode(kind, fields)
        if len(packet) <= MAX_FRAME_BYTES:
            self._send(packet, fds)
            return
        body = msgpack.packb(dict(fields))
        memfd = _memfd(f"hotproxy-{kind.lower()}", body)
        try:
            small = msgpack.packb({"k": kind, "v": PROTOCOL_VERSION, "memfd": len(body)})
            self._send(_LENGTH.pack(len(small)) + small, [*fds, memfd])
        finally:
            os.close(memfd)

    def _send(self, packet: bytes, fds: Sequence[int]) -> None:
        if len(fds) > MAX_FDS:
            raise ValueError(f"{len(fds)} descriptors in one frame, at most {MAX_FDS}")
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        try:
            # Not socket.send_fds: it ignores its flags in Python 3.11.
            self.sock.sendmsg([packet], ancillary, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except BlockingIOError:
            raise ChannelFull from None
        except (BrokenPipeError, ConnectionError):
            raise ChannelClosed from None
        except OSError as error:
            if error.errno not in STARVED:
                raise
            raise ChannelStarved from error

    def _receive(self) -> _Received:
        for _ in range(2):
            try:
                return self.sock.recvmsg(MAX_FRAME_BYTES, _FD_SPACE, socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC)
            except ConnectionResetError:
                # The other end was closed with something unread. The kernel says so once, and before it gives out what
                # that end had said (net/core/datagram.c, __skb_try_recv_datagram): a COMMITTED, last words.
                continue
        raise ConnectionResetError

    def receive(self) -> Message | None:
        """The next message; None when there is none yet. Raises ChannelClosed at EOF, FrameError on a bad frame."""
        try:
            packet, ancillary, flags, _ = self._receive()
        except (BlockingIOError, InterruptedError):
            return None
        except ConnectionError:
            raise ChannelClosed from None
        fds = _descriptors(ancillary)
        if not packet and not fds and self._ended():
            raise ChannelClosed
        try:
            if flags & socket.MSG_TRUNC:
                raise FrameError(f"the packet is longer than {MAX_FRAME_BYTES} bytes")
            message = decode(packet)
            if flags & socket.MSG_CTRUNC:
                raise DescriptorsLost(message.kind, {} if "memfd" in message.fields else message.fields)
            if "memfd" in message.fields:
                message.fields = _read_memfd(message.kind, message.fields["memfd"], fds)
        except FrameError:
            for fd in fds:
                os.close(fd)
            raise
        message.fds = fds
        if FAULTS_HERE.armed is not None:
            FAULTS_HERE.strike("receive", message.kind, self.sock)
        return message

    def _ended(self) -> bool:
        """Nothing was received: an end, and no empty packet, which looks the same."""
        poll = select.poll()
        poll.register(self.sock, select.POLLRDHUP)
        return bool(poll.poll(0))


_Received = tuple[bytes, list[tuple[int, int, bytes]], int, object]


def _descriptors(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    fds = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    return list(fds)


def _read_memfd(kind: str, size: object, fds: list[int]) -> dict[str, Any]:
    if not fds or not isinstance(size, int) or not 0 < size <= MAX_MEMFD_BYTES:
        raise FrameError(f"{kind} announces a memfd of {size!r} bytes")
    memfd = fds.pop()
    try:
        body = os.pread(memfd, size, 0)
    except OSError as error:
        raise FrameError(f"the memfd of {kind} can't be read: {error.strerror}") from None
    finally:
        os.close(memfd)
    if len(body) != size:
        raise FrameError(f"the memfd of {kind} has {len(body)} bytes, {size} were announced")
    with no_collections():
        fields = _unpack_map(body)
    check(kind, fields)
    return fields


def _memfd(name: str, data: bytes) -> int:
    """Raises ChannelStarved: no descriptor, no memory."""
    try:
        memfd = os.memfd_create(name, os.MFD_CLOEXEC)
    except OSError as error:
        raise ChannelStarved from error
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(memfd, view) :]
    except OSError as error:
        os.close(memfd)
        raise ChannelStarved from error
    return memfd
