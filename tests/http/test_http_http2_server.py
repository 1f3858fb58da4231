"""HTTP/2 towards clients: conversations, and what is done to those who break the rules."""

from __future__ import annotations

import pytest
from hpack import Encoder

from hotproxy.http import http2_frames as h2
from hotproxy.http import http2_saved
from hotproxy.http.codec import StreamEvent, Violation
from hotproxy.http.http2_output import MAX_STREAMS
from hotproxy.http.http2_server import Http2ServerCodec
from tests.kit.http2 import (
    ANSWERED,
    GET_FIELDS,
    HEARD,
    NOW,
    OPEN,
    POST_FIELDS,
    data,
    greeted,
    headers,
    indexed,
    output,
    recorded,
    response,
    tell,
)


def test_a_conversation_whole_and_byte_by_byte() -> None:
    said_by_client = recorded()
    whole, single = Http2ServerCodec(), Http2ServerCodec()
    assert tell(whole.receive(said_by_client, NOW)) == HEARD
    events: list[StreamEvent] = []
    for byte in said_by_client:
        events += single.receive(bytes((byte,)), NOW)
    assert tell(events) == HEARD
    assert output(whole) == output(single) == ANSWERED
    assert http2_saved.dump(whole) == http2_saved.dump(single)


# -- those who break the rules

CONNECTION_ERRORS: dict[str, tuple[bytes, int]] = {
    "a frame too large": (h2.frame(h2.DATA, 0, 1, bytes(16_385)), h2.FRAME_SIZE_ERROR),
    "data of stream 0": (data(0, b"x"), h2.PROTOCOL_ERROR),
    "data of an idle stream": (data(1, b"x"), h2.PROTOCOL_ERROR),
    "data of a server's stream": (OPEN + data(2, b"x"), h2.PROTOCOL_ERROR),
    "data with too much padding": (OPEN + h2.frame(h2.DATA, h2.PADDED, 1, b"\x05abcd"), h2.PROTOCOL_ERROR),
    "data without its padding's length": (OPEN + h2.frame(h2.DATA, h2.PADDED, 1), h2.PROTOCOL_ERROR),
    "headers of stream 0": (headers(0), h2.PROTOCOL_ERROR),
    "headers of a server's stream": (headers(2), h2.PROTOCOL_ERROR),
    "headers with too much padding": (h2.frame(h2.HEADERS, h2.PADDED | 4, 1, b"\x05abcd"), h2.PROTOCOL_ERROR),
    "headers without their priority": (h2.frame(h2.HEADERS, h2.PRIORITIZED | 4, 1, b"abcd"), h2.PROTOCOL_ERROR),
    "an earlier stream": (headers(3) + headers(1), h2.STREAM_CLOSED),
    "a broken block": (h2.frame(h2.HEADERS, 4, 1, b"\xff\xff\xff\xff\xff\xff"), h2.COMPRESSION_ERROR),
    "a block interrupted by data": (OPEN + h2.frame(h2.HEADERS, 0, 3) + data(1, b"x"), h2.PROTOCOL_ERROR),
    "a block interrupted by a ping": (
        h2.frame(h2.HEADERS, 0, 1) + h2.frame(h2.PING, 0, 0, bytes(8)), h2.PROTOCOL_ERROR,
    ),
    "a block of another stream": (h2.frame(h2.HEADERS, 0, 1) + h2.frame(h2.CONTINUATION, 4, 3), h2.PROTOCOL_ERROR),
    "a block continued by nobody": (h2.frame(h2.CONTINUATION, 4, 1), h2.PROTOCOL_ERROR),
    "a block continued behind its end": (headers(1) + h2.frame(h2.CONTINUATION, 4, 1), h2.PROTOCOL_ERROR),
    "a priority of stream 0": (h2.frame(h2.PRIORITY, 0, 0, bytes(5)), h2.PROTOCOL_ERROR),
    "a short priority": (h2.frame(h2.PRIORITY, 0, 1, bytes(4)), h2.FRAME_SIZE_ERROR),
    "a reset of stream 0": (h2.frame(h2.RST_STREAM, 0, 0, bytes(4)), h2.PROTOCOL_ERROR),
    "a reset of an idle stream": (h2.frame(h2.RST_STREAM, 0, 1, bytes(4)), h2.PROTOCOL_ERROR),
    "a short reset": (OPEN + h2.frame(h2.RST_STREAM, 0, 1, bytes(3)), h2.FRAME_SIZE_ERROR),
    "settings of a stream": (h2.frame(h2.SETTINGS, 0, 1), h2.PROTOCOL_ERROR),
    "settings cut short": (h2.frame(h2.SETTINGS, 0, 0, bytes(5)), h2.FRAME_SIZE_ERROR),
    "an acknowledgement with settings": (h2.frame(h2.SETTINGS, h2.ACK, 0, bytes(6)), h2.FRAME_SIZE_ERROR),
    "a push setting of 2": (h2.frame(h2.SETTINGS, 0, 0, b"\0\2" + h2.number(2)), h2.PROTOCOL_ERROR),
    "a window setting too large": (h2.frame(h2.SETTINGS, 0, 0, b"\0\4" + h2.number(1 << 31)), h2.FLOW_CONTROL_ERROR),
    "a frame size too small": (h2.frame(h2.SETTINGS, 0, 0, b"\0\5" + h2.number(16_383)), h2.PROTOCOL_ERROR),
    "a frame size too large": (h2.frame(h2.SETTINGS, 0, 0, b"\0\5" + h2.number(1 << 24)), h2.PROTOCOL_ERROR),
    "a promise": (h2.frame(h2.PUSH_PROMISE, 4, 1, bytes(4)), h2.PROTOCOL_ERROR),
    "a ping of a stream": (h2.frame(h2.PING, 0, 1, bytes(8)), h2.PROTOCOL_ERROR),
    "a short ping": (h2.frame(h2.PING, 0, 0, bytes(7)), h2.FRAME_SIZE_ERROR),
    "a goaway of a stream": (h2.frame(h2.GOAWAY, 0, 1, bytes(8)), h2.PROTOCOL_ERROR),
    "a short goaway": (h2.frame(h2.GOAWAY, 0, 0, bytes(7)), h2.FRAME_SIZE_ERROR),
    "a short window update": (h2.frame(h2.WINDOW_UPDATE, 0, 0, bytes(3)), h2.FRAME_SIZE_ERROR),
    "a window update of an idle stream": (h2.frame(h2.WINDOW_UPDATE, 0, 1, h2.number(1)), h2.PROTOCOL_ERROR),
    "a window update of nothing": (h2.frame(h2.WINDOW_UPDATE, 0, 0, h2.number(0)), h2.PROTOCOL_ERROR),
    "a window too large": (h2.frame(h2.WINDOW_UPDATE, 0, 0, h2.number(h2.MAX_WINDOW)), h2.FLOW_CONTROL_ERROR),
    "windows made too large": (
        OPEN + h2.frame(h2.WINDOW_UPDATE, 0, 1, h2.number(h2.MAX_WINDOW - 70_000))
        + h2.frame(h2.SETTINGS, 0, 0, b"\0\4" + h2.number(100_000)),
        h2.FLOW_CONTROL_ERROR,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CONNECTION_ERRORS)
def test_a_connection_error(name: str) -> None:
    sent, code = CONNECTION_ERRORS[name]
    codec = greeted()
    events = codec.receive(sent + headers(9), NOW)
    assert events[-1][0] == 0 and isinstance(events[-1][1], Violation)
    kind, _, stream_id, payload = output(codec)[-1]
    assert (kind, stream_id, payload[4:8]) == (h2.GOAWAY, 0, h2.number(code))
    assert payload[8:].decode() == events[-1][1].details
    assert codec.receive(headers(11), NOW) == []


@pytest.mark.parametrize(
    "sent",
    [
        b"GET / HTTP/1.1\r\n\r\n", h2.PREFACE[:-1] + b"x", h2.PREFACE + headers(1),
        h2.PREFACE + h2.frame(h2.SETTINGS, h2.ACK, 0), h2.PREFACE + h2.frame(h2.PING, 0, 0, bytes(8)),
    ],
    ids=["HTTP/1", "another preface", "a request first", "an acknowledgement first", "a ping first"],
)  # fmt: skip
def test_a_client_that_does_not_begin_as_it_must(sent: bytes) -> None:
    codec = Http2ServerCodec()
    ((stream_id, event),) = codec.receive(sent, NOW)
    assert stream_id == 0 and isinstance(event, Violation)
    assert output(codec)[-1][3][4:8] == h2.number(h2.PROTOCOL_ERROR)


STREAM_ERRORS: dict[str, tuple[bytes, int]] = {
    "data behind the end": (headers(1) + data(1, b"x"), h2.STREAM_CLOSED),
    "headers behind the end": (headers(1) + headers(1), h2.STREAM_CLOSED),
    "a window update of nothing": (OPEN + h2.frame(h2.WINDOW_UPDATE, 0, 1, h2.number(0)), h2.PROTOCOL_ERROR),
    "a window too large": (OPEN + h2.frame(h2.WINDOW_UPDATE, 0, 1, h2.number(h2.MAX_WINDOW)), h2.FLOW_CONTROL_ERROR),
}


@pytest.mark.parametrize("name", STREAM_ERRORS)
def test_a_stream_error(name: str) -> None:
    sent, code = STREAM_ERRORS[name]
    codec = greeted()
    told = tell(codec.receive(sent + headers(9), NOW))
    assert [event[:2] for event in told[-3:]] == [(1, "reset"), (9, "head"), (9, "end")]
    assert (h2.RST_STREAM, 0, 1, h2.number(code)) in output(codec)
    assert codec.stream_count == 1


def test_more_than_the_window_lets_through() -> None:
    codec = greeted()
    codec.receive(OPEN, NOW)
    codec.hold(1)
    told = tell(codec.receive(data(1, bytes(16_384)) * 4, NOW))
    assert told[-1] == (1, "reset", "http2.window_exceeded")


THREE = headers(1, [*POST_FIELDS, ("content-length", "3")], end=False)


@pytest.mark.parametrize(
    ("sent", "details"),
    [
        (THREE + data(1, b"abcd"), "content_length_mismatch"),
        (THREE + data(1, b"ab", True), "content_length_mismatch"),
        (
            THREE + data(1, b"ab") + headers(1, [("x", "y")]),
            "content_length_mismatch",
        ),
        (OPEN + headers(1, [("x", "y")], end=False), "trailers_without_end"),
        (OPEN + headers(1, GET_FIELDS), "pseudo_header_in_trailers"),
        (headers(1, [*GET_FIELDS, ("Upper", "")], end=False), "uppercase_field_name"),
        (headers(1, [*GET_FIELDS, ("x", "y" * 66_000)]), "header_list_too_large"),
        (OPEN + headers(1, [("x", "y" * 66_000)]), "trailers_too_large"),
    ],
)  # fmt: skip
def test_a_malformed_request_is_answered_and_its_rest_thrown_away(sent: bytes, details: str) -> None:
    codec = greeted()
    told = tell(codec.receive(sent, NOW))
    assert told[-1] == (1, "violation", f"http2.{details}")
    if codec._streams[1].remote_ended:
        return
    assert codec.receive(data(1, b"more") + headers(1, [("x", "y")]), NOW) == []
    codec.encode_head(1, response(400, 0))
    assert output(codec)[-1] == (h2.RST_STREAM, 0, 1, h2.number(h2.PROTOCOL_ERROR))


def test_a_head_request_that_is_refused_is_answered_without_a_body() -> None:
    """RFC 9110 section 9.3.2. A client that gets one takes it for an error, and never sees the status."""
    codec = greeted()
    codec.receive(headers(1, [(":method", "HEAD"), *GET_FIELDS[1:], ("x", "y" * 66_000)]), NOW)
    codec.encode_head(1, response(431, 5))
    assert not codec.encode_data(1, b"large")
    assert [(kind, flags & h2.END_STREAM) for kind, flags, *_ in output(codec)] == [(h2.HEADERS, h2.END_STREAM)]


def test_more_streams_than_announced_are_refused_and_the_table_stays_right() -> None:
    encoder = Encoder()
    codec = greeted()
    begun = [indexed(encoder, 2 * n + 1, [*GET_FIELDS, ("x-n", str(n))]) for n in range(MAX_STREAMS + 3)]
    told = tell(codec.receive(b"".join(begun), NOW))
    assert len([event for event in told if event[1] == "head"]) == MAX_STREAMS
    refused = [frame for frame in output(codec) if frame[0] == h2.RST_STREAM]
    assert [frame[3] for frame in refused] == [h2.number(h2.REFUSED_STREAM)] * 3
    codec.encode_head(1, response(204))
    told = tell(codec.receive(indexed(encoder, 999, [*GET_FIELDS, ("x-n", str(MAX_STREAMS + 1))]), NOW))
    assert told[0][5][-1] == (b"x-n", b"%d" % (MAX_STREAMS + 1))
