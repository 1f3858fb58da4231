"""Codecs that move in the middle of everything, and records that are refused."""

from __future__ import annotations

from typing import Any

import pytest
from h2.events import DataReceived, StreamEnded

from hotproxy.http import http2_saved
from hotproxy.http.codec import StreamEvent
from hotproxy.http.http2_output import CONNECTION_WINDOW
from hotproxy.http.http2_server import Http2ServerCodec
from tests.kit.http2 import (
    ANSWERED,
    GET_FIELDS,
    HEARD,
    MUCH,
    NOW,
    OPEN,
    client,
    frames,
    greeted,
    moved,
    recorded,
    response,
    tell,
)


def test_a_move_at_every_byte_changes_nothing() -> None:
    """One process for each byte of the conversation, and nobody can tell."""
    said_by_client = recorded()
    codec = Http2ServerCodec()
    codec.greet()
    events: list[StreamEvent] = []
    sent = codec.take_output(MUCH)
    for byte in said_by_client:
        codec = moved(codec)
        events += codec.receive(bytes((byte,)), NOW)
        sent += codec.take_output(MUCH)
    assert tell(events) == HEARD
    assert frames(sent)[2:] == ANSWERED


def test_responses_that_move_at_every_piece() -> None:
    """Two bodies larger than their windows, and the connection's, to `h2`; each piece by another process."""
    peer = client()
    for stream_id in (1, 3):
        peer.send_headers(stream_id, GET_FIELDS, end_stream=True)
    codec = Http2ServerCodec()
    codec.greet()
    assert [stream for stream, _, *_ in tell(codec.receive(peer.data_to_send(), NOW))] == [1, 1, 3, 3]
    bodies = {1: b"a" * 150_000, 3: b"b" * 120_000}
    got = {1: b"", 3: b""}
    ended = []
    for stream_id, body in bodies.items():
        codec.encode_head(stream_id, response(200, len(body), (b"X-Body", b"%d" % stream_id)))
        codec.encode_data(stream_id, body)
    for _ in range(200):
        sent = codec.take_output(MUCH)
        codec = moved(codec)
        for event in peer.receive_data(sent):
            if isinstance(event, DataReceived):
                got[event.stream_id] += event.data
                peer.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            elif isinstance(event, StreamEnded):
                ended.append(event.stream_id)
        codec.receive(peer.data_to_send(), NOW)
        if len(ended) == 2:
            break
    assert got == bodies
    assert codec.stream_count == 0


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2}, {"kind": "http1_server"}, {"state": 3}, {"last_id": -1}, {"buffer": bytes(20_000)},
        {"section": b"x", "section_stream": 0}, {"queue": [99]}, {"queue": ["1"]}, {"reset_ids": ["1"]},
        {"streams": 1}, {"last_id": 0}, {"more": 1}, {"receive_window": CONNECTION_WINDOW + 1}, {"leaving": 3},
    ],
)  # fmt: skip
def test_a_record_of_another_shape_is_refused(change: dict[str, object]) -> None:
    codec = greeted()
    codec.receive(OPEN, NOW)
    record = http2_saved.dump(codec)
    http2_saved.load(record)
    with pytest.raises(ValueError):
        http2_saved.load(record | change)


@pytest.mark.parametrize(
    "change",
    [
        {"id": 2}, {"pending": b"x"}, {"ending": True}, {"owed_window": 70_000}, {"remote_ended": True, "remaining": 5},
        {"more": 1}, {"held": 1},
    ],
)  # fmt: skip
def test_a_stream_of_another_shape_is_refused(change: dict[str, object]) -> None:
    codec = greeted()
    codec.receive(OPEN, NOW)
    record: Any = http2_saved.dump(codec)
    record["streams"][0] |= change
    with pytest.raises(ValueError):
        http2_saved.load(record)


def test_twice_the_same_stream_is_refused() -> None:
    codec = greeted()
    codec.receive(OPEN, NOW)
    record: Any = http2_saved.dump(codec)
    with pytest.raises(ValueError):
        http2_saved.load(record | {"streams": record["streams"] * 2})
