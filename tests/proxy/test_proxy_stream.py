"""Conversations about time and pressure, and that every stream ends exactly once, whenever somebody breaks off."""

from __future__ import annotations

import gc
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hotproxy.config.model import Route
from hotproxy.net.connection import HIGH_WATERMARK_BYTES
from hotproxy.proxy.held_body import MAX_HELD_BYTES
from tests.kit.phrases import (
    CHUNKED,
    CHUNKED_DOWN,
    CHUNKED_POST,
    GET,
    GET_UP,
    HI,
    HI_DOWN,
    POST,
    POST_UP,
    SWITCH,
    WARM,
    WEBSOCKET,
    local,
)
from tests.kit.playbook import EOF, HANGS, OK, REFUSED, RESET, TIMED_OUT, Playbook, Received, Step

Book = Callable[..., Playbook]


# -- timeouts


def test_the_response_timeout(book: Book) -> None:
    play = book(routes=[Route(prefix="/", cluster="api", timeout_s=2.0)])
    assert play(("down", GET), ("time", 1.9)) == [("up", GET_UP)]
    assert play(("time", 0.2)) == [
        ("up", EOF), ("down", local(b"504 Gateway Timeout", b"upstream request timeout")),
    ]  # fmt: skip
    assert play.ended() == (("UT",), "response_timeout", 504)
    assert play.count("cluster.api.upstream_rq_timeout") == 1


def test_it_begins_with_the_end_of_the_request_and_lasts_for_the_whole_response(book: Book) -> None:
    play = book(routes=[Route(prefix="/", cluster="api", timeout_s=2.0)])
    assert play(("down", POST[:-1]), ("time", 5.0), ("down", POST[-1:]), ("time", 1.5), ("up", CHUNKED)) == [
        ("up", POST_UP), ("down", CHUNKED_DOWN),
    ]  # fmt: skip
    assert play(("up", b"1\r\nx\r\n"), ("time", 1.0)) == [("down", b"1\r\nx\r\n"), ("up", EOF), ("down", EOF)]
    assert play.ended() == (("UT",), "response_timeout", 200)


def test_without_a_response_timeout_the_idle_timeout_holds(book: Book) -> None:
    play = book(routes=[Route(prefix="/", cluster="api", timeout_s=0.0, idle_timeout_s=3.0)])
    assert play(("down", GET), ("time", 2.9)) == [("up", GET_UP)]
    assert play(("time", 0.2)) == [("up", EOF), ("down", local(b"504 Gateway Timeout", b"stream timeout"))]
    assert play.ended() == (("SI",), "stream_idle_timeout", 504)


def test_a_client_that_stops_in_its_body(book: Book) -> None:
    play = book(routes=[Route(prefix="/", cluster="api", idle_timeout_s=3.0)])
    assert play(("down", POST[:-1]), ("time", 3.1)) == [
        ("up", POST_UP[:-1]),
        ("up", EOF),
        ("down", local(b"408 Request Timeout", b"stream timeout", close=True)),
        ("down", EOF),
    ]
    assert play.ended() == (("SI",), "stream_idle_timeout", 408)
    assert play.count("http.web.downstream_rq_idle_timeout") == 1


def test_the_idle_timeout_begins_anew_with_every_byte(book: Book) -> None:
    play = book(routes=[Route(prefix="/", cluster="api", timeout_s=0.0, idle_timeout_s=3.0)])
    steps: list[Step] = [("down", GET), ("up", CHUNKED)]
    for _ in range(5):
        steps += [("time", 2.0), ("up", b"1\r\nx\r\n")]
    assert play(*steps) == [("up", GET_UP), ("down", CHUNKED_DOWN + b"1\r\nx\r\n" * 5)]
    assert play(("time", 3.1)) == [("up", EOF), ("down", EOF)]


def test_an_endpoint_that_says_nothing_after_the_connect_is_given_up_by_the_response_timeout(book: Book) -> None:
    play = book(outcomes=[HANGS])
    assert play(("down", GET), ("time", 15.1)) == [
        ("down", local(b"504 Gateway Timeout", b"upstream request timeout")),
    ]  # fmt: skip


def test_a_connection_nobody_uses_is_closed(book: Book) -> None:
    play = book()
    play(*WARM)
    assert play(("time", 59.0)) == []
    assert play(("time", 1.1)) == [("up", EOF)]
    assert play.count("cluster.api.upstream_cx_idle_timeout") == 1


# -- pressure


def test_a_slow_client_stops_the_endpoint(book: Book) -> None:
    play = book()
    body = b"x" * (HIGH_WATERMARK_BYTES + 1)
    play(("down", GET), ("window", "down", 0), ("up", b"HTTP/1.1 200 OK\r\nContent-Length: 999999\r\n\r\n" + body))
    assert (play.is_read("up"), play.is_read("down")) == (False, True)
    assert play.buffered.value > HIGH_WATERMARK_BYTES
    play(("window", "down", None))
    assert (play.is_read("up"), play.buffered.value) == (True, 0)


def test_a_slow_endpoint_stops_the_client(book: Book) -> None:
    play = book()
    body = b"x" * (HIGH_WATERMARK_BYTES + 1)
    play(
        ("down", b"POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 999999\r\n\r\n"), ("window", "up", 0), ("down", body)
    )
    assert (play.is_read("up"), play.is_read("down")) == (True, False)
    play(("window", "up", None))
    assert (play.is_read("down"), play.buffered.value) == (True, 0)


def test_a_client_is_not_read_without_end_while_connecting(book: Book) -> None:
    play = book(outcomes=[HANGS])
    play(("down", b"POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 999999\r\n\r\n"), ("down", b"x" * 300_000))
    assert not play.is_read("down")
    assert MAX_HELD_BYTES <= play.buffered.value <= 2 * MAX_HELD_BYTES


def test_what_was_held_while_connecting_arrives(book: Book) -> None:
    body = b"0123456789" * 30_000
    post = b"POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 300000\r\n\r\n"
    play = book(endpoints=["10.0.0.1:1", "10.0.0.2:2"], outcomes=[REFUSED])
    assert play(("down", post + body), ("up", HI)) == [
        ("up", POST_UP.replace(b"4\r\n\r\nbody", b"300000\r\n\r\n") + body), ("down", HI_DOWN),
    ]  # fmt: skip


def test_a_slow_reader_is_not_idle_as_long_as_it_reads(book: Book) -> None:
    play = book(routes=[Route(prefix="/", cluster="api", timeout_s=0.0, idle_timeout_s=3.0)])
    play(("down", GET), ("window", "down", 0), ("up", CHUNKED + b"ffff\r\n" + b"x" * 0xFFFF + b"\r\n"))
    for _ in range(5):
        assert [who for who, _ in play(("window", "down", 10), ("time", 3.1))] == ["down"]
    played: list[Received] = play(("time", 3.1), ("time", 3.1))
    assert ("up", EOF) in played
    assert play.ended()[0] == ("SI",)


# -- whenever somebody breaks off

EXCHANGES = {
    "length": (POST, HI),
    "chunked": (CHUNKED_POST + b"2\r\nab\r\n0\r\nX: y\r\n\r\n", CHUNKED + b"2\r\nhi\r\n0\r\nX: y\r\n\r\n"),
    "tunnel": (WEBSOCKET + b"ping", SWITCH + b"pong"),
}


@pytest.mark.parametrize("name", EXCHANGES)
@pytest.mark.parametrize("end", [EOF, RESET])
def test_a_client_may_die_at_every_byte_of_its_request(book: Book, name: str, end: str) -> None:
    """What is counted, logged and left over is checked by the fixture."""
    request, _ = EXCHANGES[name]
    whole = len(WEBSOCKET) if name == "tunnel" else len(request)
    for length in range(len(request) + 1):
        play = book()
        play(("down", request[:length]), ("down", end))
        assert play.closed == (end == RESET or length < whole)  # a whole one is answered, but for a reset
        assert len(play.log.infos) <= 1


@pytest.mark.parametrize("name", EXCHANGES)
@pytest.mark.parametrize("end", [EOF, RESET])
@pytest.mark.parametrize("warm", [(), WARM])
def test_an_endpoint_may_die_at_every_byte_of_its_response(
    book: Book, name: str, end: str, warm: tuple[tuple[str, bytes], ...]
) -> None:
    request, response = EXCHANGES[name]
    complete = book()(*warm, ("down", request), ("up", response))[-1][1]
    assert isinstance(complete, bytes)
    for length in range(len(response)):
        play = book()
        played = play(*warm, ("down", request), ("up", response[:length]), ("up", end))
        received = b"".join(what for who, what in played[2 * bool(warm) :] if who == "down" and isinstance(what, bytes))
        begun = b"\r\n\r\n" in response[:length]
        if begun:  # a part of the answer, never one that looks whole
            head, _, body = received.partition(b"\r\n\r\n")
            assert complete.startswith(head)
            assert {"length": body != b"hi", "chunked": b"0\r\n" not in body, "tunnel": True}[name]
        elif not received:  # sent once more, to another connection
            assert warm and length == 0
        else:
            assert received[:12] in (b"HTTP/1.1 503", b"HTTP/1.1 502")
        play(("down", RESET))
        assert play.closed == 1
        assert len(play.log.infos) == 1 + bool(warm)


@pytest.mark.parametrize("name", EXCHANGES)
def test_a_client_may_die_at_every_byte_of_the_response(book: Book, name: str) -> None:
    request, response = EXCHANGES[name]
    for length in range(len(response)):
        play = book()
        play(("down", request), ("up", response[:length]), ("down", RESET))
        assert (play.closed, len(play.log.infos)) == (1, 1)
        assert play.ended()[0] == ("DC",)
        assert play.side("up").closed


def test_a_write_that_fails_tells_of_the_client_in_the_next_turn(book: Book) -> None:
    play = book()
    play(("down", GET))
    play.client.broken = True
    play(("up", HI))
    assert play.closed == 1
    assert play.ended() == ((), "via_upstream", 200)


def test_nothing_is_left_to_the_garbage_collector(book: Book) -> None:
    """Workers never collect: whatever hangs in a cycle would stay for ever."""
    play = book()
    play(*WARM)
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        play(*WARM, ("down", EXCHANGES["chunked"][0]), ("origin", CHUNKED + b"0\r\n\r\n"))
        play(("down", WEBSOCKET), ("origin", SWITCH), ("down", EOF), ("origin", EOF))
        gc.collect()
        left = [type(thing).__name__ for thing in gc.garbage if type(thing).__module__.startswith("hotproxy")]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    assert left == []


ACTIONS = st.one_of(
    st.tuples(st.sampled_from(["down", "up", "up2"]), st.integers(1, 40)),
    st.tuples(st.sampled_from(["down", "up", "up2"]), st.sampled_from([EOF, RESET])),
    st.tuples(st.just("window"), st.sampled_from(["down", "up", "up2"]), st.sampled_from([0, 10, None])),
    st.tuples(st.just("time"), st.sampled_from([0.1, 3.0, 20.0])),
    st.sampled_from([("drain",), ("deadline",), ("handoff",)]),
)


@settings(max_examples=400, deadline=None)
@given(
    name=st.sampled_from(sorted(EXCHANGES)),
    outcomes=st.lists(st.sampled_from([OK, REFUSED, TIMED_OUT, HANGS]), max_size=3),
    actions=st.lists(ACTIONS, max_size=25),
)
def test_whatever_happens_in_whatever_order(name: str, outcomes: list[str], actions: list[Step]) -> None:
    """Any interleaving: a stream ends once, and in the end no gauge, descriptor or held byte is left."""
    play = Playbook(outcomes=outcomes, endpoints=["10.0.0.1:1", "10.0.0.2:1"])
    says: dict[object, bytes] = {
        "down": EXCHANGES[name][0] * 3,
        "up": EXCHANGES[name][1] * 3,
        "up2": EXCHANGES[name][1] * 3,
    }
    said: set[object] = set()
    for action in actions:
        who, what = action[0], action[-1]
        if who == "handoff":
            if not play.closed and play.can_move():
                play(action)
        elif who in says or who == "window":
            sock = play.find(action[1] if who == "window" else who)
            if sock is None or sock.closed or who in said:
                continue
            if isinstance(what, int) and who in says:
                text, says[who] = says[who][:what], says[who][what:]
                play((who, text or EOF))
            else:
                play(action)
            if what in (EOF, RESET) or (who in says and not says[who]):
                said.add(who)
        else:
            play(action)
    play.end()
