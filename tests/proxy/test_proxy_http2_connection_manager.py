"""HTTP/2 connections: many streams, each with its own fate. Every conversation is also played with a move to another
process before each of its steps.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from hotproxy.config.model import DirectResponse, Route
from hotproxy.errors import DRAIN_DEADLINE
from hotproxy.http import http2_frames as h2
from hotproxy.net.connection import FLUSH_S
from hotproxy.net.proxy_protocol import Announced
from tests.kit.http2 import GET_FIELDS, POST_FIELDS, frames, headers, preface
from tests.kit.http2_play import ADDED, Http2Play
from tests.kit.playbook import EOF, REFUSED, RESET, Playbook

Start = Callable[..., Http2Play]

OK_HI = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
HI = [("head", [(":status", "200"), *ADDED, ("content-length", "2")]), ("data", b"hi"), ("end",)]


def forwarded(line: str = "GET /", rest: str = "") -> bytes:
    added = "x-forwarded-for: 10.1.1.1\r\nx-forwarded-proto: http\r\nx-request-id: 00000000-0000-4000-8000-000000000000"
    return f"{line} HTTP/1.1\r\nhost: a.example\r\n{added}\r\nvia: 2 hotproxy\r\n{rest}\r\n".encode()


def of(stream_id: int, told: list[tuple[object, ...]]) -> list[tuple[object, ...]]:
    return [event[1:] for event in told if event[0] == stream_id]


@pytest.fixture(params=[False, True], ids=["", "moving"])
def start(request: pytest.FixtureRequest) -> Start:
    def make(**options: object) -> Http2Play:
        return Http2Play(request.param, **options)

    return make


# -- exchanges


def test_a_request_and_its_answer(start: Start) -> None:
    play = start()
    assert play.get(1) == [("up", forwarded())]
    assert of(1, play(("up", OK_HI))) == HI
    info = play.play.log.infos[0]
    assert (info.protocol, info.status, info.rx_bytes, info.tx_bytes) == ("HTTP/2", 200, 0, 2)
    play.end()
    assert play.play.count("http.web.downstream_cx_http2_total") == 1
    assert play.play.count("http.web.downstream_rq_http2_total") == 1


def test_a_body_in_pieces_trailers_and_an_answer_with_trailers(start: Start) -> None:
    play = start()
    play.peer.send_headers(1, [*POST_FIELDS, ("te", "trailers")])
    play.peer.send_data(1, b"ab")
    rest = "Transfer-Encoding: chunked\r\nConnection: TE\r\n"
    assert play(("down",)) == [
        ("up", forwarded("POST /").replace(b"a.example\r\n", b"a.example\r\nte: trailers\r\n").removesuffix(b"\r\n")
         + rest.encode() + b"\r\n2\r\nab\r\n"),
    ]  # fmt: skip
    play.peer.send_data(1, b"c")
    assert play(("down",)) == [("up", b"1\r\nc\r\n")]
    play.peer.send_headers(1, [("x-sum", "1")], end_stream=True)
    assert play(("down",)) == [("up", b"0\r\nx-sum: 1\r\n\r\n")]
    told = play(("up", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nX-Sum: 2\r\n\r\n"))
    assert of(1, told) == [
        ("head", [(":status", "200"), *ADDED]), ("data", b"hi"), ("trailers", [("x-sum", "2")]), ("end",),
    ]  # fmt: skip
    play.end()


@pytest.mark.parametrize(
    ("method", "answer", "events"),
    [
        ("HEAD", b"200 OK\r\nContent-Length: 9", [(":status", "200"), *ADDED, ("content-length", "9")]),
        ("GET", b"304 Not Modified\r\nContent-Length: 9", [(":status", "304"), *ADDED, ("content-length", "9")]),
        ("GET", b"204 No Content", [(":status", "204"), *ADDED]),
    ],
)
def test_answers_without_a_body(start: Start, method: str, answer: bytes, events: list[object]) -> None:
    play = start()
    play.peer.send_headers(1, [(":method", method), *GET_FIELDS[1:]], end_stream=True)
    play(("down",))
    assert of(1, play(("up", b"HTTP/1.1 " + answer + b"\r\n\r\n"))) == [("head", events), ("end",)]
    play.end()


def test_interim_answers_go_on(start: Start) -> None:
    play = start()
    play.peer.send_headers(1, [*POST_FIELDS, ("expect", "100-continue"), ("content-length", "2")])
    assert b"expect: 100-continue" in play(("down",))[0][1]  # type: ignore[operator]
    told = play(("up", b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"))
    assert of(1, told) == [("interim", [(":status", "100")]), ("interim", [(":status", "103"), ("link", "</a>")])]
    play.peer.send_data(1, b"ab", end_stream=True)
    assert play(("down",)) == [("up", b"ab")]
    assert of(1, play(("up", OK_HI))) == HI
    play.end()


def test_what_belongs_to_an_http1_connection_stays_there(start: Start) -> None:
    play = start()
    play.get(1)
    told = play(
        ("up", b"HTTP/1.1 200 OK\r\nConnection: close, X-Hop\r\nX-Hop: 1\r\nKeep-Alive: 5\r\nX-UP: 1\r\n\r\nhi")
    )
    told += play(("up", EOF))
    assert of(1, told)[0] == ("head", [(":status", "200"), ("x-up", "1"), *ADDED])
    assert of(1, told)[1:] == [("data", b"hi"), ("end",)]
    play.end()


def test_answers_come_in_any_order(start: Start) -> None:
    play = start()
    for stream_id in (1, 3, 5):
        play.get(stream_id, f"/{stream_id}")
    answer = "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{}"
    told = []
    for name, number in (("up3", 5), ("up", 1), ("up2", 3)):
        told += play((name, answer.format(number).encode()))
    assert [event for event in told if event[1] == "data"] == [(n, "data", b"%d" % n) for n in (5, 1, 3)]
    assert play.get(7) == [("up2", forwarded())]  # the connection used last
    play.end()


def test_streams_follow_one_another_on_the_same_lane() -> None:
    play = Http2Play()
    for stream_id in range(1, 41, 2):
        play.get(stream_id)
        assert of(stream_id, play(("up", OK_HI))) == HI
    manager = play.play.manager
    assert len(manager._free) == 1 and not manager.lanes  # type: ignore[union-attr]
    play.end()


def test_bytes_that_come_one_by_one() -> None:
    play = Http2Play()
    play.peer.send_headers(1, GET_FIELDS, end_stream=True)
    said = play.peer.data_to_send()
    assert play(*[("down", bytes((byte,))) for byte in said]) == [("up", forwarded())]
    assert of(1, play(("up", OK_HI))) == HI
    play.end()


def test_a_listener_that_speaks_http1_alone() -> None:
    play = Playbook(http2=False)
    assert play(("down", preface() + headers(1)))[0][1].startswith(b"HTTP/1.1 400 ")  # type: ignore[union-attr]
    play.end()


def test_a_preface_behind_a_request_is_none() -> None:
    play = Playbook()
    play(("down", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"), ("up", OK_HI))
    assert play(("down", preface()))[0][1].startswith(b"HTTP/1.1 400 ")  # type: ignore[union-attr]
    play.end()


def test_whom_a_proxy_has_announced(start: Start) -> None:
    play = start(announced=Announced(2, 16, True, "192.0.2.1:7", "192.0.2.2:80", b""))
    assert b"x-forwarded-for: 192.0.2.1\r\n" in play.get(1)[0][1]  # type: ignore[operator]
    play(("up", OK_HI))
    info = play.play.log.infos[0]
    assert (info.downstream_remote, info.downstream_direct_remote) == ("192.0.2.1:7", "10.1.1.1:5000")
    play.end()


def test_endpoints_are_told_whose_requests_these_are(start: Start) -> None:
    play = start(proxy_protocol=1)
    assert play.get(1)[0][1].startswith(b"PROXY TCP4 10.1.1.1 127.0.0.1 5000 80\r\nGET / ")  # type: ignore[union-attr]
    assert of(1, play(("up", OK_HI))) == HI
    assert play.get(3) == [("up", forwarded())]
    assert of(3, play(("up", OK_HI))) == HI
    play(("down", EOF))
    play.end()


# -- answers of our own


def test_local_replies(start: Start) -> None:
    routes = [
        Route(prefix="/direct", direct_response=DirectResponse(200, "ours")), Route(prefix="/api", cluster="api"),
    ]  # fmt: skip
    play = start(routes=routes, outcomes=[REFUSED, REFUSED])
    assert of(1, play.get(1, "/direct"))[1:] == [("data", b"ours"), ("end",)]
    assert of(3, play.get(3, "/nowhere"))[0][1][0] == (":status", "404")  # type: ignore[index]
    assert of(5, play.get(5, "/api"))[0][1][0] == (":status", "503")  # type: ignore[index]
    assert [info.flags for info in play.play.log.infos] == [(), ("NR",), ("UF",)]
    play.end()


def test_a_malformed_request_is_answered_and_counted(start: Start) -> None:
    play = start()
    told = play(("down", play.peer.data_to_send() + headers(1, [*GET_FIELDS, ("Upper", "x")], end=False)))
    assert of(1, told)[0][1][0] == (":status", "400") and of(1, told)[-1] == ("reset", h2.PROTOCOL_ERROR)  # type: ignore[index]
    assert play.play.ended() == (("DPE",), "http2.uppercase_field_name", 400)
    assert play.play.count("http.web.downstream_cx_protocol_error") == 1
    play.end()


# -- ends


def test_a_client_that_resets_a_stream_lets_the_endpoint_go(start: Start) -> None:
    play = start()
    play.get(1)
    play.get(3)
    play.peer.reset_stream(1, h2.CANCEL)
    assert play(("down",)) == [("up", EOF)]
    assert play.play.ended() == (("DR",), "http2.remote_reset", 0)
    assert of(3, play(("up2", OK_HI))) == HI
    play.end()
    assert play.play.count("http.web.http2.rx_reset") == play.play.count("http.web.downstream_rq_rx_reset") == 1


def test_an_answer_that_breaks_off_resets_its_stream_alone(start: Start) -> None:
    play = start()
    play.get(1)
    play.get(3)
    told = play(("up", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhi"), ("up", RESET))
    assert of(1, told)[1:] == [("data", b"hi"), ("reset", h2.INTERNAL_ERROR)]
    assert of(3, play(("up2", OK_HI))) == HI
    play.end()
    assert play.play.count("http.web.http2.tx_reset") == 1


def test_an_answer_before_the_end_of_the_request(start: Start) -> None:
    play = start()
    play.peer.send_headers(1, POST_FIELDS)
    play(("down",))
    told = play(("up", b"HTTP/1.1 413 No\r\nContent-Length: 0\r\n\r\n"))
    assert of(1, told)[1:] == [("end",), ("reset", h2.NO_ERROR)]
    assert ("up", EOF) in told
    told = play(("down", headers(3, POST_FIELDS, end=False) + h2.frame(h2.WINDOW_UPDATE, 0, 3, bytes(4))))
    assert of(3, told) == [("reset", h2.PROTOCOL_ERROR)]
    play.end()
    assert play.play.count("http.web.http2.tx_reset") == 2  # each that is sent, as Envoy counts


def test_a_broken_connection_ends_with_its_streams(start: Start) -> None:
    play = start()
    play.get(1)
    told = play(("down", h2.frame(h2.PING, 0, 1, bytes(8))))
    assert ("goaway", h2.PROTOCOL_ERROR, 1) in told and told[-1] == ("down", EOF)
    assert play.play.ended() == (("DPE",), "http2.ping_of_stream", 0)
    play.end()
    assert play.play.count("http.web.downstream_cx_protocol_error") == 1


def test_a_client_that_vanishes(start: Start) -> None:
    play = start()
    play.get(1)
    play.get(3)
    assert play(("down", RESET)) == [("up", EOF), ("up2", EOF)]
    assert [info.flags for info in play.play.log.infos] == [("DC",), ("DC",)]
    play.end()


def test_a_client_that_says_no_more_gets_its_answers(start: Start) -> None:
    play = start()
    play.get(1)
    play.peer.send_headers(3, POST_FIELDS)
    play(("down",))
    assert ("up2", EOF) in play(("down", EOF))  # of this one nobody will ever know the end
    told = play(("up", OK_HI))
    assert of(1, told) == HI and told[-1] == ("down", EOF)
    play.end()


def test_a_flood_is_counted() -> None:
    play = Http2Play()
    play.get(1)
    told = play(("down", h2.frame(h2.PRIORITY, 0, 3, bytes(5)) * 1100))
    assert ("goaway", h2.ENHANCE_YOUR_CALM, 1) in told
    assert play.play.count("http.web.http2.inbound_glitches_flood") == 1
    play.end()


def test_a_client_that_makes_us_talk_and_does_not_read() -> None:
    play = Http2Play()
    play.get(1)
    play(("window", "down", 0))
    ping = h2.frame(h2.PING, 0, 0, bytes(8))
    for _ in range(100):  # time fills the budget of frames again; nobody reads the answers
        play.play(("down", ping * 900), ("time", 3.0))
    assert play.play.count("http.web.http2.outbound_control_flood") == 1
    play.end()


# -- time


def test_an_endpoint_that_takes_too_long(start: Start) -> None:
    play = start(routes=[Route(prefix="/", cluster="api", timeout_s=5.0)])
    play.get(1)
    told = play(("time", 6.0))
    assert of(1, told)[0][1][0] == (":status", "504")  # type: ignore[index]
    assert play.play.ended() == (("UT",), "response_timeout", 504)
    play.end()


def test_a_stream_on_which_nothing_moves(start: Start) -> None:
    play = start(routes=[Route(prefix="/", cluster="api", timeout_s=0.0, idle_timeout_s=5.0)])
    play.peer.send_headers(1, POST_FIELDS)
    play(("down",))
    told = play(("time", 6.0))
    assert of(1, told)[0][1][0] == (":status", "408")  # type: ignore[index]
    assert of(1, told)[-1] == ("reset", h2.NO_ERROR)
    play.end()


def test_a_complete_answer_that_nobody_takes(start: Start) -> None:
    play = start()
    play.acknowledges = False
    play.get(1)
    play(("up", b"HTTP/1.1 200 OK\r\nContent-Length: 70000\r\n\r\n" + bytes(70_000)))
    assert len(play.play.log.infos) == 1
    told = play(("time", 2 * FLUSH_S + 1))  # in the first minute it took a window full
    assert of(1, told) == [("reset", h2.CANCEL)]
    assert play.play.count("http.web.http2.tx_flush_timeout") == 1
    play.end()


@pytest.mark.parametrize(
    ("said", "seconds", "counter"),
    [
        (preface()[:30], 11.0, "downstream_cx_idle_timeout"),
        (preface(), 61.0, "downstream_cx_idle_timeout"),
        (preface() + h2.frame(h2.HEADERS, 0, 1, b"\x82"), 11.0, "downstream_rq_header_timeout"),
    ],
    ids=["no settings", "no request", "half a request"],
)
def test_a_client_that_takes_too_long(start: Start, said: bytes, seconds: float, counter: str) -> None:
    play = start(keepalive_timeout_s=60.0)
    play.mute()
    assert play(("down", said), ("time", seconds - 2)) == []
    told = play(("time", 3.0))
    assert told[-1] == ("down", EOF) and told[0][:2] == ("goaway", h2.NO_ERROR)
    assert play.play.count(f"http.web.{counter}") == 1
    play.end()


def test_a_ping_does_not_keep_an_idle_connection(start: Start) -> None:
    play = start(keepalive_timeout_s=60.0)
    play(("down",))
    for _ in range(7):
        play(("time", 9.0))
        if not play.ended:
            play.peer.ping(bytes(8))
            play(("down",))
    assert play.ended
    play.end()


# -- leaving


def test_a_drain_says_so_in_two_steps_and_ends_with_the_last_stream(start: Start) -> None:
    play = start()
    play.get(1)
    assert play(("drain",)) == [("goaway", h2.NO_ERROR, h2.MAX_STREAM_ID), ("goaway", h2.NO_ERROR, 1)]
    told = play(("up", OK_HI))
    assert of(1, told) == HI and told[-1] == ("down", EOF)
    play.end()
    assert play.play.count("http.web.http2.goaway_sent") == 1


def test_an_idle_connection_leaves_as_soon_as_its_client_knows(start: Start) -> None:
    play = start()
    play(("down",))
    told = play(("drain",))
    assert told[-1] == ("down", EOF)
    play.end()


def test_a_worker_that_drains_says_so_with_the_next_answer() -> None:
    play = Http2Play()
    play.get(1)
    play.play.runtime.draining = True
    told = play(("up", OK_HI))
    assert told[0] == ("goaway", h2.NO_ERROR, h2.MAX_STREAM_ID) and of(1, told) == HI
    assert play.ended
    play.end()


def test_the_drain_deadline_cuts_what_is_left(start: Start) -> None:
    play = start()
    play.get(1)
    told = play(("deadline",))
    assert of(1, told) == [("reset", h2.INTERNAL_ERROR)]
    assert play.play.ended() == ((DRAIN_DEADLINE.flag,), DRAIN_DEADLINE.details, 0)
    play.end()


def test_what_comes_while_nobody_reads_is_read_by_the_next_process() -> None:
    play = Http2Play()
    play.get(1)
    play.peer.send_headers(3, GET_FIELDS, end_stream=True)
    play.play.client.inbox.append(play.peer.data_to_send())
    play.play.hand_off()
    assert play() == [] and play(("time", 0.1)) == [("up2", forwarded())]
    assert of(3, play(("up2", OK_HI))) == HI
    play.end()


def test_our_settings_come_before_anything_else() -> None:
    play = Playbook()
    (down,) = play(("down", preface()))
    assert [kind for kind, *_ in frames(down[1])] == [h2.SETTINGS, h2.WINDOW_UPDATE, h2.SETTINGS]  # type: ignore[arg-type]
    play.end()


def test_a_client_that_begins_while_we_leave_is_greeted_first() -> None:
    play = Playbook()
    (down,) = play(("drain",), ("down", preface()))
    kinds = [kind for kind, *_ in frames(down[1])]  # type: ignore[arg-type]
    assert kinds[0] == h2.SETTINGS and kinds[-2:] == [h2.GOAWAY, h2.PING]
    play.end()
