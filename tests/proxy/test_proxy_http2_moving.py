"""HTTP/2 connections between two processes: what moves with them, what is refused, and what goes back."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hotproxy.config.model import Route
from hotproxy.http import http2_frames as h2
from hotproxy.proxy.http2_connection_manager import Http2ConnectionManager
from tests.kit.damage import damaged, places, replaced, value_at
from tests.kit.handoff import Handoff
from tests.kit.http2 import POST_FIELDS
from tests.kit.http2_play import ADDED, Http2Play
from tests.kit.http2_walk import Walk
from tests.kit.playbook import EOF, HANGS, OK, RESET

OK_HI = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
HI = [("head", [(":status", "200"), *ADDED, ("content-length", "2")]), ("data", b"hi"), ("end",)]


def of(stream_id: int, told: list[tuple[object, ...]]) -> list[tuple[object, ...]]:
    return [event[1:] for event in told if event[0] == stream_id]


# -- moments in the life of a connection


def idle() -> Http2Play:
    play = Http2Play()
    play(("down",))
    return play


def streams() -> Http2Play:
    """One waits for its answer, one is in the middle of it, one uploads, one is complete and nobody reads it."""
    play = Http2Play()
    play.acknowledges = False
    play.peer.increment_flow_control_window(100_000)
    for stream_id in (1, 3):
        play.get(stream_id, f"/{stream_id}", ("x-name", "value"))
    play.peer.send_headers(5, POST_FIELDS)
    play.peer.send_data(5, b"half")
    play.get(7, "/7", ("x-name", "value"))
    play(("up2", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"))
    play(("up4", b"HTTP/1.1 200 OK\r\nContent-Length: 70000\r\n\r\n" + bytes(70_000)))
    return play


def stalled() -> Http2Play:
    """Neither the client's socket nor an endpoint takes anything."""
    play = Http2Play()
    play.peer.increment_flow_control_window(1 << 24)
    play.peer.update_settings({h2.SETTINGS_INITIAL_WINDOW_SIZE: 1 << 24})  # type: ignore[dict-item]
    play.get(1)
    play.peer.send_headers(3, POST_FIELDS)
    play(("down",), ("window", "down", 1000), ("window", "up2", 0))
    play(("up", b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n" + bytes(900_000)))
    for _ in range(40):
        if play.peer.local_flow_control_window(3) < 16_000:
            break
        play.peer.send_data(3, bytes(16_000))
        play(("down",))
    return play


def connecting() -> Http2Play:
    play = Http2Play(outcomes=[OK, HANGS, HANGS, OK, OK])
    for stream_id in (1, 3, 5):
        play.get(stream_id)
    return play


def leaving() -> Http2Play:
    play = Http2Play()
    play.get(1)
    play.play(("drain",))
    return play


MOMENTS: dict[str, Callable[[], Http2Play]] = {
    "idle": idle, "streams": streams, "stalled": stalled, "connecting": connecting, "leaving": leaving,
}  # fmt: skip


@pytest.mark.parametrize("name", MOMENTS)
def test_a_move_that_fails_changes_nothing(name: str) -> None:
    play = MOMENTS[name]()
    for _ in range(2):
        play.play.give_back()
    play.play.hand_off()
    play(("window", "down", None), ("time", 400.0))
    play.end()


def test_streams_go_on_where_they_were() -> None:
    play = streams()
    play.play.hand_off()
    assert of(1, play(("up", OK_HI))) == HI
    assert of(3, play(("up2", b"2\r\nde\r\n0\r\n\r\n"))) == [("data", b"de"), ("end",)]
    play.peer.send_data(5, b"more", end_stream=True)
    play.peer.increment_flow_control_window(70_000, 7)
    told = play(("down",))
    assert ("up3", b"4\r\nmore\r\n0\r\n\r\n") in told
    assert of(7, told)[-1] == ("end",)
    assert of(5, play(("up3", OK_HI))) == HI
    play.end()
    assert play.play.count("http.web.downstream_rq_completed") == 4


def test_what_is_stalled_is_still_stalled_and_goes_on() -> None:
    play = stalled()
    before = play.play.gauges()["buffered"]
    play.play.hand_off()
    assert play.play.gauges()["buffered"] == before
    assert not play.play.is_read("up")
    told = play(("window", "down", None), ("window", "up2", None), ("time", 0.1))
    told += play(("up", bytes(100_000)))
    assert sum(len(event[1]) for event in of(1, told) if event[0] == "data") > 900_000  # type: ignore[arg-type]
    assert of(1, told)[-1] == ("end",)
    assert play.peer.local_flow_control_window(3) > 16_000
    play.end()


def test_connects_that_were_under_way_begin_anew() -> None:
    play = connecting()
    play.play.hand_off()
    play()
    for stream_id, name in ((1, "up"), (3, "up2"), (5, "up3")):
        assert of(stream_id, play((name, OK_HI))) == HI
    assert [info.attempts for info in play.play.log.infos] == [1, 1, 1]
    play.end()


def test_a_connection_that_leaves_goes_on_leaving() -> None:
    play = leaving()
    play.play.hand_off()
    told = play(("up", OK_HI))
    assert of(1, told) == HI
    play.end()
    assert play.play.count("http.web.http2.goaway_sent") == 1


def test_deadlines_stay_what_they_were() -> None:
    play = Http2Play(routes=[Route(prefix="/", cluster="api", timeout_s=10.0)])
    play.get(1)
    play(("time", 6.0))
    play.play.hand_off()
    assert play(("time", 3.0)) == []
    assert of(1, play(("time", 2.0)))[0][1][0] == (":status", "504")  # type: ignore[index]
    play.end()


def test_a_stream_that_cannot_move_holds_back_its_connection() -> None:
    """Its endpoint has reset it in this very turn; the others were frozen already, and thaw."""
    play = Http2Play()
    for stream_id in (1, 3):
        play.get(stream_id)
    play.play.side("up2").broken = True
    upstream = play.play.streams()[1].router._upstream  # type: ignore[union-attr]
    assert upstream is not None
    upstream.connection.write(b"x")
    assert not play.play.manager.freeze()
    told = play(("up2", RESET), ("up", OK_HI))
    assert of(1, told) == HI and of(3, told)[0][1][0] == (":status", "503")  # type: ignore[index]
    play.end()


def test_what_happens_to_a_frozen_connection_takes_effect_when_it_thaws() -> None:
    play = Http2Play()
    play.get(1)
    handoff = Handoff(play.play)
    play.play.manager.drain()
    handoff.play.manager.thaw()
    assert play.play.count("http.web.http2.goaway_sent") == 1
    assert of(1, play(("up", OK_HI))) == HI
    play.end()


# -- records


def load(play: Http2Play, state: dict[str, Any]) -> None:
    new = play.play.new_worker()
    socks: Any = play.play.dup(play.play.manager.socks())  # type: ignore[arg-type]
    try:
        Http2ConnectionManager.load(state, socks, new.listener, play.play, new.runtime)
    finally:
        assert new.gauges() == {} and new.counters() == {}
        for sock in socks:
            sock.close()


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2}, {"version": None}, {"kind": "http1"}, {"listener": "other"}, {"peer": "a\r\nb"},
        {"lanes": []}, {"phase": 4}, {"more": 1}, {"codec": {}}, {"announced_drain": 0},
    ],
)  # fmt: skip
def test_a_record_of_another_shape_is_refused(change: dict[str, object]) -> None:
    play = streams()
    handoff = Handoff(play.play)
    with pytest.raises(ValueError):
        load(play, handoff.state | change)
    for upstream in handoff.idle:
        upstream.thaw()
    play.play.manager.thaw()
    play.end()


@functools.cache
def record_of(moment: str) -> tuple[Any, list[Any]]:
    state = Handoff(MOMENTS[moment]().play).state
    return state, list(places(state))


@given(st.sampled_from(sorted(MOMENTS)), st.data())
@settings(max_examples=150, deadline=None)
def test_a_damaged_record_is_refused_or_works(name: str, data: st.DataObject) -> None:
    record, everywhere = record_of(name)
    place = data.draw(st.sampled_from(everywhere), "place")
    state = replaced(record, place, data.draw(damaged(value_at(record, place)), "instead"))
    play = MOMENTS[name]()
    book = play.play
    handoff = Handoff(book)
    new = book.new_worker()
    socks: Any = book.dup(book.manager.socks())  # type: ignore[arg-type]
    try:
        loaded = Http2ConnectionManager.load(state, socks, new.listener, book, new.runtime)
    except ValueError:
        assert new.gauges() == {} and new.counters() == {}
        assert not any(sock.closed for sock in socks) and book.moved == []
        for sock in socks:
            sock.close()
        for upstream in handoff.idle:
            upstream.thaw()
        book.manager.thaw()
    else:
        idle = handoff.load_idle(new)
        book.manager.release()
        for upstream in handoff.idle:
            upstream.release()
        book.move_to(new, loaded)
        for upstream in idle:
            upstream.start()
        loaded.start()
    book(("window", "down", None), ("down", h2.frame(h2.PING, 0, 0, bytes(8))), ("time", 400.0))
    for side in ("up", "up2", "up3"):
        if (sock := book.find(side)) is not None and not sock.closed:
            book((side, OK_HI))
    if not book.client.closed:
        book(("down", EOF))
    book.end()


@pytest.mark.parametrize("seed", [*range(80), *(pytest.param(n, marks=pytest.mark.slow) for n in range(80, 1000))])
def test_whatever_happens_in_whatever_order_between_moves(seed: int) -> None:
    Walk(seed).run()
