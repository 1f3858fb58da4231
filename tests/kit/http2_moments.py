"""Moments in the life of an HTTP/2 connection, written byte by byte: their records depend on no library."""

from __future__ import annotations

from typing import Final

from hotproxy.http import http2_frames as h2
from tests.kit.http2 import POST_FIELDS, data, headers, preface
from tests.kit.playbook import Playbook, Step

ACK: Final = h2.frame(h2.SETTINGS, h2.ACK, 0)
# RFC 7541 appendix C.4.1 and C.4.2: the second block is read with what the first one has left in the table.
FIRST_BLOCK: Final = bytes.fromhex("828684418cf1e3c2e5f23a6ba0ab90f4ff")
SECOND_BLOCK: Final = bytes.fromhex("828684be5886a8eb10649cbf")
GREETED: Final = preface((h2.SETTINGS_INITIAL_WINDOW_SIZE, 5)) + ACK
ASKED: Final = h2.head_frames(1, FIRST_BLOCK, True)
OPENED: Final = h2.frame(h2.WINDOW_UPDATE, 0, 1, h2.number(1000))
HELLO: Final = b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\nhello, world"

# What is said before, and after.
MOMENTS: Final[dict[str, tuple[tuple[Step, ...], tuple[Step, ...]]]] = {
    "half a preface": ((("down", preface()[:20]),), (("down", preface()[20:] + ASKED), ("origin", HELLO))),
    "greeted": ((("down", GREETED),), (("down", ASKED), ("origin", HELLO), ("down", OPENED))),
    "half a head": (
        (("down", GREETED + h2.frame(h2.HEADERS, h2.END_STREAM, 1, FIRST_BLOCK[:9])),),
        (("down", h2.frame(h2.CONTINUATION, h2.END_HEADERS, 1, FIRST_BLOCK[9:])), ("origin", HELLO), ("down", OPENED)),
    ),
    "waiting": ((("down", GREETED + ASKED),), (("origin", HELLO), ("down", OPENED))),
    "a window that is shut": ((("down", GREETED + ASKED), ("origin", HELLO)), (("down", OPENED),)),
    "several": (
        (
            ("down", GREETED + ASKED + headers(3, POST_FIELDS, end=False) + data(3, b"abc")),
            ("up", HELLO[:-5]),
            ("down", h2.head_frames(5, SECOND_BLOCK, True) + data(3, b"def")[:11]),
        ),
        (
            ("down", data(3, b"def")[11:] + data(3, b"", end=True) + OPENED),
            ("up", HELLO[-5:]),
            ("up2", HELLO),
            ("up3", HELLO),
        ),
    ),
    "leaving": ((("down", GREETED + ASKED), ("drain",)), (("origin", HELLO), ("down", OPENED))),
}


def play(name: str) -> Playbook:
    """A conversation that has come as far."""
    book = Playbook()
    book(*MOMENTS[name][0])
    return book


def play_on(name: str, book: Playbook) -> None:
    for step in MOMENTS[name][1]:
        book(step)
