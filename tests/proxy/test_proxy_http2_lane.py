"""Streams that stall, and what that means to the others. Most is also played with a move before each of its steps."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from hotproxy.config.model import DirectResponse, Route
from hotproxy.http import http2_frames as h2
from tests.kit.http2 import GET_FIELDS, POST_FIELDS, headers, preface
from tests.kit.http2_play import ADDED, Http2Play

Start = Callable[..., Http2Play]

OK_HI = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
HI = [("head", [(":status", "200"), *ADDED, ("content-length", "2")]), ("data", b"hi"), ("end",)]
LARGE = 200_000


def of(stream_id: int, told: list[tuple[object, ...]]) -> list[tuple[object, ...]]:
    return [event[1:] for event in told if event[0] == stream_id]


@pytest.fixture(params=[False, True], ids=["", "moving"])
def start(request: pytest.FixtureRequest) -> Start:
    def make(**options: object) -> Http2Play:
        return Http2Play(request.param, **options)

    return make


def test_a_stream_that_is_not_read_stalls_nobody_else(start: Start) -> None:
    play = start()
    play.acknowledges = False
    play.peer.increment_flow_control_window(1 << 24)
    play.get(1)
    play.get(3)
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % LARGE
    told = play(("up", head + bytes(LARGE)))
    assert sum(len(event[1]) for event in of(1, told) if event[0] == "data") == h2.DEFAULT_WINDOW  # type: ignore[arg-type]
    assert not play.play.is_read("up")
    assert of(3, play(("up2", OK_HI))) == HI
    assert 0 < play.play.gauges()["buffered"] < LARGE
    play.peer.increment_flow_control_window(LARGE, 1)
    told = play(("down",))
    assert sum(len(event[1]) for event in of(1, told) if event[0] == "data") == LARGE - h2.DEFAULT_WINDOW  # type: ignore[arg-type]
    assert of(1, told)[-1] == ("end",)
    play.end()


def test_a_socket_that_is_not_read_stops_the_endpoints(start: Start) -> None:
    play = start()
    play.peer.increment_flow_control_window(1 << 24)
    play.peer.update_settings({h2.SETTINGS_INITIAL_WINDOW_SIZE: 1 << 24})  # type: ignore[dict-item]
    play.get(1)
    play(("window", "down", 100_000))
    size = 2_000_000
    told = play(("up", b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + bytes(size)))
    assert not play.play.is_read("up")
    assert play.play.gauges()["buffered"] < 1_000_000
    told += play(("window", "down", None), ("time", 0.1))
    data = b"".join(event[1] for event in of(1, told) if event[0] == "data")  # type: ignore[misc]
    assert len(data) == size and told[-1] == (1, "end")
    play.end()


def test_an_endpoint_that_takes_no_body_shuts_the_window_of_its_stream_alone(start: Start) -> None:
    play = start()
    for stream_id in (1, 3):
        play.peer.send_headers(stream_id, POST_FIELDS)
    play(("down",), ("window", "up", 0))
    sent = 0
    while (room := min(play.peer.local_flow_control_window(1), 16_000)) and sent < 2_000_000:
        play.peer.send_data(1, bytes(room))
        sent += room
        play(("down",))
    assert sent < 700_000  # what may wait for the endpoint, and a window
    play.peer.send_data(3, b"x" * 1000, end_stream=True)
    assert b"x" * 1000 in play(("down",))[0][1]  # type: ignore[operator]
    play(("window", "up", None), ("time", 0.1))
    assert play.peer.local_flow_control_window(1) > 0
    play.end()


def test_answers_of_our_own_wait_for_the_socket_too() -> None:
    """They were all written in one piece, and the connection of whoever had windows for them was closed as a flood."""
    play = Http2Play(routes=[Route(prefix="/", direct_response=DirectResponse(200, "x" * 30_000))])
    play.mute()
    play(("window", "down", 100_000), ("down", preface((h2.SETTINGS_INITIAL_WINDOW_SIZE, 1 << 24))))
    requests = b"".join(headers(2 * number + 1) for number in range(100))
    told = play(("down", h2.frame(h2.WINDOW_UPDATE, 0, 0, h2.number(1 << 24)) + requests))
    assert play.play.manager.connection.pending_bytes < 600_000
    told += play(("window", "down", None), ("time", 0.1))
    assert [event for event in told if event[1:] == ("end",)] == [(2 * n + 1, "end") for n in range(100)]
    play.end()


def test_heads_that_a_slow_reader_has_not_taken_are_no_flood(start: Start) -> None:
    """100 requests at once, to an origin that is fond of cookies: the connection was closed with all of them."""
    play = start()
    play(("down",), ("window", "down", 0))
    for number in range(100):
        play.peer.send_headers(2 * number + 1, GET_FIELDS, end_stream=True)
    play(("down",))
    head = b"HTTP/1.1 204 No Content\r\n" + b"Set-Cookie: %b\r\n" % (b"x" * 4000) * 2 + b"\r\n"
    for number in range(100):
        play((f"up{number + 1}" if number else "up", head))
    told = play(("window", "down", None), ("time", 0.1))
    assert [event for event in told if event[1:] == ("end",)] == [(2 * n + 1, "end") for n in range(100)]
    play.end()
