"""Which messages of a supervisor make sense, looked at before anything is done: a zygote that dies of one takes its
generation's future with it. The types of fields are checked by `restarter/frames.py` already."""

from __future__ import annotations

import socket
from typing import Any, Final

from hotproxy.restarter.frames import FrameError, Message
from hotproxy.restarter.hello import MAX_SLOTS, NO_LIMIT_S

# How a message names a socket, and how it describes one that comes with it.
_NAME: Final = (str, int, int)
_SOCKET: Final = (*_NAME, bool, bool)
_INODE: Final = (int, int)


def check(message: Message) -> None:
    """Raises FrameError for what nobody can have meant."""
    kind, fields = message.kind, message.fields
    if kind == "SLOTS" and not 1 <= fields["slots"] <= MAX_SLOTS:
        raise FrameError(f"{fields['slots']} slots, 1 to {MAX_SLOTS} are possible")
    # CLOCK_MONOTONIC is the machine's age: "no limit" is added to a few years of it.
    if kind == "DRAIN" and not 0.0 <= fields["deadline_s"] <= 10 * NO_LIMIT_S:
        raise FrameError(f"{fields['deadline_s']} is no deadline")
    if kind == "SHUT":
        _check_shape(fields["sockets"], _NAME)


def check_sockets(message: Message) -> None:
    """Of SOCKETS and ADOPT. Raises FrameError: a socket that nobody accepts on would be a black hole."""
    wires = message.fields["sockets"]
    if len(wires) != len(message.fds):
        raise FrameError(f"{len(message.fds)} descriptors came for {len(wires)} sockets")
    _check_shape(wires, _SOCKET)
    _check_shape(message.fields.get("inodes", []), _INODE)
    for fd in message.fds:
        try:
            sock = socket.socket(fileno=fd)
        except OSError:
            raise FrameError("a descriptor is no socket") from None
        kind = sock.type
        sock.detach()  # it is still the message's
        if kind != socket.SOCK_STREAM:
            raise FrameError("a descriptor is no stream socket")


def _check_shape(wires: Any, shape: tuple[type, ...]) -> None:
    for wire in wires if isinstance(wires, list) else [wires]:
        if not isinstance(wire, list) or [type(value) for value in wire[: len(shape)]] != list(shape):
            raise FrameError(f"{wire!r:.80} does not name a socket")
