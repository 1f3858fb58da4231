"""RFC 9112, HTTP/1.1: what it demands of an intermediary, section by section."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.conformance.sides import downstream, ended, received, request, response, status, upstream
from tests.kit.phrases import CHUNKED, GET, HI, POST, WARM
from tests.kit.playbook import EOF, RESET, Playbook

Book = Callable[..., Playbook]

SECOND = b"GET /second HTTP/1.1\r\nHost: h\r\n\r\n"
CHUNKED_POST = request("Transfer-Encoding: chunked", line="POST /a HTTP/1.1")

# Each kind of error that a message can have; the request behind it must never be seen.
ERRORS = {
    "no request line": (b"\x00\x01\r\n\r\n", 400),
    "bare lf": (b"GET /a HTTP/1.1\nHost: h\r\n\r\n", 400),
    "version": (b"GET /a HTTP/2.0\r\nHost: h\r\n\r\n", 505),
    "target": (b"GET a HTTP/1.1\r\nHost: h\r\n\r\n", 400),
    "climbing path": (b"GET /../a HTTP/1.1\r\nHost: h\r\n\r\n", 400),
    "host": (b"GET /a HTTP/1.1\r\n\r\n", 400),
    "fold": (request("X: a", " b"), 400),
    "space before the colon": (request("X : a"), 400),
    "both framings": (request("Content-Length: 5", "Transfer-Encoding: chunked", body="0\r\n\r\n"), 400),
    "repeated length": (request("Content-Length: 0", "Content-Length: 0"), 400),
    "coding": (request("Transfer-Encoding: gzip, chunked", body="0\r\n\r\n"), 501),
    "nomination": (request("Connection: host"), 400),
    "chunk size": (CHUNKED_POST + b"x\r\n", 400),
    "chunk end": (CHUNKED_POST + b"1\r\nab\r\n0\r\n\r\n", 400),
    "trailer": (CHUNKED_POST + b"0\r\nHost: x\r\n\r\n", 400),
    "connect": (b"CONNECT h:1 HTTP/1.1\r\nHost: h:1\r\n\r\n", 501),
    "trace with a body": (request("Content-Length: 1", line="TRACE / HTTP/1.1", body="x"), 400),
    "too many fields": (request(*["X: y"] * 101), 431),
    "http/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
}


# 2: messages


@pytest.mark.parametrize("name", ERRORS)
@pytest.mark.parametrize("pieces", [0, 1])
def test_section_2_2_what_follows_an_error_is_never_seen(book: Book, name: str, pieces: int) -> None:
    raw, code = ERRORS[name]
    play = book(http2=False)  # which would understand one of them
    data = raw + SECOND
    size = pieces or len(data)
    play(*[("down", data[start : start + size]) for start in range(0, len(data), size)])
    up = play.find("up")
    assert up is None or (b"/second" not in received(play, "up") and up.closed)
    assert received(play, "down").startswith(b"HTTP/1.1 %d " % code)
    assert received(play, "down").count(b"HTTP/1.1 ") == 1
    assert b"\r\nConnection: close\r\n" in received(play, "down")
    assert ended(play, "down")


@pytest.mark.parametrize("name", ERRORS)
def test_section_2_2_an_error_behind_a_request_does_not_take_its_answer_away(book: Book, name: str) -> None:
    raw, code = ERRORS[name]
    play = book()
    play(("down", GET + raw + SECOND), ("up", HI))
    answers = received(play, "down").split(b"HTTP/1.1 ")[1:]
    assert [answer[:3] for answer in answers] == [b"200", b"%d" % code]
    assert ended(play, "down")


def test_section_2_2_an_empty_line_before_a_request_is_ignored(book: Book) -> None:
    assert upstream(book(), b"\r\n" + GET)[0] == "GET /a HTTP/1.1"
    assert status(book(), b"\r\n\r\n\r\n" + GET) == 400  # but no endless row of them


def test_section_2_2_whitespace_before_the_first_field_is_refused(book: Book) -> None:
    assert status(book(), b"GET /a HTTP/1.1\r\n Host: h\r\n\r\n") == 400
    assert status(book(), GET, b"HTTP/1.1 200 OK\r\n X: y\r\n\r\n") == 502


def test_section_2_2_bare_cr_is_refused_both_ways(book: Book) -> None:
    assert status(book(), GET.replace(b"Host", b"X: a\rb\r\nHost")) == 400
    assert status(book(), GET, response("X: a\rb", "Content-Length: 0")) == 502


def test_section_2_3_versions_from_origins_are_1_0_and_1_1(book: Book) -> None:
    assert status(book(), GET, response("Content-Length: 0", line="HTTP/2.0 200 OK")) == 502
    assert status(book(), GET, response("Content-Length: 0", line="HTTP/1.2 200 OK")) == 502


# 3: request line


@pytest.mark.parametrize("line", ["GET  /a HTTP/1.1", "GET /a  HTTP/1.1", "GET\t/a HTTP/1.1", " GET /a HTTP/1.1"])
def test_section_3_exactly_one_space(book: Book, line: str) -> None:
    assert status(book(), request(line=line)) == 400


def test_section_3_a_request_line_of_8000_octets_is_forwarded(book: Book) -> None:
    line = "GET /" + "a" * 8000 + " HTTP/1.1"
    assert upstream(book(), request(line=line))[0] == line


@pytest.mark.parametrize("target", ["/a b", "a", "?q", "/a#b", "*", "http:/a", "ftp://h/", "http:///a", "//h@x:y/ z"])
def test_section_3_2_an_invalid_target_is_refused_and_not_redirected(book: Book, target: str) -> None:
    assert status(book(), request(line=f"GET {target} HTTP/1.1")) == 400


def test_section_3_2_2_the_authority_of_an_absolute_target_replaces_host(book: Book) -> None:
    lines = upstream(book(), request(line="GET http://other:81/a HTTP/1.1"))
    assert lines == ["GET /a HTTP/1.1", "Host: other:81"]


def test_section_3_2_2_the_scheme_of_an_absolute_target_does_not_speak_for_the_connection(book: Book) -> None:
    play = book()
    play(("down", request(line="GET https://h/a HTTP/1.1")))
    assert b"\r\nx-forwarded-proto: http\r\n" in received(play, "up")


def test_section_3_2_2_a_host_field_is_needed_even_then(book: Book) -> None:
    assert status(book(), request(line="GET http://h/a HTTP/1.1", host="")) == 400
    assert status(book(), request("Host: i", line="GET http://h/a HTTP/1.1")) == 400


def test_section_3_2_4_only_options_has_an_asterisk(book: Book) -> None:
    assert status(book(), request(line="POST * HTTP/1.1")) == 400


# 4: status line


@pytest.mark.parametrize("line", ["HTTP/1.1 200", "HTTP/1.1 200 ", "HTTP/1.1 200 Fine, \xfc"])
def test_section_4_any_phrase_will_do(book: Book, line: str) -> None:
    assert downstream(book(), response("Content-Length: 0", line=line))[0].startswith("HTTP/1.1 200")


@pytest.mark.parametrize("line", ["HTTP/1.1  200 OK", "HTTP/1.1 2OO OK", "HTTP/1.1\t200 OK", "ICY 200 OK", "200 OK"])
def test_section_4_a_status_line_is_exact(book: Book, line: str) -> None:
    assert status(book(), GET, response("Content-Length: 0", line=line)) == 502


# 5: fields


@pytest.mark.parametrize("field", ["X : y", "X\t: y", ": y", "X y", "X(: y", "\xfc: y"])
def test_section_5_1_no_whitespace_and_a_token_before_the_colon(book: Book, field: str) -> None:
    assert status(book(), request(field)) == 400
    assert status(book(), GET, response(field, "Content-Length: 0")) == 502


def test_section_5_1_whitespace_around_a_value_is_no_part_of_it(book: Book) -> None:
    assert upstream(book(), request("X:\t y \t", "Y:"))[2:] == ["X: y", "Y: "]


def test_section_5_2_folded_lines_are_refused_both_ways(book: Book) -> None:
    assert status(book(), request("X: a", "\tb")) == 400
    assert status(book(), GET, response("X: a", " b", "Content-Length: 0")) == 502


# 6: body and framing


def test_section_6_1_no_transfer_encoding_towards_http_1_0(book: Book) -> None:
    play = book()
    play(("down", request(line="GET /a HTTP/1.0", host="")), ("up", CHUNKED + b"2\r\nhi\r\n0\r\n\r\n"))
    assert b"ransfer-" not in received(play, "down")
    assert received(play, "down").endswith(b"\r\nConnection: close\r\n\r\nhi")
    assert ended(play, "down")


def test_section_6_1_no_transfer_encoding_from_http_1_0(book: Book) -> None:
    coded = request("Transfer-Encoding: chunked", line="POST /a HTTP/1.0", body="0\r\n\r\n")
    assert status(book(), coded) == 400
    assert status(book(), GET, CHUNKED.replace(b"1.1", b"1.0") + b"0\r\n\r\n") == 502


@pytest.mark.parametrize("code", ["101 S", "199 X", "204 N"])
def test_section_6_1_no_transfer_encoding_without_content(book: Book, code: str) -> None:
    assert status(book(), GET, response("Transfer-Encoding: chunked", line=f"HTTP/1.1 {code}") + b"0\r\n\r\n") == 502


@pytest.mark.parametrize("coding", ["chunked, chunked", "chunked, gzip", "chunked;q=1", "x chunked", "", "\x0bchunked"])
def test_section_6_1_chunked_once_and_last(book: Book, coding: str) -> None:
    assert status(book(), request(f"Transfer-Encoding: {coding}", body="0\r\n\r\n")) == 400
    assert status(book(), GET, response(f"Transfer-Encoding: {coding}", body="0\r\n\r\n")) == 502


def test_section_6_1_a_coding_that_we_do_not_know_is_a_501(book: Book) -> None:
    assert status(book(), request("Transfer-Encoding: gzip, chunked", body="0\r\n\r\n")) == 501


def test_section_6_3_both_framings_are_an_attack(book: Book) -> None:
    both = ["Content-Length: 5", "Transfer-Encoding: chunked"]
    assert status(book(), request(*both, body="0\r\n\r\n")) == 400
    assert status(book(), GET, response(*both, body="0\r\n\r\n")) == 502


def test_section_6_3_a_request_without_framing_has_no_body(book: Book) -> None:
    play = book()
    play(("down", request(line="POST /a HTTP/1.1") + SECOND), ("up", HI), ("up", HI))
    assert received(play, "down").count(b"HTTP/1.1 200 OK") == 2


def test_section_6_3_a_response_without_framing_lasts_until_close(book: Book) -> None:
    play = book()
    play(("down", GET), ("up", b"HTTP/1.0 200 OK\r\n\r\nhalf"), ("up", b" whole"), ("up", EOF))
    assert b"\r\nTransfer-Encoding: chunked\r\n" in received(play, "down")
    assert received(play, "down").endswith(b"\r\n\r\n4\r\nhalf\r\n6\r\n whole\r\n0\r\n\r\n")
    assert not ended(play, "down")


@pytest.mark.parametrize(
    "extra", [b"x", b"\r\n", HI, b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nbad"]
)
@pytest.mark.parametrize("together", [True, False])
def test_section_6_3_bytes_behind_a_response_are_never_the_next_one(book: Book, extra: bytes, together: bool) -> None:
    """An origin answered twice; the second answer went to whoever came next on that connection."""
    play = book()
    play(("down", GET), *([("up", HI + extra)] if together else [("up", HI), ("up", extra)]))
    play(("down", SECOND), ("up2", response("Content-Length: 4", body="good")))
    assert received(play, "down").endswith(b"\r\n\r\ngood")
    assert b"/second" not in received(play, "up")
    assert b"bad" not in received(play, "down")


@pytest.mark.parametrize("code", ["204 N", "304 N"])
def test_section_6_3_what_follows_a_response_without_a_body_is_not_its_body(book: Book, code: str) -> None:
    play = book()
    play(("down", GET), ("up", response(line=f"HTTP/1.1 {code}") + HI), ("down", SECOND), ("up2", HI))
    assert received(play, "up2").startswith(b"GET /second ")


def test_section_6_3_a_body_in_answer_to_head_is_not_forwarded(book: Book) -> None:
    play = book()
    play(("down", GET.replace(b"GET", b"HEAD")), ("up", HI), ("down", SECOND), ("up2", HI))
    assert received(play, "down").endswith(b"Content-Length: 2\r\n\r\nhi")
    assert received(play, "down").count(b"hi") == 1 + received(play, "down").count(b"via: 1.1 hi")


# 7: chunks


def test_section_7_1_chunks_are_read_and_written_anew(book: Book) -> None:
    play = book()
    play(("down", CHUNKED_POST + b"00002\r\nhi\r\nA\r\n0123456789\r\n00\r\n\r\n"))
    assert received(play, "up").endswith(b"\r\n\r\nc\r\nhi0123456789\r\n0\r\n\r\n")


def test_section_7_1_1_extensions_are_ignored_and_bounded(book: Book) -> None:
    play = book()
    play(("down", CHUNKED_POST + b'2;a=b;c="d"\r\nhi\r\n0;e\r\n\r\n'))
    assert received(play, "up").endswith(b"\r\n\r\n2\r\nhi\r\n0\r\n\r\n")
    assert status(book(), CHUNKED_POST + b"2;" + b"a" * 300 + b"\r\nhi\r\n0\r\n\r\n") == 400


@pytest.mark.parametrize("size", ["0x2", "+2", "-2", " 2", "2 ", "2_0", "", "g", "ffffffffffffffffff", "2\n"])
def test_section_7_1_a_size_is_hexadecimal_and_nothing_else(book: Book, size: str) -> None:
    chunk = size.encode() + b"\r\nhi\r\n0\r\n\r\n"
    assert status(book(), CHUNKED_POST + chunk) == 400
    play = book()
    play(("down", GET), ("up", CHUNKED + chunk))
    assert not received(play, "down").endswith(b"0\r\n\r\n")
    assert ended(play, "down")


def test_section_7_1_2_trailers_have_limits(book: Book) -> None:
    assert status(book(), CHUNKED_POST + b"0\r\n" + b"X: y\r\n" * 101 + b"\r\n") == 431
    assert status(book(), CHUNKED_POST + b"0\r\nX: " + b"y" * 9000 + b"\r\n\r\n") == 431


# 8: incomplete messages


@pytest.mark.parametrize("end", [EOF, RESET])
@pytest.mark.parametrize("length", range(1, len(POST)))
def test_section_8_an_incomplete_request_is_never_completed(book: Book, length: int, end: str) -> None:
    play = book()
    play(("down", POST[:length]), ("down", end))
    assert not received(play, "up").endswith(b"body")
    assert received(play, "down") == b""


@pytest.mark.parametrize(
    "answer", [CHUNKED + b"2\r\nhi\r\n", CHUNKED + b"2\r\nh", CHUNKED + b"0\r\n", HI[:-1]], ids=range(4)
)
@pytest.mark.parametrize("end", [EOF, RESET])
def test_section_8_an_incomplete_response_is_forwarded_as_incomplete(book: Book, answer: bytes, end: str) -> None:
    play = book()
    play(("down", GET), ("up", answer), ("up", end))
    assert received(play, "down").startswith(b"HTTP/1.1 200 OK\r\n")
    assert not received(play, "down").endswith((b"0\r\n\r\n", b"hi"))
    assert ended(play, "down")


# 9: connections


def test_section_9_3_connections_persist_on_both_sides(book: Book) -> None:
    play = book()
    play(*WARM, *WARM)
    assert play.find("up2") is None
    assert not ended(play, "down")


def test_section_9_3_http_1_0_persists_on_request(book: Book) -> None:
    play = book()
    play(("down", request("Connection: keep-alive", line="GET /a HTTP/1.0")), ("up", HI))
    assert b"\r\nConnection: keep-alive\r\n" in received(play, "down")
    assert not ended(play, "down")
    assert ended(play, "up") is False


def test_section_9_3_an_origin_of_http_1_0_is_used_again_when_it_says_so(book: Book) -> None:
    old = HI.replace(b"1.1", b"1.0")
    play = book()
    play(("down", GET), ("up", old), ("down", GET), ("up2", old.replace(b"\r\n", b"\r\nConnection: keep-alive\r\n", 1)))
    play(("down", GET), ("up2", HI))
    assert received(play, "down").endswith(b"hi")


def test_section_9_3_2_pipelined_requests_are_answered_in_their_order(book: Book) -> None:
    play = book()
    play(("down", GET + SECOND))
    assert b"/second" not in received(play, "up")  # one at a time: an origin may get it wrong
    play(("up", HI), ("up", response("Content-Length: 4", body="last")))
    assert received(play, "down").index(b"\r\n\r\nlast") > 0


def test_section_9_5_a_client_that_is_silent_is_let_go(book: Book) -> None:
    play = book(keepalive_timeout_s=60.0)
    play(*WARM, ("time", 61))
    assert ended(play, "down")


def test_section_9_5_half_a_close_is_not_a_whole_one(book: Book) -> None:
    play = book()
    play(("down", GET), ("down", EOF), ("up", HI))
    assert received(play, "down").endswith(b"\r\n\r\nhi")


def test_section_9_6_close_from_the_client_is_answered_with_close(book: Book) -> None:
    play = book()
    play(("down", request("Connection: close") + SECOND), ("up", HI))
    assert b"\r\nConnection: close\r\n" in received(play, "down")
    assert b"lose" not in received(play, "up")  # between the client and us
    assert b"/second" not in received(play, "up")
    assert ended(play, "down")


def test_section_9_6_close_from_the_origin_ends_that_connection_only(book: Book) -> None:
    play = book()
    play(("down", GET), ("up", response("Connection: close", "Content-Length: 0")), ("down", SECOND), ("up2", HI))
    assert b"lose" not in received(play, "down")
    assert ended(play, "up")
    assert not ended(play, "down")


def test_section_9_6_an_answer_is_not_lost_in_the_close(book: Book) -> None:
    """A socket closed with unread bytes in it resets the peer, which then never reads the answer: so it lingers."""
    play = book()
    play(("down", request("Content-Length: 9", line="POST /a HTTP/1.1", body="1")))
    play(("up", response("Content-Length: 2", line="HTTP/1.1 413 C", body="no")), ("down", b"2345678"))
    assert received(play, "down").endswith(b"\r\n\r\nno")
    assert ("down", RESET) not in play.received


def test_section_9_6_a_response_that_lasts_until_close_breaks_off_with_a_reset(book: Book) -> None:
    play = book()
    play(("down", request(line="GET /a HTTP/1.0")), ("up", CHUNKED + b"2\r\nhi\r\n"), ("up", EOF))
    assert ("down", RESET) in play.received


# 11: security


@pytest.mark.parametrize("bad", ["a\r\nX-Evil: 1", "a\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"])
def test_section_11_1_a_redirect_cannot_split_the_response(book: Book, bad: str) -> None:
    """Whatever a target contains when it is given back in Location, it has no line ends."""
    assert b"X-Evil" not in b"".join(
        what for _, what in book()(("down", request(line=f"GET /{bad} HTTP/1.1"))) if isinstance(what, bytes)
    )


def test_section_11_2_bytes_of_a_body_are_never_a_request(book: Book) -> None:
    play = book()
    inner = SECOND.decode()
    play(("down", request(f"Content-Length: {len(inner)}", line="POST /a HTTP/1.1", body=inner)), ("up", HI))
    assert received(play, "down").count(b"HTTP/1.1 ") == 1
    assert received(play, "up").count(b"x-request-id") == 1
