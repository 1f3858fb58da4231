"""Abuse: legal, cheap to send, dear to handle."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from hotproxy.http import http2_frames as h2
from hotproxy.http.codec import Violation
from hotproxy.http.http2_limits import GLITCH_BURST, RESET_BURST, WINDOW_UPDATES_PER_DATA
from hotproxy.http.http2_server import MAX_SETTINGS, Http2ServerCodec
from tests.kit.http2 import (
    MUCH,
    NOW,
    OPEN,
    POST_FIELDS,
    data,
    frames,
    greeted,
    headers,
    moved,
    output,
    preface,
    response,
)


def _resets(count: int) -> bytes:
    cancel = h2.number(h2.CANCEL)
    return b"".join(headers(2 * n + 1) + h2.frame(h2.RST_STREAM, 0, 2 * n + 1, cancel) for n in range(count))


BURST = int(GLITCH_BURST)
DEAD = headers(1) + h2.frame(h2.RST_STREAM, 0, 1, bytes(4))
UPDATE = h2.frame(h2.WINDOW_UPDATE, 0, 1, h2.number(1))
FLOODS: dict[str, Callable[[int], bytes]] = {
    "ping": lambda n: h2.frame(h2.PING, 0, 0, bytes(8)) * n,
    "ping acknowledgements": lambda n: h2.frame(h2.PING, h2.ACK, 0, bytes(8)) * n,
    "settings": lambda n: h2.frame(h2.SETTINGS, 0, 0) * n,
    "settings acknowledgements": lambda n: h2.frame(h2.SETTINGS, h2.ACK, 0) * n,
    "priority": lambda n: h2.frame(h2.PRIORITY, 0, 3, bytes(5)) * n,
    "unknown frames": lambda n: h2.frame(77, 0, 0) * n,
    "empty data": lambda n: OPEN + data(1, b"") * n,
    "padding": lambda n: OPEN + h2.frame(h2.DATA, h2.PADDED, 1, b"\x01\0") * n,
    "window updates": lambda n: OPEN + UPDATE * (n + WINDOW_UPDATES_PER_DATA),
    "window updates of a dead stream": lambda n: DEAD + UPDATE * (n + WINDOW_UPDATES_PER_DATA),
    "resets of a dead stream": lambda n: DEAD + h2.frame(h2.RST_STREAM, 0, 1, bytes(4)) * n,
    "empty continuations": lambda n: h2.frame(h2.HEADERS, 0, 1) + h2.frame(h2.CONTINUATION, 0, 1) * n,
    "continuations of a byte": lambda n: h2.frame(h2.HEADERS, 0, 1) + h2.frame(h2.CONTINUATION, 0, 1, b"\x82") * n,
    "goaway": lambda n: h2.frame(h2.GOAWAY, 0, 0, bytes(8)) * n,
    "rapid resets": lambda n: _resets(int(RESET_BURST) if n <= BURST else int(RESET_BURST) + 1),
    "data behind the end": lambda n: b"".join(
        headers(2 * i + 1) + data(2 * i + 1, b"x") for i in range(int(RESET_BURST) + (n > BURST))
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FLOODS)
def test_a_flood_ends_with_enhance_your_calm(name: str) -> None:
    flood = FLOODS[name]
    patient, codec = greeted(), greeted()
    assert all(stream_id for stream_id, _ in patient.receive(flood(BURST - 2), NOW)), "within the budget"
    events = codec.receive(flood(BURST + 2), NOW)
    assert events[-1][0] == 0
    kind, _, _, payload = output(codec)[-1]
    assert (kind, payload[4:8]) == (h2.GOAWAY, h2.number(h2.ENHANCE_YOUR_CALM))


def test_a_window_that_is_opened_byte_by_byte() -> None:
    """Each byte would be a frame of ours, and explain ten more window updates."""
    codec = Http2ServerCodec()
    codec.greet()
    codec.receive(preface((h2.SETTINGS_INITIAL_WINDOW_SIZE, 0)) + headers(1), NOW)
    codec.encode_head(1, response())
    codec.encode_data(1, bytes(10_000))
    codec.take_output(MUCH)
    opened = 0
    while not codec.receive(UPDATE, NOW):
        codec.take_output(MUCH)
        opened += 1
    assert BURST <= opened <= BURST + WINDOW_UPDATES_PER_DATA


def test_a_frame_with_too_many_settings() -> None:
    codec = greeted()
    many = b"".join(b"\0\4" + h2.number(size) for size in range(MAX_SETTINGS + 1))
    assert codec.receive(h2.frame(h2.SETTINGS, 0, 0, many[6:]), NOW) == []
    ((stream_id, event),) = codec.receive(h2.frame(h2.SETTINGS, 0, 0, many), NOW)
    assert stream_id == 0 and isinstance(event, Violation) and event.details == "http2.too_many_settings"


def test_malformed_requests_are_resets() -> None:
    """They make us reset their streams, which may be at an endpoint already."""
    codec = greeted()
    said = [
        headers(stream_id, [*POST_FIELDS, ("content-length", "1")], end=False) + data(stream_id, b"ab", end=True)
        for stream_id in range(1, 2 * int(RESET_BURST) + 2, 2)
    ]
    answered = 0
    for stream_id, request in zip(range(1, 10_000, 2), said, strict=False):
        events = codec.receive(request, NOW)
        codec.reset(stream_id, h2.PROTOCOL_ERROR)
        codec.take_output(MUCH)
        answered += bool(events[-1][0])
    assert answered == int(RESET_BURST) and events[-1][0] == 0


@pytest.mark.parametrize("name", ["ping", "settings", "priority", "empty data", "window updates"])
def test_time_fills_the_budget_again(name: str) -> None:
    """The same frames, at a rate that nobody minds, through processes that follow each other."""
    codec = greeted()
    flood = frames(FLOODS[name](3 * BURST))
    for turn, (kind, flags, stream_id, payload) in enumerate(flood):
        assert all(s for s, _ in codec.receive(h2.frame(kind, flags, stream_id, payload), NOW + turn / 100))
        codec.take_output(MUCH)
        if not turn % 500:
            codec = moved(codec)


def test_a_field_section_without_end() -> None:
    codec = greeted()
    sent = h2.frame(h2.HEADERS, 0, 1) + h2.frame(h2.CONTINUATION, 0, 1, bytes(16_000)) * 9
    ((stream_id, event),) = codec.receive(sent, NOW)
    assert stream_id == 0 and isinstance(event, Violation) and event.details == "http2.header_block_too_large"


def test_a_download_pays_for_its_window_updates() -> None:
    codec = greeted()
    codec.receive(headers(1), NOW)
    codec.encode_head(1, response())
    update = h2.frame(h2.WINDOW_UPDATE, 0, 1, h2.number(1000)) + h2.frame(h2.WINDOW_UPDATE, 0, 0, h2.number(1000))
    for _ in range(2 * BURST):
        codec.encode_data(1, bytes(1000))
        codec.take_output(MUCH)
        assert codec.receive(update, NOW) == []
