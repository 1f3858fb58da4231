"""Conversations about where requests go, and what happens when that place does not answer as it should."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from hotproxy.config.model import DirectResponse, Redirect, Route
from hotproxy.proxy.held_body import MAX_HELD_BYTES
from tests.kit.phrases import (
    ANSWERED,
    CHUNKED,
    CHUNKED_DOWN,
    CHUNKED_POST,
    CHUNKED_POST_UP,
    CONNECT_FAILED,
    CONNECT_FAILED_HERE,
    CONNECT_TIMED_OUT,
    FORWARDED,
    GET,
    GET_UP,
    HI,
    HI_DOWN,
    POST,
    POST_UP,
    PROTOCOL_ERROR,
    TERMINATED,
    WARM,
    local,
)
from tests.kit.playbook import EOF, HANGS, NO_DESCRIPTOR, REFUSED, RESET, TIMED_OUT, Playbook

Book = Callable[..., Playbook]


# -- to the endpoint and back


def test_a_request_and_its_response(book: Book) -> None:
    assert book()(("down", GET), ("up", HI)) == [("up", GET_UP), ("down", HI_DOWN)]


def test_byte_by_byte_the_sides_receive_the_same(book: Book) -> None:
    play = book()
    steps = [("down", bytes((byte,))) for byte in POST] + [("up", bytes((byte,))) for byte in HI]
    assert play(*steps) == [("up", POST_UP), ("down", HI_DOWN)]


def test_the_connection_is_used_again(book: Book) -> None:
    play = book()
    assert play(*WARM, *WARM) == [("up", GET_UP), ("down", HI_DOWN)] * 2
    assert play.connects_to == ["10.0.0.1:9000"]


def test_a_request_body_with_a_length(book: Book) -> None:
    assert book()(("down", POST), ("up", HI)) == [("up", POST_UP), ("down", HI_DOWN)]


def test_a_chunked_request_body_with_trailers(book: Book) -> None:
    played = book()(("down", CHUNKED_POST + b"2\r\nab\r\n"), ("down", b"1\r\nc\r\n0\r\nX: y\r\n\r\n"), ("up", HI))
    assert played == [
        ("up", CHUNKED_POST_UP + b"2\r\nab\r\n1\r\nc\r\n0\r\nX: y\r\n\r\n"),
        ("down", HI_DOWN),
    ]


def test_trailers_of_the_request_are_not_those_of_the_response(book: Book) -> None:
    """A response head that came before the request's trailers used to send them back."""
    played = book()(
        ("down", CHUNKED_POST),
        ("up", CHUNKED),
        ("down", b"0\r\nX: y\r\n\r\n"),
        ("up", b"0\r\n\r\n"),
    )
    down = CHUNKED_DOWN.replace(b"chunked\r\n\r\n", b"chunked\r\nConnection: close\r\n\r\n")
    assert played == [
        ("up", CHUNKED_POST_UP),
        ("down", down),
        ("up", b"0\r\nX: y\r\n\r\n"),
        ("down", b"0\r\n\r\n"),
        ("down", EOF),
    ]


def test_a_chunked_response_with_trailers(book: Book) -> None:
    played = book()(("down", GET), ("up", CHUNKED + b"2\r\nhi\r\n"), ("up", b"0\r\nX: y\r\n\r\n"))
    assert played == [("up", GET_UP), ("down", CHUNKED_DOWN + b"2\r\nhi\r\n0\r\nX: y\r\n\r\n")]


def test_a_response_until_close_becomes_chunked(book: Book) -> None:
    played = book()(("down", GET), ("up", b"HTTP/1.0 200 OK\r\n\r\nhi"), ("up", EOF))
    via = CHUNKED_DOWN.replace(b"via: 1.1", b"via: 1.0")
    assert played == [("up", GET_UP), ("down", via + b"2\r\nhi\r\n"), ("up", EOF), ("down", b"0\r\n\r\n")]


@pytest.mark.parametrize("status", [b"204 No Content", b"304 Not Modified"])
def test_responses_without_a_body(book: Book, status: bytes) -> None:
    play = book()
    answer = b"HTTP/1.1 " + status + b"\r\nETag: x\r\n\r\n"
    down = b"HTTP/1.1 " + status + b"\r\nETag: x\r\n" + ANSWERED + b"\r\n"
    assert play(("down", GET), ("up", answer), *WARM) == [
        ("up", GET_UP), ("down", down), ("up", GET_UP), ("down", HI_DOWN),
    ]  # fmt: skip


def test_head_has_the_length_of_get_and_no_body(book: Book) -> None:
    head = GET.replace(b"GET", b"HEAD")
    played = book()(("down", head), ("up", HI[:-2]), *WARM)
    assert played == [
        ("up", GET_UP.replace(b"GET", b"HEAD")), ("down", HI_DOWN[:-2]), ("up", GET_UP), ("down", HI_DOWN),
    ]  # fmt: skip


def test_interim_responses_and_expect(book: Book) -> None:
    expecting = b"PUT /a HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n"
    up = b"PUT /a HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\n" + FORWARDED + b"Content-Length: 4\r\n\r\n"
    played = book()(
        ("down", expecting),
        ("up", b"HTTP/1.1 100 Continue\r\n\r\n"),
        ("down", b"body"),
        ("up", b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + HI),
    )
    assert played == [
        ("up", up),
        ("down", b"HTTP/1.1 100 Continue\r\n\r\n"),
        ("up", b"body"),
        ("down", b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + HI_DOWN),
    ]


def test_a_client_of_http_1_0_gets_neither_interim_responses_nor_chunks(book: Book) -> None:
    get = b"GET /a HTTP/1.0\r\nHost: h\r\n\r\n"
    up = GET_UP.replace(b"via: 1.1", b"via: 1.0")
    played = book()(
        ("down", get), ("up", b"HTTP/1.1 103 Early Hints\r\n\r\n" + CHUNKED + b"2\r\nhi\r\n"), ("up", b"0\r\n\r\n")
    )
    down = b"HTTP/1.1 200 OK\r\n" + ANSWERED + b"Connection: close\r\n\r\nhi"
    assert played == [("up", up), ("down", down), ("down", EOF)]


def test_an_early_answer_ends_both_connections(book: Book) -> None:
    """An upload that is refused: the answer arrives, the rest of the body is nobody's business."""
    post = b"POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\nbody"
    played = book()(("down", post), ("up", b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n"), ("down", b"more!"))
    up = POST_UP.replace(b"Length: 4", b"Length: 9")
    down = b"HTTP/1.1 413 Too Large\r\n" + ANSWERED + b"Content-Length: 0\r\nConnection: close\r\n\r\n"
    assert played == [("up", up), ("up", EOF), ("down", down), ("down", EOF)]


def test_an_origin_that_wants_to_close_is_not_used_again(book: Book) -> None:
    closing = HI.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    played = book()(("down", GET), ("up", closing), ("down", GET), ("up2", HI))
    assert played == [("up", GET_UP), ("up", EOF), ("down", HI_DOWN), ("up2", GET_UP), ("down", HI_DOWN)]


# -- answers of our own


@pytest.mark.parametrize(
    ("route", "answer", "expected"),
    [
        (Route(path="/other", cluster="api"), local(b"404 Not Found"), (("NR",), "route_not_found", 404)),
        (
            Route(prefix="/", cluster="gone"),
            local(b"503 Service Unavailable"),
            (("NC",), "cluster_not_found", 503),
        ),
        (
            Route(prefix="/", redirect=Redirect(path="/b", status=308)),
            local(b"308 Permanent Redirect", fields=b"location: http://h/b\r\n"),
            ((), "direct_response", 308),
        ),
        (
            Route(prefix="/", direct_response=DirectResponse(418, "short and stout")),
            local(b"418 I'm a Teapot", b"short and stout"),
            ((), "direct_response", 418),
        ),
    ],
)
def test_answers_without_an_endpoint(book: Book, route: Route, answer: bytes, expected: object) -> None:
    play = book(routes=[route])
    assert play(("down", GET), ("down", GET)) == [("down", answer + answer)]
    assert play.ended() == expected


def test_a_local_answer_to_head_has_no_body(book: Book) -> None:
    play = book(routes=[Route(prefix="/", direct_response=DirectResponse(200, "hello"))])
    played = play(("down", GET.replace(b"GET", b"HEAD")))
    assert played == [("down", local(b"200 OK", b"hello")[: -len(b"hello")])]
    assert play.log.infos[-1].tx_bytes == 0


def test_a_whole_body_that_nobody_reads_does_not_cost_the_connection(book: Book) -> None:
    play = book(routes=[Route(prefix="/", direct_response=DirectResponse(200, "x"))])
    assert play(("down", POST + GET)) == [("down", local(b"200 OK", b"x") * 2)]


def test_an_answer_before_the_body_is_read_closes(book: Book) -> None:
    play = book(routes=[Route(prefix="/", direct_response=DirectResponse(200, "x"))])
    assert play(("down", POST[:-1])) == [("down", local(b"200 OK", b"x", close=True)), ("down", EOF)]


def test_a_path_above_the_root_is_refused(book: Book) -> None:
    play = book()
    played = play(("down", GET.replace(b"/a", b"/../a")))
    assert played == [("down", local(b"400 Bad Request", b"path_normalization_failed", close=True)), ("down", EOF)]
    assert play.ended() == (("DPE",), "path_normalization_failed", 400)


def test_a_request_that_goes_in_circles_is_refused(book: Book) -> None:
    via = b", ".join([b"1.1 hotproxy"] * 16)
    play = book()
    played = play(("down", GET.replace(b"\r\n\r\n", b"\r\nVia: " + via + b"\r\n\r\n")))
    assert played == [("down", local(b"508 Loop Detected", b"request loop detected"))]


def test_rewrites(book: Book) -> None:
    play = book(routes=[Route(prefix="/a", prefix_rewrite="/b", host_rewrite="inner", cluster="api")])
    assert play(("down", GET.replace(b"/a", b"/x/../a?q"))) == [
        ("up", GET_UP.replace(b"/a", b"/b?q").replace(b"Host: h", b"host: inner"))
    ]
    play.end()
    info = play.log.infos[-1]
    assert (info.original_path, info.path, info.authority) == ("/x/../a?q", "/b?q", "inner")


# -- endpoints that cannot be reached


def test_the_next_endpoint_when_the_first_refuses(book: Book) -> None:
    play = book(endpoints=["10.0.0.1:1", "10.0.0.2:2", "10.0.0.3:3"], outcomes=[REFUSED, TIMED_OUT])
    assert play(("down", GET), ("up", HI)) == [("up", GET_UP), ("down", HI_DOWN)]
    assert play.connects_to == ["10.0.0.1:1", "10.0.0.2:2", "10.0.0.3:3"]
    names = (
        "upstream_rq_retry",
        "upstream_rq_retry_success",
        "upstream_cx_connect_fail",
        "upstream_cx_connect_timeout",
    )
    assert [play.count(f"cluster.api.{name}") for name in names] == [2, 1, 2, 1]


def test_a_post_goes_to_the_next_endpoint_too(book: Book) -> None:
    play = book(endpoints=["10.0.0.1:1", "10.0.0.2:2"], outcomes=[REFUSED])
    assert play(("down", POST), ("up", HI)) == [("up", POST_UP), ("down", HI_DOWN)]


@pytest.mark.parametrize(
    ("outcome", "body", "details"),
    [(REFUSED, CONNECT_FAILED, "connection_failure"), (TIMED_OUT, CONNECT_TIMED_OUT, "connection_timeout")],
)
@pytest.mark.parametrize("endpoints", [1, 3])
def test_no_endpoint_can_be_reached(book: Book, outcome: str, body: bytes, details: str, endpoints: int) -> None:
    names = [f"10.0.0.{number}:1" for number in range(endpoints)]
    play = book(endpoints=names, outcomes=[outcome] * 5)
    assert play(("down", GET)) == [("down", local(b"503 Service Unavailable", body))]
    assert play.ended() == (("UF",), f"upstream_reset_before_response_started{{{details}}}", 503)
    assert len(play.connects_to) == max(2, endpoints)
    assert play.count("cluster.api.upstream_rq_503") == 1


def test_no_descriptor_for_a_connect_is_not_the_endpoints_fault(book: Book) -> None:
    """EMFILE was counted and told as a failure of the endpoint, and every other endpoint was tried in its place."""
    play = book(endpoints=["10.0.0.1:1", "10.0.0.2:2", "10.0.0.3:3"], outcomes=[NO_DESCRIPTOR] * 3)
    assert play(("down", GET)) == [("down", local(b"503 Service Unavailable", CONNECT_FAILED_HERE))]
    assert play.ended() == (("UF",), "upstream_reset_before_response_started{local_connection_failure}", 503)
    names = ("upstream_cx_connect_local_fail", "upstream_cx_connect_fail", "upstream_cx_total", "upstream_rq_retry")
    assert [play.count(f"cluster.api.{name}") for name in names] == [2, 2, 2, 1]
    assert play.count("cluster.api.upstream_rq_503") == 1


def test_an_endpoint_is_not_avoided_for_what_we_lack(book: Book) -> None:
    for outcome, avoided in ((NO_DESCRIPTOR, []), (REFUSED, ["10.0.0.1:1"])):
        play = book(endpoints=["10.0.0.1:1", "10.0.0.2:2"], outcomes=[outcome, HANGS])
        play(("down", GET))
        stream: Any = play.manager.dump()["stream"]
        assert stream["router"]["avoid"] == avoided
        play(("down", RESET))


def test_a_connect_that_we_had_no_descriptor_for_comes_about_in_the_next_turn(book: Book) -> None:
    play = book(outcomes=[NO_DESCRIPTOR])
    assert play(("down", POST), ("up", HI)) == [("up", POST_UP), ("down", HI_DOWN)]
    assert play.count("cluster.api.upstream_rq_retry_success") == 1


def test_a_cluster_without_endpoints(book: Book) -> None:
    play = book(endpoints=[])
    assert play(("down", GET)) == [("down", local(b"503 Service Unavailable", b"no healthy upstream"))]
    assert play.ended() == (("UH",), "no_healthy_upstream", 503)
    assert play.count("cluster.api.upstream_cx_none_healthy") == 1


def test_a_client_that_leaves_while_connecting(book: Book) -> None:
    play = book(outcomes=[HANGS])
    assert play(("down", GET), ("down", RESET)) == []
    assert play.ended() == (("DC",), "downstream_remote_disconnect", 0)


# -- endpoints that break off


@pytest.mark.parametrize("end", [EOF, RESET])
def test_a_new_connection_that_dies_before_the_response(book: Book, end: str) -> None:
    play = book()
    played = play(("down", GET), ("up", end))
    assert [step for step in played if step[0] == "down"] == [
        ("down", local(b"503 Service Unavailable", TERMINATED)),
    ]
    assert play.ended() == (("UC",), "upstream_reset_before_response_started{connection_termination}", 503)
    assert play.count("cluster.api.upstream_rq_rx_reset") == 1


def test_a_reused_connection_that_dies_is_replaced_once(book: Book) -> None:
    play = book()
    play(*WARM)
    assert play(("down", GET), ("up", EOF), ("up2", HI)) == [
        ("up", GET_UP), ("up", EOF), ("up2", GET_UP), ("down", HI_DOWN),
    ]  # fmt: skip
    assert play.count("cluster.api.upstream_rq_retry") == 1
    assert play.log.infos[-1].attempts == 2


def test_and_only_once(book: Book) -> None:
    play = book()
    play(*WARM)
    assert play(("down", GET), ("up", RESET), ("up2", RESET)) == [
        ("up", GET_UP), ("up2", GET_UP), ("down", local(b"503 Service Unavailable", TERMINATED)),
    ]  # fmt: skip


def test_a_put_is_sent_again_with_its_body(book: Book) -> None:
    play = book()
    play(*WARM)
    put, put_up = POST.replace(b"POST", b"PUT"), POST_UP.replace(b"POST", b"PUT")
    assert play(("down", put[:-2]), ("up", RESET), ("down", put[-2:]), ("up2", HI)) == [
        ("up", put_up[:-2]), ("up2", put_up), ("down", HI_DOWN),
    ]  # fmt: skip


def test_a_put_too_large_to_be_held_is_not(book: Book) -> None:
    play = book()
    play(*WARM)
    body = b"x" * (MAX_HELD_BYTES + 1)
    put = b"PUT /a HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % len(body)
    played = play(("down", put + body), ("up", RESET))
    assert played[-1] == ("down", local(b"503 Service Unavailable", TERMINATED))
    assert play.buffered.value == 0


def test_a_post_is_never_sent_twice(book: Book) -> None:
    play = book()
    play(*WARM)
    assert play(("down", POST), ("up", RESET)) == [
        ("up", POST_UP), ("down", local(b"503 Service Unavailable", TERMINATED)),
    ]  # fmt: skip


def test_a_post_of_which_nothing_has_left_is(book: Book) -> None:
    play = book()
    play(*WARM)
    played = play(("window", "up", 0), ("down", POST), ("up", RESET), ("up2", HI))
    assert played == [("up2", POST_UP), ("down", HI_DOWN)]


def test_a_post_looks_twice_before_it_takes_an_old_connection(book: Book) -> None:
    """The endpoint has closed, but the loop has not told us yet."""
    play = book()
    play(*WARM)
    play.side("up").inbox.append(EOF)
    play.loop.readers.pop(play.side("up").fileno())
    play.manager.connection._loop.add_reader(play.side("up").fileno(), lambda: None)
    play.side("down").inbox.append(POST)
    play.loop.readers[play.side("down").fileno()]()
    assert play.connects_to == ["10.0.0.1:9000"] * 2


def test_an_idle_connection_that_is_closed_is_not_taken(book: Book) -> None:
    play = book()
    assert play(*WARM, ("up", EOF), ("down", GET), ("up2", HI)) == [
        ("up", GET_UP), ("down", HI_DOWN), ("up", EOF), ("up2", GET_UP), ("down", HI_DOWN),
    ]  # fmt: skip


def test_an_idle_connection_that_speaks_is_closed(book: Book) -> None:
    late = b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n"
    play = book()
    assert play(*WARM, ("up", late), ("down", GET), ("up2", HI)) == [
        ("up", GET_UP), ("down", HI_DOWN), ("up", EOF), ("up2", GET_UP), ("down", HI_DOWN),
    ]  # fmt: skip


def test_a_response_that_breaks_off_is_not_completed(book: Book) -> None:
    play = book()
    assert play(("down", GET), ("up", CHUNKED + b"5\r\nhel"), ("up", RESET)) == [
        ("up", GET_UP), ("down", CHUNKED_DOWN + b"3\r\nhel\r\n"), ("down", EOF),
    ]  # fmt: skip
    assert play.ended() == (("UC",), "upstream_reset_after_response_started{connection_termination}", 200)


def test_a_client_of_http_1_0_learns_by_a_reset(book: Book) -> None:
    """Its body ends with the connection: a clean close would make half a file look whole."""
    play = book()
    played = play(("down", b"GET /a HTTP/1.0\r\nHost: h\r\n\r\n"), ("up", CHUNKED + b"5\r\nhel"), ("up", EOF))
    down = b"HTTP/1.1 200 OK\r\n" + ANSWERED + b"Connection: close\r\n\r\nhel"
    assert played[1:] == [("down", down), ("up", EOF), ("down", RESET)]


@pytest.mark.parametrize(
    "answer",
    [
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
    ],
)
def test_an_answer_that_breaks_the_rules(book: Book, answer: bytes) -> None:
    play = book()
    assert play(("down", GET), ("up", answer)) == [
        ("up", GET_UP), ("up", EOF), ("down", local(b"502 Bad Gateway", PROTOCOL_ERROR)),
    ]  # fmt: skip
    assert play.ended() == (("UPE",), "upstream_reset_before_response_started{protocol_error}", 502)
    assert play.count("cluster.api.upstream_cx_protocol_error") == 1


def test_a_body_that_breaks_the_rules(book: Book) -> None:
    play = book()
    assert play(("down", GET), ("up", CHUNKED), ("up", b"zz\r\n")) == [
        ("up", GET_UP), ("down", CHUNKED_DOWN), ("up", EOF), ("down", EOF),
    ]  # fmt: skip
    assert play.ended() == (("UPE",), "upstream_reset_after_response_started{protocol_error}", 200)


def test_bytes_behind_a_response_cost_the_connection(book: Book) -> None:
    """A second answer that nobody asked for must not become somebody's."""
    play = book()
    assert play(("down", GET), ("up", HI + HI), ("down", GET), ("up2", HI)) == [
        ("up", GET_UP), ("up", EOF), ("down", HI_DOWN), ("up2", GET_UP), ("down", HI_DOWN),
    ]  # fmt: skip
