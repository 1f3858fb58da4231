"""Responses of many streams: what is sent when, to whom, and what waits."""

from __future__ import annotations

import pytest
from h2.events import ResponseReceived, TrailersReceived

from hotproxy.http import http2_frames as h2
from hotproxy.http.codec import HTTP_1_1, ResponseHead
from hotproxy.http.headers import Headers
from hotproxy.http.http2_output import CONNECTION_WINDOW, LEAVING_PING
from hotproxy.http.http2_server import Http2ServerCodec
from tests.kit.http2 import (
    GET_FIELDS,
    MUCH,
    NOW,
    POST_FIELDS,
    client,
    data,
    frames,
    greeted,
    headers,
    moved,
    output,
    response,
    said,
    tell,
)


def test_heads_interim_and_trailers_as_h2_reads_them() -> None:
    peer = client()
    peer.send_headers(1, GET_FIELDS, end_stream=True)
    codec = Http2ServerCodec()
    codec.greet()
    codec.receive(peer.data_to_send(), NOW)
    codec.encode_interim(1, ResponseHead(103, b"Early Hints", HTTP_1_1, Headers([(b"Link", b"</a>")])))
    codec.encode_head(1, response(200, None, (b"X-Large", b"z" * 40_000)))
    assert codec.encode_data(1, b"hi")
    codec.encode_end(1, Headers([(b"X-Sum", b"1")]))
    events = [event for event in peer.receive_data(codec.take_output(MUCH)) if getattr(event, "stream_id", 0)]
    assert said(events) == [
        "InformationalResponseReceived", "ResponseReceived", "DataReceived", "TrailersReceived", "StreamEnded",
    ]  # fmt: skip
    assert isinstance(events[1], ResponseReceived) and isinstance(events[3], TrailersReceived)
    assert events[1].headers == [(":status", "200"), ("x-large", "z" * 40_000)]
    assert events[3].headers == [("x-sum", "1")]


@pytest.mark.parametrize(
    ("method", "head", "frames_sent"),
    [
        ("HEAD", response(200, 5), [h2.HEADERS]), ("GET", response(204), [h2.HEADERS]),
        ("GET", response(304, 5), [h2.HEADERS]), ("GET", response(200, 0), [h2.HEADERS]),
        ("GET", response(200, 2), [h2.HEADERS, h2.DATA]), ("GET", response(200), [h2.HEADERS, h2.DATA, h2.DATA]),
    ],
)  # fmt: skip
def test_the_last_frame_says_that_it_is_the_last(method: str, head: ResponseHead, frames_sent: list[int]) -> None:
    codec = greeted()
    codec.receive(headers(1, [(":method", method), *GET_FIELDS[1:]]), NOW)
    codec.encode_head(1, head)
    assert codec.encode_data(1, b"hi") == (len(frames_sent) > 1)
    codec.encode_end(1)
    sent = output(codec)
    assert [kind for kind, *_ in sent] == frames_sent
    assert [flags & h2.END_STREAM for _, flags, *_ in sent] == [0] * (len(sent) - 1) + [1]
    assert codec.stream_count == 0


def test_a_body_of_another_length_than_announced_is_our_bug() -> None:
    codec = greeted()
    codec.receive(headers(1), NOW)
    codec.encode_head(1, response(200, 5))
    with pytest.raises(ValueError):
        codec.encode_data(1, b"too much")
    with pytest.raises(ValueError):
        codec.encode_end(1)


def test_an_answer_before_the_end_of_the_request_resets_the_rest() -> None:
    codec = greeted()
    codec.receive(headers(1, POST_FIELDS, end=False) + data(1, b"beginning"), NOW)
    codec.encode_head(1, response(200, 0))
    assert [(kind, payload) for kind, _, _, payload in output(codec)][1:] == [(h2.RST_STREAM, h2.number(h2.NO_ERROR))]
    assert codec.receive(data(1, b"rest", end=True), NOW) == [] and output(codec) == []


# -- windows


def test_streams_take_turns_and_a_stalled_one_stalls_nobody() -> None:
    codec = greeted()
    codec.receive(headers(1) + headers(3) + headers(5), NOW)
    codec.receive(h2.frame(h2.WINDOW_UPDATE, 0, 0, h2.number(1 << 20)), NOW)
    codec.choked = True
    for stream_id in (1, 3, 5):
        codec.encode_head(stream_id, response())
        codec.encode_data(stream_id, bytes(80_000 if stream_id == 1 else 40_000))
    codec.choked = False
    sent = [(stream_id, len(payload)) for kind, _, stream_id, payload in output(codec) if kind == h2.DATA]
    assert sent[:6] == [(stream_id, h2.MAX_FRAME_BYTES) for _ in range(2) for stream_id in (1, 3, 5)]
    assert codec.waiting_bytes(1) == 80_000 - h2.DEFAULT_WINDOW  # its window is shut
    assert codec.waiting_bytes(3) == codec.waiting_bytes(5) == 0
    assert set(codec.take_relieved()) == {1, 3, 5}
    codec.encode_end(3)
    codec.encode_end(1)
    assert [stream_id for _, _, stream_id, _ in output(codec)] == [3]
    codec.receive(h2.frame(h2.WINDOW_UPDATE, 0, 1, h2.number(20_000)), NOW)
    assert output(codec)[-1] == (h2.DATA, h2.END_STREAM, 1, bytes(80_000 - h2.DEFAULT_WINDOW))


def test_a_socket_that_takes_little_gets_a_frame_at_a_time() -> None:
    codec = greeted()
    codec.receive(headers(1), NOW)
    codec.choked = True
    codec.encode_head(1, response())
    codec.encode_data(1, bytes(50_000))
    assert len(frames(codec.take_output(1))) == 2  # the head, and a frame
    assert codec.waiting_bytes(1) == 50_000 - h2.MAX_FRAME_BYTES
    assert frames(codec.take_output(0)) == []


def test_a_window_is_given_back_when_the_other_side_takes_what_came() -> None:
    codec = greeted()
    codec.receive(headers(1, POST_FIELDS, end=False) + headers(3, POST_FIELDS, end=False), NOW)
    codec.hold(1)
    codec.receive(data(1, bytes(16_000)) * 3 + data(3, bytes(16_000)) * 3, NOW)
    assert output(codec) == [(h2.WINDOW_UPDATE, 0, 3, h2.number(48_000))]
    codec.release(1)
    assert output(codec) == [(h2.WINDOW_UPDATE, 0, 1, h2.number(48_000))]


def test_the_connections_window_is_given_back_whatever_becomes_of_the_bytes() -> None:
    codec = greeted()
    begun = b"".join(headers(stream_id, POST_FIELDS, end=False) for stream_id in range(1, 40, 2))
    codec.receive(begun, NOW)
    given = 0
    for stream_id in range(1, 40, 2):
        codec.hold(stream_id)
        codec.receive(data(stream_id, bytes(16_000)) * 4, NOW)
        given += sum(
            int.from_bytes(payload, "big") for kind, _, _, payload in output(codec) if kind == h2.WINDOW_UPDATE
        )
    assert given > CONNECTION_WINDOW // 2


def test_a_reset_stream_leaves_nothing_behind() -> None:
    codec = greeted()
    codec.receive(headers(1), NOW)
    codec.encode_head(1, response())
    codec.choked = True
    codec.encode_data(1, bytes(1000))
    codec.reset(1, h2.INTERNAL_ERROR)
    codec.choked = False
    assert output(codec)[1:] == [(h2.RST_STREAM, 0, 1, h2.number(h2.INTERNAL_ERROR))]
    assert not codec.encode_data(1, b"more")
    codec.encode_end(1)
    assert output(codec) == []


# -- leaving


def test_leaving_takes_two_steps_and_loses_nothing() -> None:
    codec = greeted()
    codec.go_away()
    codec.go_away()
    goaway, ping = output(codec)
    assert (goaway[0], goaway[3][:4], ping[0]) == (h2.GOAWAY, h2.number(h2.MAX_STREAM_ID), h2.PING)
    assert tell(codec.receive(headers(1), NOW))[0][:2] == (1, "head")  # was under way
    codec = moved(codec)
    codec.receive(h2.frame(h2.PING, h2.ACK, 0, ping[3]), NOW)
    assert output(codec) == [(h2.GOAWAY, 0, 0, h2.number(1) + h2.number(h2.NO_ERROR))]
    assert codec.receive(headers(3), NOW) == []  # the client knows that nobody looks at it
    assert not codec.is_over
    codec.encode_head(1, response(204))
    assert codec.is_over


def test_a_client_that_leaves_is_over_with_its_last_stream() -> None:
    codec = greeted()
    codec.receive(headers(1) + h2.frame(h2.GOAWAY, 0, 0, bytes(8)), NOW)
    assert not codec.is_over
    codec.encode_head(1, response(204))
    assert codec.is_over


@pytest.mark.parametrize("sent", [0, 1000])
def test_a_window_that_shuts_while_data_waits_for_the_socket(sent: int) -> None:
    """What waited for the socket was sent in spite of the window, in a frame larger than any may be."""
    codec = greeted()
    codec.receive(headers(1), NOW)
    codec.encode_head(1, response())
    codec.encode_data(1, bytes(sent + 1))
    codec.take_output(MUCH)
    codec.choked = True
    codec.encode_data(1, b"x" * 40_000)
    codec.receive(h2.frame(h2.SETTINGS, 0, 0, b"\0\4" + h2.number(1)), NOW)
    codec.choked = False
    assert output(codec) == [(h2.SETTINGS, h2.ACK, 0, b"")] and codec.waiting_total == 40_000
    codec = moved(codec)
    codec.receive(h2.frame(h2.WINDOW_UPDATE, 0, 1, h2.number(sent + 10)), NOW)
    assert output(codec) == [(h2.DATA, 0, 1, b"x" * 10)]


def test_the_last_stream_of_a_goaway_never_grows() -> None:
    """RFC 9113 section 6.8: a client asks elsewhere for what is above it, and may not for what is below."""
    codec = greeted()
    codec.receive(headers(1), NOW)
    codec.go_away()
    codec.receive(h2.frame(h2.PING, h2.ACK, 0, LEAVING_PING), NOW)
    assert codec.receive(headers(3), NOW) == []
    output(codec)
    codec = moved(codec)
    codec.close(h2.NO_ERROR)
    codec.receive(headers(5), NOW)
    assert tell(codec.receive(h2.frame(h2.PING, 0, 1, bytes(8)), NOW)) == [(0, "violation", "http2.ping_of_stream")]
    assert [payload[:4] for kind, _, _, payload in output(codec) if kind == h2.GOAWAY] == [h2.number(1)] * 2
