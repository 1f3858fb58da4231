"""Messages that a zygote does not obey: each of these ended it, and with it all that it could still have forked."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from hotproxy.restarter.frames import FrameError, Message
from hotproxy.zygote.messages import check, check_sockets

SOUND = ["a", 0, 1, True, False]


@pytest.fixture
def fds() -> Iterator[dict[str, int]]:
    """One of each sort."""
    pipe, (seqpacket, other) = os.pipe(), socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with socket.socket() as stream, seqpacket, other:
        yield {"stream": stream.fileno(), "channel": seqpacket.fileno(), "pipe": pipe[0]}
    for fd in pipe:
        os.close(fd)


@pytest.mark.parametrize(
    ("kind", "fields", "why"),
    [
        ("SLOTS", {"slots": 0}, "0 slots"),
        ("SLOTS", {"slots": 1 << 40}, "1099511627776 slots"),
        ("DRAIN", {"deadline_s": float("nan")}, "nan is no deadline"),
        ("DRAIN", {"deadline_s": float("inf")}, "inf is no deadline"),
        ("DRAIN", {"deadline_s": -1.0}, "-1.0 is no deadline"),
        ("SHUT", {"sockets": [7]}, "7 does not name a socket"),
        ("SHUT", {"sockets": [["a", "0", 1]]}, "does not name a socket"),
        ("SHUT", {"sockets": [SOUND, ["a", 0]]}, "does not name a socket"),
    ],
)
def test_messages_that_nobody_can_have_meant(kind: str, fields: dict[str, object], why: str) -> None:
    with pytest.raises(FrameError, match=why):
        check(Message(kind, fields))


@pytest.mark.parametrize(
    ("wires", "sorts", "why"),
    [
        ([SOUND], [], "0 descriptors came for 1 sockets"),
        ([SOUND], ["stream", "stream"], "2 descriptors came for 1 sockets"),
        ([["a", 0, 1]], ["stream"], "does not name a socket"),
        ([SOUND], ["pipe"], "no socket"),
        ([SOUND, SOUND], ["stream", "channel"], "no stream socket"),
    ],
)
def test_sockets_that_are_none(fds: dict[str, int], wires: list[object], sorts: list[str], why: str) -> None:
    message = Message("SOCKETS", {"sockets": wires, "last": True}, [fds[sort] for sort in sorts])
    with pytest.raises(FrameError, match=why):
        check_sockets(message)
    assert len(message.fds) == len(sorts), "they are still the message's, which closes them"


def test_a_newer_supervisor_may_say_more(fds: dict[str, int]) -> None:
    message = Message("ADOPT", {"sockets": [[*SOUND, "colour"]]}, [fds["stream"]])
    check_sockets(message)
    os.fstat(message.fds[0])
    check(Message("SHUT", {"sockets": [[*SOUND, "colour"]]}))
    check(Message("DRAIN", {"deadline_s": 0.0}))
    check(Message("SLOTS", {"slots": 1024}))
