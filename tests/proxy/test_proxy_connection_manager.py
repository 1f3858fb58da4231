"""Conversations about a client's connection: keep-alive, pipelining, bad input, timeouts, draining, tunnels."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection

import pytest

from hotproxy.config.model import DirectResponse, Route
from hotproxy.net.connection import HIGH_WATERMARK_BYTES
from hotproxy.proxy.connection_manager import MAX_WAITING_BYTES
from hotproxy.upstream.endpoint import Endpoint
from tests.kit.phrases import (
    CHUNKED,
    CHUNKED_DOWN,
    CHUNKED_POST,
    CHUNKED_POST_UP,
    GET,
    GET_UP,
    HI,
    HI_DOWN,
    POST,
    POST_UP,
    SWITCH,
    WARM,
    WEBSOCKET,
    WEBSOCKET_UP,
    local,
)
from tests.kit.playbook import EOF, HANGS, REFUSED, RESET, Playbook

Book = Callable[..., Playbook]

DIRECT = [Route(prefix="/", direct_response=DirectResponse(200, "x"))]
X = local(b"200 OK", b"x")
CLOSING_GET = b"GET /a HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
HI_DOWN_CLOSING = HI_DOWN.replace(b"\r\n\r\nhi", b"\r\nConnection: close\r\n\r\nhi")


# -- one request after the other


def test_pipelined_requests_are_answered_in_order(book: Book) -> None:
    second, second_up = GET.replace(b"/a", b"/b"), GET_UP.replace(b"/a", b"/b")
    assert book()(("down", GET + second + POST), ("up", HI), ("up", CHUNKED + b"0\r\n\r\n"), ("up", HI)) == [
        ("up", GET_UP),
        ("down", HI_DOWN),
        ("up", second_up),
        ("down", CHUNKED_DOWN + b"0\r\n\r\n"),
        ("up", POST_UP),
        ("down", HI_DOWN),
    ]


def test_a_long_pipeline_of_direct_answers(book: Book) -> None:
    assert book(routes=DIRECT)(("down", GET * 1000)) == [("down", X * 1000)]


def test_a_pipeline_whose_answers_nobody_reads_waits(book: Book) -> None:
    play = book(routes=[Route(prefix="/", direct_response=DirectResponse(200, "x" * 100_000))])
    play(("window", "down", 0), ("down", GET * 50))
    assert not play.is_read("down")
    assert play.buffered.value < HIGH_WATERMARK_BYTES + 110_000
    assert len(play.log.infos) == 3
    play(("window", "down", None))
    assert (len(play.log.infos), play.is_read("down"), play.buffered.value) == (50, True, 0)


def test_what_comes_while_answers_are_not_read_begins_nothing(book: Book) -> None:
    play = book(routes=[Route(prefix="/", direct_response=DirectResponse(200, "x" * 300_000))])
    play(("window", "down", 0), ("down", GET), ("down", GET))
    assert len(play.log.infos) == 1
    play(("window", "down", None))
    assert len(play.log.infos) == 2


def test_a_client_that_pipelines_too_much_is_not_read(book: Book) -> None:
    play = book(outcomes=[HANGS])
    play(("down", GET), *[("down", GET * 100)] * 40)
    assert not play.is_read("down")
    held = play.manager.codec.buffered_bytes
    assert MAX_WAITING_BYTES <= held < MAX_WAITING_BYTES + len(GET * 100)


def test_and_is_read_again_afterwards(book: Book) -> None:
    many = MAX_WAITING_BYTES // len(GET) + 1
    play = book(routes=[Route(path="/a", cluster="api"), *DIRECT])
    play(("down", GET + GET.replace(b"/a", b"/b") * many))
    assert not play.is_read("down")
    assert play(("up", HI)) == [("down", HI_DOWN + X * many)]
    assert play.is_read("down")


def test_a_client_that_wants_to_close(book: Book) -> None:
    assert book()(("down", CLOSING_GET), ("up", HI)) == [("up", GET_UP), ("down", HI_DOWN_CLOSING), ("down", EOF)]


@pytest.mark.parametrize(
    ("fields", "answer"),
    [(b"", b"Connection: close\r\n"), (b"Connection: keep-alive\r\n", b"Connection: keep-alive\r\n")],
)
def test_http_1_0(book: Book, fields: bytes, answer: bytes) -> None:
    played = book()(("down", b"GET /a HTTP/1.0\r\nHost: h\r\n" + fields + b"\r\n"), ("up", HI))
    down = HI_DOWN.replace(b"\r\n\r\nhi", b"\r\n" + answer + b"\r\nhi")
    assert played[:2] == [("up", GET_UP.replace(b"via: 1.1", b"via: 1.0")), ("down", down)]
    assert (played[2:] == []) == (b"keep-alive" in answer)


# -- ends


def test_a_client_that_leaves_without_a_word(book: Book) -> None:
    play = book()
    assert play(("down", EOF)) == [("down", EOF)]
    assert play.log.infos == []


def test_a_client_that_leaves_between_requests(book: Book) -> None:
    assert book()(*WARM, ("down", EOF)) == [("up", GET_UP), ("down", HI_DOWN), ("down", EOF)]


def test_a_client_that_half_closes_is_answered(book: Book) -> None:
    played = book()(("down", GET), ("down", EOF), ("up", HI))
    assert played == [("up", GET_UP), ("down", HI_DOWN_CLOSING), ("down", EOF)]


def test_a_client_that_half_closes_after_a_pipeline_gets_all_answers(book: Book) -> None:
    play = book()
    assert play(("down", GET + GET), ("down", EOF), ("up", HI), ("up", HI)) == [
        ("up", GET_UP), ("down", HI_DOWN), ("up", GET_UP), ("down", HI_DOWN_CLOSING), ("down", EOF),
    ]  # fmt: skip


def test_a_client_that_half_closes_inside_the_next_head(book: Book) -> None:
    play = book()
    assert play(("down", GET + GET[:9]), ("down", EOF), ("up", HI)) == [
        ("up", GET_UP), ("down", HI_DOWN), ("down", EOF),
    ]  # fmt: skip
    assert len(play.log.infos) == 1


@pytest.mark.parametrize("end", [EOF, RESET])
def test_a_client_that_leaves_inside_its_body_takes_the_request_along(book: Book, end: str) -> None:
    play = book()
    played = play(("down", CHUNKED_POST + b"2\r\nab\r\n"), ("down", end))
    assert played[:2] == [("up", CHUNKED_POST_UP + b"2\r\nab\r\n"), ("up", EOF)]
    assert play.ended() == (("DC",), "downstream_remote_disconnect", 0)
    assert play.count("cluster.api.upstream_rq_tx_reset") == 1
    assert play.count("http.web.downstream_rq_rx_reset") == 1


def test_a_client_that_resets_while_it_waits(book: Book) -> None:
    play = book()
    assert play(("down", GET), ("down", RESET)) == [("up", GET_UP), ("up", EOF)]
    assert play.ended() == (("DC",), "downstream_remote_disconnect", 0)


def test_a_client_that_does_not_take_its_answer_is_let_go(book: Book) -> None:
    play = book()
    play(("window", "down", 0), *WARM)
    play(("time", 61.0))
    play(("time", 61.0))
    assert play.closed == 1
    assert play.count("http.web.downstream_cx_idle_timeout") == 1


# -- bad input


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET /\r\n\r\n", b"400 Bad Request"),
        (b"\x16\x03\x01\x02\x00\x01\x00", b"400 Bad Request"),
        (b"GET / HTTP/1.1\r\n\r\n", b"400 Bad Request"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", b"400 Bad Request"),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", b"400 Bad Request"),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\nx", b"400 Bad Request"),
        (b"GET / HTTP/1.1\r\nHost : a\r\n\r\n", b"400 Bad Request"),
        (b"GET / HTTP/1.1\nHost: a\n\n", b"400 Bad Request"),
        (b"GET / HTTP/3.0\r\nHost: a\r\n\r\n", b"505 HTTP Version Not Supported"),
        (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"x: y\r\n" * 101 + b"\r\n", b"431 Request Header Fields Too Large"),
    ],
)
@pytest.mark.parametrize("before", [(), WARM])
def test_what_breaks_the_rules_is_answered_and_never_forwarded(
    book: Book, sent: bytes, status: bytes, before: tuple[tuple[str, bytes], ...]
) -> None:
    play = book()
    play(*before)
    played = play(("down", sent))
    flags, details, _ = play.ended()
    assert (flags, details[:6]) == (("DPE",), "http1.")
    assert played == [("down", local(status, details.encode(), close=True)), ("down", EOF)]
    assert play.count("http.web.downstream_cx_protocol_error") == 1


def test_a_broken_chunk_ends_the_request_without_completing_it(book: Book) -> None:
    play = book()
    played = play(("down", CHUNKED_POST + b"2\r\nab\r\n"), ("down", b"xx\r\n"))
    assert played[:2] == [("up", CHUNKED_POST_UP + b"2\r\nab\r\n"), ("up", EOF)]
    assert played[2][1][:12] == b"HTTP/1.1 400"
    assert play.ended()[0] == ("DPE",)


def test_a_broken_chunk_in_the_same_read_as_the_head_is_never_forwarded(book: Book) -> None:
    play = book()
    play(*WARM)
    played = play(("down", CHUNKED_POST + b"xx\r\n"))
    assert played[0] == ("up", EOF)


def test_after_a_violation_nothing_is_read(book: Book) -> None:
    play = book()
    play(("down", b"nonsense\r\n\r\n" + GET))
    assert (len(play.log.infos), play.connects_to) == (1, [])


BUG = local(b"500 Internal Server Error", b"internal error", close=True)


class BrokenBalancer:
    """Has a bug."""

    def pick(self, avoid: object) -> None:
        raise ZeroDivisionError


def test_a_bug_of_ours_is_answered_with_500_and_told(book: Book) -> None:
    play = book()
    clusters = play.runtime.snapshot.clusters
    clusters["api"] = dataclasses.replace(play.cluster, balancer=BrokenBalancer())  # type: ignore[index]
    with pytest.raises(ZeroDivisionError):
        play(("down", GET))
    play.loop.run()
    assert play.received == [
        ("down", local(b"500 Internal Server Error", b"internal error", close=True)),
        ("down", EOF),
    ]
    assert play.count("http.web.downstream_rq_internal_error") == 1


def test_also_when_it_comes_from_the_other_side(book: Book) -> None:
    play = book(endpoints=["10.0.0.1:1", "10.0.0.2:1"], outcomes=[REFUSED])
    cluster = play.runtime.snapshot.clusters["api"]
    pick = cluster.balancer.pick

    class BrokenLater:
        def pick(self, avoid: Collection[Endpoint]) -> Endpoint | None:
            return pick(avoid) if not avoid else BrokenBalancer().pick(avoid)

    play.runtime.snapshot.clusters["api"] = dataclasses.replace(cluster, balancer=BrokenLater())  # type: ignore[index]
    with pytest.raises(ZeroDivisionError):
        play(("down", GET))
    play.loop.run()
    assert play.received == [
        ("down", local(b"500 Internal Server Error", b"internal error", close=True)),
        ("down", EOF),
    ]


# -- timeouts


def test_a_connection_without_a_request_is_closed_silently(book: Book) -> None:
    play = book(request_headers_timeout_s=10.0)
    assert play(("time", 9.9)) == []
    assert play(("time", 0.2)) == [("down", EOF)]
    assert play.log.infos == []


def test_a_head_that_takes_too_long(book: Book) -> None:
    play = book()
    steps = [("time", 9.0)]
    for byte in GET[:6]:
        steps += [("down", bytes((byte,))), ("time", 1.5)]  # type: ignore[list-item]
    assert play(*steps) == []
    assert play(("time", 1.1)) == [
        ("down", local(b"408 Request Timeout", b"request header timeout", close=True)), ("down", EOF),
    ]  # fmt: skip
    assert play.ended() == ((), "request_header_timeout", 408)
    assert play.count("http.web.downstream_rq_header_timeout") == 1


def test_the_next_head_has_its_own_time(book: Book) -> None:
    play = book()
    play(*WARM, ("time", 100.0), ("down", GET[:5]), ("time", 9.8))
    assert play(("down", GET[5:]), ("up2", HI)) == [("up2", GET_UP), ("down", HI_DOWN)]


def test_a_pipelined_head_has_it_from_its_turn_on(book: Book) -> None:
    play = book()
    play(("down", GET + GET[:5]), ("time", 14.0), ("up", HI))
    assert play(("time", 9.8)) == []
    assert play(("time", 0.3))[0][0] == "down"


def test_the_keepalive_timeout(book: Book) -> None:
    play = book(keepalive_timeout_s=30.0)
    play(*WARM, ("time", 20.0), *WARM)
    assert play(("time", 29.8)) == []
    assert play(("time", 0.3)) == [("down", EOF)]
    assert play.count("http.web.downstream_cx_idle_timeout") == 1


def test_without_any_limit(book: Book) -> None:
    play = book(keepalive_timeout_s=0.0, request_headers_timeout_s=0.0)
    assert play(("time", 50.0), ("down", GET[:5]), ("time", 50.0), ("down", GET[5:]), ("up", HI)) == [
        ("up", GET_UP), ("down", HI_DOWN),
    ]  # fmt: skip


# -- draining


def test_an_idle_connection_that_drains_answers_once_more(book: Book) -> None:
    play = book()
    assert play(*WARM, ("drain",), ("time", 10.0)) == [("up", GET_UP), ("down", HI_DOWN)]
    assert play(*WARM) == [("up", GET_UP), ("down", HI_DOWN_CLOSING), ("down", EOF)]
    assert play.count("http.web.downstream_cx_drain_close") == 1


def test_a_request_that_is_under_way_is_completed(book: Book) -> None:
    played = book()(("down", GET), ("drain",), ("up", HI))
    assert played == [("up", GET_UP), ("down", HI_DOWN_CLOSING), ("down", EOF)]


def test_a_response_whose_head_is_sent_already_is_followed_by_one_more(book: Book) -> None:
    played = book()(("down", GET), ("up", HI[:-1]), ("drain",), ("up", HI[-1:]), *WARM)
    assert played == [("up", GET_UP), ("down", HI_DOWN), ("up", GET_UP), ("down", HI_DOWN_CLOSING), ("down", EOF)]


def test_a_pipeline_that_has_arrived_is_answered_whole(book: Book) -> None:
    """The second answer used to be dropped with the connection, after its request had been read."""
    assert book()(("down", GET + GET), ("drain",), ("up", HI), ("up", HI)) == [
        ("up", GET_UP), ("down", HI_DOWN), ("up", GET_UP), ("down", HI_DOWN_CLOSING), ("down", EOF),
    ]  # fmt: skip


def test_a_draining_worker_says_close_too(book: Book) -> None:
    play = book()
    play.runtime.draining = True
    assert play(*WARM) == [("up", GET_UP), ("down", HI_DOWN_CLOSING), ("down", EOF)]


def test_the_deadline_of_an_idle_connection(book: Book) -> None:
    assert book()(*WARM, ("drain",), ("deadline",), ("deadline",)) == [
        ("up", GET_UP), ("down", HI_DOWN), ("down", EOF),
    ]  # fmt: skip


def test_the_deadline_of_a_request(book: Book) -> None:
    play = book()
    assert play(("down", GET), ("up", HI[:-1]), ("deadline",)) == [
        ("up", GET_UP), ("down", HI_DOWN[:-1]), ("up", EOF), ("down", EOF),
    ]  # fmt: skip
    assert play.ended() == (("DI",), "drain_timeout", 200)


# -- tunnels


def test_an_upgraded_connection_carries_bytes(book: Book) -> None:
    play = book()
    played = play(
        ("down", WEBSOCKET + b"early"),
        ("up", SWITCH + b"bird"),
        ("down", b"\x81\x00"),
        ("up", b"\x00\xff"),
        ("up", b"!"),
    )
    assert played == [
        ("up", WEBSOCKET_UP + b"early"), ("down", SWITCH + b"bird"), ("up", b"\x81\x00"), ("down", b"\x00\xff!"),
    ]  # fmt: skip


def test_a_client_that_sends_much_before_the_switch_is_read_on_after_it(book: Book) -> None:
    """It used to wait until the idle timeout: nobody gave it back its turn."""
    play = book()
    play(("down", WEBSOCKET), ("down", b"x" * MAX_WAITING_BYTES))
    assert not play.is_read("down")
    assert play(("up", SWITCH)) == [("up", b"x" * MAX_WAITING_BYTES), ("down", SWITCH)]
    assert play.is_read("down")


def test_each_direction_of_a_tunnel_ends_on_its_own(book: Book) -> None:
    play = book()
    play(("down", WEBSOCKET), ("up", SWITCH))
    assert play(("down", b"last"), ("down", EOF), ("up", b"more"), ("up", b"bye"), ("up", EOF)) == [
        ("up", b"last"), ("up", EOF), ("down", b"morebye"), ("down", EOF),
    ]  # fmt: skip
    assert play.ended() == ((), "via_upstream", 101)
    assert (play.log.infos[-1].rx_bytes, play.log.infos[-1].tx_bytes) == (4, 7)


def test_or_the_other_way_round(book: Book) -> None:
    play = book()
    play(("down", WEBSOCKET), ("up", SWITCH))
    assert play(("up", EOF), ("down", b"last"), ("down", EOF)) == [
        ("down", EOF), ("up", b"last"), ("up", EOF),
    ]  # fmt: skip


def test_a_client_that_has_half_closed_before_the_switch(book: Book) -> None:
    played = book()(("down", WEBSOCKET + b"x"), ("down", EOF), ("up", SWITCH), ("up", EOF))
    assert played == [("up", WEBSOCKET_UP + b"x"), ("up", EOF), ("down", SWITCH), ("down", EOF)]


@pytest.mark.parametrize(("who", "flag"), [("down", "DC"), ("up", "UC")])
def test_a_tunnel_that_is_reset_on_one_side(book: Book, who: str, flag: str) -> None:
    play = book()
    play(("down", WEBSOCKET), ("up", SWITCH))
    assert play((who, RESET)) == [("up" if who == "down" else "down", RESET)]
    assert play.ended()[0] == (flag,)


def test_a_tunnel_obeys_the_idle_timeout_and_no_other(book: Book) -> None:
    play = book(routes=[Route(prefix="/", cluster="api", timeout_s=2.0, idle_timeout_s=5.0)])
    play(("down", WEBSOCKET), ("up", SWITCH))
    assert play(("time", 4.0), ("up", b"a"), ("time", 4.0), ("down", b"b"), ("time", 4.0)) == [
        ("down", b"a"), ("up", b"b"),
    ]  # fmt: skip
    assert play(("time", 1.2)) == [("up", RESET), ("down", RESET)]
    assert play.ended()[0] == ("SI",)


def test_pressure_in_a_tunnel(book: Book) -> None:
    play = book()
    play(("down", WEBSOCKET), ("up", SWITCH), ("window", "down", 0), ("up", b"x" * 300_000))
    assert (play.is_read("up"), play.is_read("down")) == (False, True)
    play(("window", "down", None), ("window", "up", 0), ("down", b"x" * 300_000))
    assert (play.is_read("up"), play.is_read("down")) == (True, False)


def test_the_deadline_of_a_tunnel(book: Book) -> None:
    play = book()
    play(("down", WEBSOCKET), ("up", SWITCH), ("drain",))
    assert play(("up", b"on"), ("deadline",)) == [("down", b"on"), ("up", RESET), ("down", RESET)]
    assert play.ended()[0] == ("DI",)


@pytest.mark.parametrize(
    ("upgrades", "sent"),
    [(frozenset(), WEBSOCKET), (frozenset({"websocket"}), WEBSOCKET.replace(b"websocket", b"h2c"))],
)
def test_an_upgrade_that_the_route_does_not_allow_is_a_plain_request(
    book: Book, upgrades: frozenset[str], sent: bytes
) -> None:
    play = book(routes=[Route(prefix="/", cluster="api", upgrades=upgrades)])
    assert play(("down", sent), ("up", HI)) == [("up", GET_UP), ("down", HI_DOWN)]


def test_an_upgrade_that_the_endpoint_declines(book: Book) -> None:
    assert book()(("down", WEBSOCKET), ("up", HI), *WARM) == [
        ("up", WEBSOCKET_UP), ("down", HI_DOWN), ("up", GET_UP), ("down", HI_DOWN),
    ]  # fmt: skip


# -- addresses


def test_a_client_on_a_unix_socket_has_no_address(book: Book) -> None:
    up = GET_UP.replace(b"x-forwarded-for: 10.1.1.1\r\n", b"")
    assert book(peer="")(("down", GET)) == [("up", up)]


def test_what_is_counted(book: Book) -> None:
    play = book()
    play(*WARM, *WARM, ("down", EOF))
    names = ("downstream_cx_total", "downstream_cx_destroy", "downstream_rq_total", "downstream_rq_2xx")
    assert [play.count(f"http.web.{name}") for name in names] == [1, 1, 2, 2]
    sizes = (
        "http.web.downstream_cx_rx",
        "http.web.downstream_cx_tx",
        "cluster.api.upstream_cx_rx",
        "cluster.api.upstream_cx_tx",
    )
    assert [play.count(f"{name}_bytes_total") for name in sizes] == [
        2 * len(GET), 2 * len(HI_DOWN), 2 * len(HI), 2 * len(GET_UP),
    ]  # fmt: skip
    names = (
        "upstream_cx_total",
        "upstream_rq_total",
        "upstream_rq_completed",
        "upstream_rq_200",
        "upstream_rq_pending_total",
    )
    assert [play.count(f"cluster.api.{name}") for name in names] == [1, 2, 2, 2, 1]
