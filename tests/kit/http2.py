"""A client of HTTP/2 for tests: `h2` where it behaves, and frames made by hand where it does not."""

from __future__ import annotations

from collections.abc import Iterable

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import Event
from hpack import Encoder

from hotproxy.http import http2_frames as h2
from hotproxy.http.hpack_fields import encode_number

GET_FIELDS = [(":method", "GET"), (":scheme", "http"), (":authority", "a.example"), (":path", "/")]
POST_FIELDS = [(":method", "POST"), *GET_FIELDS[1:]]

Fields = Iterable[tuple[bytes | str, bytes | str]]


def client() -> H2Connection:
    """Has sent its preface: `data_to_send()`."""
    connection = H2Connection(H2Configuration(client_side=True, header_encoding="utf-8"))
    connection.initiate_connection()
    return connection


def careless() -> H2Connection:
    """One that sends what its user says."""
    config = H2Configuration(
        client_side=True, validate_outbound_headers=False, normalize_outbound_headers=False, header_encoding=None
    )
    connection = H2Connection(config)
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
