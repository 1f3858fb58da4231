"""A client of HTTP/2 for tests: `h2` where it behaves, and frames made by hand where it does not."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgpack
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import Event
from hpack import Encoder

from hotproxy.http import http2_frames as h2
from hotproxy.http import http2_saved
from hotproxy.http.codec import (
    CHUNKED,
    HTTP_1_1,
    LENGTH,
    NO_BODY,
    Data,
    End,
    RequestHead,
    Reset,
    ResponseHead,
    StreamEvent,
    Trailers,
)
from hotproxy.http.headers import Headers
from hotproxy.http.hpack_fields import encode_number
from hotproxy.http.http2_server import Http2ServerCodec

GET_FIELDS = [(":method", "GET"), (":scheme", "http"), (":authority", "a.example"), (":path", "/")]
POST_FIELDS = [(":method", "POST"), *GET_FIELDS[1:]]

# More than any window.
MUCH = 1 << 30
NOW = 1000.0

Fields = Iterable[tuple[bytes | str, bytes | str]]


def client() -> H2Connection:
    """Has sent its preface: `data_to_send()`."""
    connection = H2Connection(H2Configuration(client_side=True, header_encoding="utf-8"))
    connection.initiate_connection()
    return connection


def preface(*settings: tuple[int, int]) -> bytes:
    """What a client says first."""
    payload = b"".join(kind.to_bytes(2, "big") + value.to_bytes(4, "big") for kind, value in settings)
    return h2.PREFACE + h2.frame(h2.SETTINGS, 0, 0, payload)


def block(fields: Fields) -> bytes:
    """Literals only, names as they are spelled: says the same whatever came before it."""
    return b"".join([b"\0" + _text(name) + _text(value) for name, value in fields])


def headers(stream_id: int, fields: Fields = GET_FIELDS, end: bool = True) -> bytes:
    """A HEADERS frame, whatever is in it."""
    return h2.head_frames(stream_id, block(fields), end)


def data(stream_id: int, payload: bytes, end: bool = False) -> bytes:
    return h2.frame(h2.DATA, h2.END_STREAM if end else 0, stream_id, payload)


def indexed(encoder: Encoder, stream_id: int, fields: Fields, end: bool = True) -> bytes:
    """A HEADERS frame by an encoder with a dynamic table."""
    flags = h2.END_HEADERS | (h2.END_STREAM if end else 0)
    return h2.frame(h2.HEADERS, flags, stream_id, encoder.encode(list(fields)))


def frames(data: bytes) -> list[tuple[int, int, int, bytes]]:
    """(kind, flags, stream, payload) of whole frames."""
    found = []
    at = 0
    while at < len(data):
        length = int.from_bytes(data[at : at + 3], "big")
        stream_id = int.from_bytes(data[at + 5 : at + 9], "big")
        found.append((data[at + 3], data[at + 4], stream_id, data[at + 9 : at + 9 + length]))
        assert at + 9 + length <= len(data), "a frame is cut short"
        at += 9 + length
    return found


def said(events: Iterable[Event]) -> list[str]:
    """The names of h2's events."""
    return [type(event).__name__ for event in events]


def _text(text: bytes | str) -> bytes:
    raw = text.encode("latin-1") if isinstance(text, str) else text
    return encode_number(len(raw), 0x7F, 0) + raw


# -- a codec and what it says


def moved(codec: Http2ServerCodec) -> Http2ServerCodec:
    return http2_saved.load(msgpack.unpackb(msgpack.packb(http2_saved.dump(codec))))


def tell(events: list[StreamEvent]) -> list[tuple[Any, ...]]:
    """Events as values that can be compared; data of neighbours joined."""
    told: list[tuple[Any, ...]] = []
    for stream_id, event in events:
        if isinstance(event, RequestHead):
            told.append((stream_id, "head", event.method, event.target, event.framing, list(event.headers)))
        elif isinstance(event, Data):
            if told and told[-1][:2] == (stream_id, "data"):
                told[-1] = (stream_id, "data", told[-1][2] + event.data)
            else:
                told.append((stream_id, "data", event.data))
        elif isinstance(event, Trailers):
            told.append((stream_id, "trailers", list(event.headers)))
        elif isinstance(event, End):
            told.append((stream_id, "end"))
        elif isinstance(event, Reset):
            told.append((stream_id, "reset", event.details))
        else:
            told.append((stream_id, "violation", event.details))
    return told


def response(status: int = 200, length: int | None = None, *fields: tuple[bytes, bytes]) -> ResponseHead:
    framing = CHUNKED if length is None else LENGTH
    return ResponseHead(status, b"", HTTP_1_1, Headers(fields), framing, length or 0)


def greeted() -> Http2ServerCodec:
    """After the exchange of SETTINGS."""
    codec = Http2ServerCodec()
    codec.greet()
    assert codec.receive(preface() + h2.frame(h2.SETTINGS, h2.ACK, 0), NOW) == []
    codec.take_output(MUCH)
    assert codec.is_greeted
    return codec


def output(codec: Http2ServerCodec) -> list[tuple[int, int, int, bytes]]:
    return frames(codec.take_output(MUCH))


# -- what a client says that gets, posts, gives up and changes its mind

OPEN = headers(1, POST_FIELDS, end=False)


def recorded() -> bytes:
    """What a client says that gets, posts with trailers in pieces, gives up, pings and changes its mind."""
    encoder = Encoder()
    return b"".join([
        preface((h2.SETTINGS_INITIAL_WINDOW_SIZE, 100_000)),
        h2.frame(h2.SETTINGS, h2.ACK, 0),
        indexed(encoder, 1, [*GET_FIELDS, ("user-agent", "test"), ("cookie", "a=1"), ("cookie", "b=2")]),
        indexed(encoder, 3, [*POST_FIELDS, ("user-agent", "test"), ("x-long", "y" * 300)], end=False),
        data(3, b"hello "),
        h2.frame(h2.PING, 0, 0, b"12345678"),
        indexed(encoder, 5, [*GET_FIELDS, ("user-agent", "test")]),
        h2.frame(h2.DATA, h2.PADDED, 3, b"\x05world\0\0\0\0\0"),
        h2.frame(h2.RST_STREAM, 0, 5, h2.number(h2.CANCEL)),
        h2.frame(h2.WINDOW_UPDATE, 0, 0, h2.number(10_000)),
        h2.frame(h2.SETTINGS, 0, 0, b"\0\4" + h2.number(50)),
        h2.frame(h2.PRIORITY, 0, 9, b"\0\0\0\0\1"),
        h2.frame(99, 7, 3, b"unknown"),
        indexed(encoder, 3, [("x-sum", "1")]),
        *(h2.frame(kind, flags, 7, part) for kind, flags, part in _split(encoder.encode(GET_FIELDS))),
    ])  # fmt: skip


def _split(section: bytes) -> list[tuple[int, int, bytes]]:
    return [
        (h2.HEADERS, h2.END_STREAM, section[:2]),
        (h2.CONTINUATION, 0, section[2:3]),
        (h2.CONTINUATION, h2.END_HEADERS, section[3:]),
    ]


HOST = (b"host", b"a.example")
AGENT = (b"user-agent", b"test")
HEARD = [
    (1, "head", b"GET", b"/", NO_BODY, [HOST, AGENT, (b"cookie", b"a=1; b=2")]),
    (1, "end"),
    (3, "head", b"POST", b"/", CHUNKED, [HOST, AGENT, (b"x-long", b"y" * 300)]),
    (3, "data", b"hello "),
    (5, "head", b"GET", b"/", NO_BODY, [HOST, AGENT]),
    (5, "end"),
    (3, "data", b"world"),
    (5, "reset", ""),
    (3, "trailers", [(b"x-sum", b"1")]),
    (3, "end"),
    (7, "head", b"GET", b"/", NO_BODY, [HOST]),
    (7, "end"),
]
ANSWERED = [
    (h2.SETTINGS, h2.ACK, 0, b""), (h2.PING, h2.ACK, 0, b"12345678"), (h2.SETTINGS, h2.ACK, 0, b""),
]  # fmt: skip
