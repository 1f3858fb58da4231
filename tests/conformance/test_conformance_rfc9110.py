"""RFC 9110, HTTP Semantics: what it demands of an intermediary, section by section."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from hotproxy.config.model import DirectResponse, Redirect, Route
from tests.conformance.sides import downstream, ended, received, request, response, status, upstream
from tests.kit.phrases import CHUNKED, GET, HI, SWITCH, WARM, WEBSOCKET, local
from tests.kit.playbook import EOF, HANGS, RESET, Playbook

Book = Callable[..., Playbook]

# 4: identifiers


def test_section_4_2_4_userinfo_in_an_authority_is_an_error(book: Book) -> None:
    assert status(book(), request(line="GET http://user@h/ HTTP/1.1")) == 400
    assert status(book(), request(host="Host: user@h")) == 400


@pytest.mark.parametrize("host", ["Host: h:99999", "Host: a,b", "Host: h/x", "Host: %68", "Host: ", "Host: h:"])
def test_section_4_2_1_an_authority_is_a_host_and_a_port(book: Book, host: str) -> None:
    assert status(book(), request(host=host)) == 400


# 5: fields


def test_section_5_1_unknown_fields_are_forwarded(book: Book) -> None:
    assert "X-Nobody-Knows: 1" in upstream(book(), request("X-Nobody-Knows: 1"))
    assert "X-Nobody-Knows: 1" in downstream(book(), response("X-Nobody-Knows: 1", "Content-Length: 0"))


def test_section_5_1_names_keep_their_case_and_match_in_any(book: Book) -> None:
    play = book(routes=[Route(prefix="/", headers=(("x-canary", "1"),), cluster="api")])
    assert "X-CaNaRy: 1" in upstream(play, request("X-CaNaRy: 1"))


def test_section_5_3_fields_of_one_name_keep_their_order(book: Book) -> None:
    fields = ["A: 1", "B: x", "a: 2", "A: 3"]
    assert upstream(book(), request(*fields))[2:] == fields
    assert downstream(book(), response(*fields, "Content-Length: 0"))[1:-1] == fields


def test_section_5_3_set_cookie_is_never_joined(book: Book) -> None:
    fields = ["Set-Cookie: a=1; Expires=Wed, 09 Jun 2021 10:18:14 GMT", "Set-Cookie: b=2"]
    assert downstream(book(), response(*fields, "Content-Length: 0"))[1:-1] == fields


def test_section_5_4_one_hundred_fields_and_no_more(book: Book) -> None:
    ninety_nine = [f"X-{number}: y" for number in range(99)]
    assert status(book(), request(*ninety_nine)) == 200
    assert status(book(), request(*ninety_nine, "X-More: y")) == 431


def test_section_5_4_what_one_hotproxy_lets_through_the_next_one_does_too(book: Book) -> None:
    """A hundred fields came in and 104 went out: the second hotproxy said 431, or the first 502 to the answer."""
    first = book()
    first(("down", request(*[f"X-{number}: y" for number in range(99)])))
    second = book()
    second(("down", received(first, "up")))
    assert received(second, "up").count(b"\r\nX-") == 99
    second(("up", response(*[f"X-{number}: y" for number in range(100)], line="HTTP/1.0 200 OK")), ("up", EOF))
    answer = received(second, "down")
    first(("up", answer))
    assert received(first, "down").startswith(b"HTTP/1.1 200 OK\r\n")


def test_section_5_4_own_fields_are_no_way_around_the_limit(book: Book) -> None:
    assert status(book(), request(*["Via: 1.1 a"] * 101)) == 431


def test_section_5_4_a_response_head_has_limits_too(book: Book) -> None:
    assert status(book(), GET, response(*["X: y"] * 101, "Content-Length: 0")) == 502
    assert status(book(), GET, response("X: " + "y" * 70_000, "Content-Length: 0")) == 502


@pytest.mark.parametrize("bad", ["\0", "\n", "\r", "\x01", "\x7f"])
def test_section_5_5_control_characters_are_refused_both_ways(book: Book, bad: str) -> None:
    assert status(book(), request(f"X: a{bad}b")) == 400
    assert status(book(), GET, response(f"X: a{bad}b", "Content-Length: 0")) == 502


def test_section_5_5_obs_text_goes_through(book: Book) -> None:
    assert "X: \xfc\xff" in upstream(book(), request("X: \xfc\xff"))


def test_section_5_6_1_empty_list_elements_are_allowed(book: Book) -> None:
    assert upstream(book(), request("Connection: , x-a ,, close,", "X-A: 1")) == ["GET /a HTTP/1.1", "Host: h"]


# 6: messages


def test_section_6_2_requests_and_responses_go_out_with_our_own_version(book: Book) -> None:
    assert upstream(book(), request(line="GET /a HTTP/1.0"))[0] == "GET /a HTTP/1.1"
    assert downstream(book(), response(line="HTTP/1.0 200 OK"), end=True)[0] == "HTTP/1.1 200 OK"


def test_section_6_5_trailers_are_forwarded_both_ways(book: Book) -> None:
    play = book()
    play(("down", request("Transfer-Encoding: chunked", body="0\r\nX-Sum: 1\r\n\r\n")))
    assert received(play, "up").endswith(b"\r\n\r\n0\r\nX-Sum: 1\r\n\r\n")
    play(("up", CHUNKED + b"0\r\nX-Sum: 2\r\n\r\n"))
    assert received(play, "down").endswith(b"\r\n\r\n0\r\nX-Sum: 2\r\n\r\n")


@pytest.mark.parametrize("name", ["Authorization", "Content-Type", "If-Match", "Set-Cookie", "Connection", "TE"])
def test_section_6_5_1_trailers_that_might_be_merged_are_dropped(book: Book, name: str) -> None:
    play = book()
    play(("down", request("Transfer-Encoding: chunked", body=f"0\r\n{name}: 1\r\nX: 2\r\n\r\n")))
    assert received(play, "up").endswith(b"\r\n\r\n0\r\nX: 2\r\n\r\n")


@pytest.mark.parametrize("name", ["Content-Length", "Transfer-Encoding", "Host"])
def test_section_6_5_1_trailers_of_framing_and_routing_are_refused(book: Book, name: str) -> None:
    assert status(book(), request("Transfer-Encoding: chunked", body=f"0\r\n{name}: 1\r\n\r\n")) == 400


def test_section_6_5_1_trailers_are_never_merged_into_the_head(book: Book) -> None:
    play = book()
    play(("down", GET.replace(b"1.1", b"1.0")), ("up", CHUNKED + b"2\r\nhi\r\n0\r\nX-Sum: 2\r\n\r\n"))
    assert b"X-Sum" not in received(play, "down")


def test_section_6_6_1_a_missing_date_is_added_and_one_that_is_there_kept(book: Book) -> None:
    play = book()
    play(*WARM)
    assert received(play, "down").count(b"\r\ndate: Tue, 14 Nov 2023 22:13:20 GMT\r\n") == 1
    play = book()
    play(("down", GET), ("up", response("Date: Mon, 01 Jan 2001 00:00:00 GMT", "Content-Length: 0")))
    assert received(play, "down").lower().count(b"\r\ndate:") == 1


def test_section_6_6_2_the_trailer_field_is_forwarded(book: Book) -> None:
    assert "Trailer: X-Sum" in downstream(book(), response("Trailer: X-Sum", "Transfer-Encoding: chunked"))


# 7: routing


def test_section_7_2_the_host_is_forwarded_and_made_of_the_endpoint_without_one(book: Book) -> None:
    assert upstream(book(), GET)[1] == "Host: h"
    assert upstream(book(), request(line="GET /a HTTP/1.0", host=""))[1] == "Host: 10.0.0.1:9000"


def test_section_7_2_exactly_one_host(book: Book) -> None:
    assert status(book(), request(host="")) == 400
    assert status(book(), request("Host: h")) == 400


def test_section_7_6_a_request_that_goes_in_circles_ends(book: Book) -> None:
    assert status(book(), request("Via: " + ", ".join(["1.1 hotproxy"] * 15))) == 200
    assert status(book(), request("Via: " + ", ".join(["1.1 hotproxy"] * 16))) == 508


def test_section_7_6_1_nominated_fields_are_removed(book: Book) -> None:
    assert upstream(book(), request("Connection: x-a, X-B", "X-A: 1", "x-b: 2", "X-C: 3"))[2:] == ["X-C: 3"]
    answer = response("Connection: x-a", "X-A: 1", "X-C: 3", "Content-Length: 0")
    assert downstream(book(), answer) == ["HTTP/1.1 200 OK", "X-C: 3", "Content-Length: 0"]


@pytest.mark.parametrize("field", ["Keep-Alive: 5", "Proxy-Connection: close", "TE: gzip", "Upgrade: h2c"])
def test_section_7_6_1_hop_by_hop_fields_are_removed_even_without_nomination(book: Book, field: str) -> None:
    assert upstream(book(), request(field)) == ["GET /a HTTP/1.1", "Host: h"]
    assert downstream(book(), response(field, "Content-Length: 0")) == ["HTTP/1.1 200 OK", "Content-Length: 0"]


@pytest.mark.parametrize("name", ["host", "authorization", "x-forwarded-for", "content-length", "early-data"])
def test_section_7_6_1_a_field_for_all_recipients_may_not_be_nominated(book: Book, name: str) -> None:
    assert status(book(), request(f"Connection: {name}")) == 400


@pytest.mark.parametrize("method", ["TRACE", "OPTIONS"])
def test_section_7_6_2_max_forwards_is_counted_down(book: Book, method: str) -> None:
    assert "max-forwards: 6" in upstream(book(), request("Max-Forwards: 7", line=f"{method} /a HTTP/1.1"))
    assert "max-forwards: 0" in upstream(book(), request("Max-Forwards: 1", line=f"{method} /a HTTP/1.1"))


def test_section_7_6_2_at_zero_a_trace_is_answered_with_the_request_as_it_was_received(book: Book) -> None:
    """... but for credentials; it went on to the origin, whose hop was not asked for."""
    play = book()
    asked = request("Max-Forwards: 0", "Cookie: secret", "Authorization: secret", "X: y", line="TRACE /a?b HTTP/1.1")
    assert play(("down", asked)) == [
        (
            "down",
            b"HTTP/1.1 200 OK\r\ncontent-type: message/http\r\ndate: Tue, 14 Nov 2023 22:13:20 GMT\r\n"
            b"server: hotproxy\r\nContent-Length: 55\r\n\r\n"
            b"TRACE /a?b HTTP/1.1\r\nHost: h\r\nMax-Forwards: 0\r\nX: y\r\n\r\n",
        )
    ]
    assert play.ended() == ((), "max_forwards_reached", 200)


def test_section_7_6_2_at_zero_options_is_answered_without_content(book: Book) -> None:
    play = book()
    play(("down", request("Max-Forwards: 0", line="OPTIONS /a HTTP/1.1")))
    assert play.received == [("down", local(b"200 OK"))]


@pytest.mark.parametrize("fields", [["Max-Forwards: x"], ["Max-Forwards: -1"], ["Max-Forwards: 1"] * 2])
def test_section_7_6_2_a_max_forwards_that_is_no_number_is_refused(book: Book, fields: list[str]) -> None:
    assert status(book(), request(*fields, line="TRACE /a HTTP/1.1")) == 400


def test_section_7_6_2_at_most_our_own_maximum_goes_on(book: Book) -> None:
    huge = "9" * 5000  # int() of it would be an error
    assert "max-forwards: 255" in upstream(book(), request(f"Max-Forwards: {huge}", line="TRACE /a HTTP/1.1"))


def test_section_7_6_2_other_methods_are_not_counted(book: Book) -> None:
    assert "Max-Forwards: 0" in upstream(book(), request("Max-Forwards: 0"))


def test_section_7_6_3_via_is_appended_with_the_version_received(book: Book) -> None:
    play = book()
    play(("down", request("Via: 1.1 a", line="GET /a HTTP/1.0")), ("up", HI.replace(b"1.1", b"1.0")))
    assert b"\r\nvia: 1.1 a, 1.0 hotproxy\r\n" in received(play, "up")
    assert b"\r\nvia: 1.0 hotproxy\r\n" in received(play, "down")


def test_section_7_7_path_and_query_go_on_as_they_came(book: Book) -> None:
    for target in ("/a%2Fb//c;d=1?q=%20+&x=/../", "/%7euser", "/?", "/a?//b"):
        assert upstream(book(), request(line=f"GET {target} HTTP/1.1"))[0] == f"GET {target} HTTP/1.1"


def test_section_7_7_an_empty_path_becomes_a_slash_or_for_options_an_asterisk(book: Book) -> None:
    assert upstream(book(), request(line="GET http://h HTTP/1.1"))[0] == "GET / HTTP/1.1"
    play = book(routes=[Route(cluster="api")])
    assert upstream(play, request(line="OPTIONS http://h HTTP/1.1"))[0] == "OPTIONS * HTTP/1.1"


def test_section_7_7_content_is_never_transformed(book: Book) -> None:
    fields = [
        "Content-Encoding: gzip",
        'ETag: "x"',
        "Last-Modified: x",
        "Content-Location: /y",
        "Content-Range: b 0-1/9",
    ]
    play = book()
    play(("down", GET), ("up", response(*fields, "Content-Length: 3", body="\x1f\x8b\xff")))
    assert received(play, "down").endswith(b"\x1f\x8b\xff")
    assert all(field.encode() in received(play, "down") for field in fields)


def test_section_7_8_an_upgrade_is_forwarded_when_the_route_allows_it(book: Book) -> None:
    play = book()
    play(("down", WEBSOCKET), ("up", SWITCH), ("down", b"ping"), ("up", b"pong"))
    assert received(play, "up").endswith(b"Upgrade: websocket\r\nConnection: Upgrade\r\n\r\nping")
    assert received(play, "down").endswith(b"Upgrade: websocket\r\nConnection: Upgrade\r\n\r\npong")


def test_section_7_8_an_upgrade_in_http_1_0_is_ignored(book: Book) -> None:
    lines = upstream(book(), WEBSOCKET.replace(b"1.1", b"1.0"))
    assert lines == ["GET /a HTTP/1.1", "Host: h"]


def test_section_7_8_a_switch_that_nobody_asked_for_is_a_bad_answer(book: Book) -> None:
    assert status(book(), GET, SWITCH) == 502


def test_section_7_8_a_switch_to_another_protocol_than_was_offered_is_a_bad_answer(book: Book) -> None:
    """Both sides would speak different protocols through the tunnel."""
    assert status(book(), WEBSOCKET, SWITCH.replace(b"websocket", b"h2c")) == 502


# 8: representations


def test_section_8_6_a_length_that_is_not_true_is_never_completed(book: Book) -> None:
    play = book()
    play(("down", GET), ("up", response("Content-Length: 9", body="short")), ("up", EOF))
    assert received(play, "down").endswith(b"Content-Length: 9\r\n\r\nshort")
    assert ended(play, "down")


@pytest.mark.parametrize("length", ["1, 1", "+1", "-1", "1x", "", "0x1", "99999999999999999999"])
def test_section_8_6_a_length_is_one_number(book: Book, length: str) -> None:
    assert status(book(), request(f"Content-Length: {length}", line="POST /a HTTP/1.1", body="b")) == 400
    assert status(book(), GET, response(f"Content-Length: {length}", body="b")) == 502


def test_section_8_6_repeated_lengths_are_refused_even_when_equal(book: Book) -> None:
    assert status(book(), request("Content-Length: 1", "Content-Length: 1", body="b")) == 400
    assert status(book(), GET, response("Content-Length: 1", "Content-Length: 1", body="b")) == 502


def test_section_8_6_head_and_304_keep_the_length_that_get_would_have(book: Book) -> None:
    head = GET.replace(b"GET", b"HEAD")
    assert "Content-Length: 9" in downstream(book(), response("Content-Length: 9"), asked=head)
    assert "Content-Length: 9" in downstream(book(), response("Content-Length: 9", line="HTTP/1.1 304 N"))
    assert downstream(book(), response(line="HTTP/1.1 304 N"))[1:] == []
    assert downstream(book(), response(), asked=head)[1:] == []


def test_section_8_6_no_length_with_204(book: Book) -> None:
    assert downstream(book(), response("Content-Length: 0", line="HTTP/1.1 204 N")) == ["HTTP/1.1 204 N"]
    assert status(book(), GET, response("Content-Length: 5", line="HTTP/1.1 204 N", body="12345")) == 502


# 9: methods


@pytest.mark.parametrize("method", ["PATCH", "PROPFIND", "M-SEARCH", "get", "!"])
def test_section_9_1_any_method_is_forwarded_and_case_matters(book: Book, method: str) -> None:
    assert upstream(book(), request(line=f"{method} /a HTTP/1.1"))[0] == f"{method} /a HTTP/1.1"


def test_section_9_2_2_what_is_not_idempotent_is_never_sent_twice(book: Book) -> None:
    play = book()
    play(*WARM, ("down", request("Content-Length: 1", line="POST /a HTTP/1.1", body="x")))
    play(("up", RESET))
    assert received(play, "down").startswith(b"HTTP/1.1 503 ")
    assert play.find("up2") is None


def test_section_9_2_2_what_is_idempotent_is_sent_again_on_a_new_connection(book: Book) -> None:
    play = book()
    play(*WARM, ("down", GET), ("up", RESET), ("up2", HI))
    assert received(play, "down").endswith(b"\r\n\r\nhi")


def test_section_9_3_1_content_in_a_get_is_forwarded_with_its_framing(book: Book) -> None:
    play = book()
    play(("down", request("Content-Length: 2", body="hi")))
    assert received(play, "up").endswith(b"Content-Length: 2\r\n\r\nhi")


def test_section_9_3_2_an_answer_to_head_has_no_content(book: Book) -> None:
    play = book()
    play(("down", GET.replace(b"GET", b"HEAD")), ("up", response("Content-Length: 2")), ("down", GET), ("up", HI))
    assert received(play, "down").count(b"hi") == 1


@pytest.mark.parametrize("target", ["h:443", "/", "http://h/"])
def test_section_9_3_6_connect_is_refused(book: Book, target: str) -> None:
    play = book()
    assert status(play, request(line=f"CONNECT {target} HTTP/1.1")) == 501
    assert play.find("up") is None
    assert ended(play, "down")


def test_section_9_3_7_options_asterisk_goes_where_every_target_goes(book: Book) -> None:
    asked = request(line="OPTIONS * HTTP/1.1")
    assert upstream(book(routes=[Route(cluster="api")]), asked)[0] == "OPTIONS * HTTP/1.1"
    assert status(book(routes=[Route(prefix="/", cluster="api")]), asked) == 404


def test_section_9_3_7_options_asterisk_is_not_rewritten(book: Book) -> None:
    """It became `/api*`, and a redirect led to `http://h*`."""
    asked = request(line="OPTIONS * HTTP/1.1")
    assert upstream(book(routes=[Route(cluster="api", prefix_rewrite="/api")]), asked)[0] == "OPTIONS * HTTP/1.1"
    play = book(routes=[Route(redirect=Redirect(host="other"))])
    play(("down", asked))
    assert b"\r\nlocation: http://other/\r\n" in received(play, "down")


def test_section_9_3_8_trace_is_forwarded_without_content(book: Book) -> None:
    assert upstream(book(), request(line="TRACE /a HTTP/1.1"))[0] == "TRACE /a HTTP/1.1"
    assert status(book(), request("Content-Length: 1", line="TRACE /a HTTP/1.1", body="x")) == 400
    assert status(book(), request("Transfer-Encoding: chunked", line="TRACE /a HTTP/1.1", body="0\r\n\r\n")) == 400


# 10: context


def test_section_10_1_1_an_expectation_is_forwarded_and_so_is_the_100(book: Book) -> None:
    play = book()
    play(("down", request("Expect: 100-continue", "Content-Length: 2", line="POST /a HTTP/1.1")))
    assert b"\r\nExpect: 100-continue\r\n" in received(play, "up")
    play(("up", b"HTTP/1.1 100 Continue\r\n\r\n"))
    assert received(play, "down") == b"HTTP/1.1 100 Continue\r\n\r\n"
    play(("down", b"hi"), ("up", HI))
    assert received(play, "up") == b"hi"
    assert received(play, "down").endswith(b"\r\n\r\nhi")


def test_section_10_1_1_a_final_answer_instead_of_100_closes(book: Book) -> None:
    """The client may send its body after all, and nobody could tell it from the next request."""
    play = book()
    play(("down", request("Expect: 100-continue", "Content-Length: 2", line="POST /a HTTP/1.1")))
    play(("up", response("Content-Length: 0", line="HTTP/1.1 417 No")))
    assert b"Connection: close\r\n" in received(play, "down")
    assert ended(play, "down")


def test_section_10_1_1_expect_in_http_1_0_is_ignored(book: Book) -> None:
    asked = request("Expect: 100-continue", "Content-Length: 2", line="POST /a HTTP/1.0", body="hi")
    assert upstream(book(), asked) == ["POST /a HTTP/1.1", "Host: h", "Content-Length: 2"]


@pytest.mark.parametrize("value", ["trailers", "gzip, Trailers", "trailers;q=1, trailers"])
def test_section_10_1_4_a_client_that_takes_trailers_is_told_of(book: Book, value: str) -> None:
    """An origin that sends trailers only to whom wants them sent none."""
    assert upstream(book(), request(f"TE: {value}", "Connection: te"))[2:] == ["TE: trailers", "Connection: TE"]


@pytest.mark.parametrize(
    "fields",
    [["TE: trailers"], ["TE: gzip", "Connection: TE"], ["TE: trailers", "TE: gzip", "Connection: TE"]],
)
def test_section_10_1_4_te_is_between_neighbours(book: Book, fields: list[str]) -> None:
    assert upstream(book(), request(*fields))[2:] == []


def test_section_10_1_4_te_needs_http_1_1(book: Book) -> None:
    assert upstream(book(), request("TE: trailers", "Connection: TE", line="GET /a HTTP/1.0"))[2:] == []


def test_section_10_2_4_the_origins_server_field_stays(book: Book) -> None:
    assert "Server: origin" in downstream(book(), response("Server: origin", "Content-Length: 0"))
    assert not any(line.lower().startswith("server") for line in downstream(book(), HI))


# 11: authentication


def test_section_11_6_credentials_and_challenges_are_not_touched(book: Book) -> None:
    assert "Authorization: Basic x" in upstream(book(), request("Authorization: Basic x"))
    answer = response('WWW-Authenticate: Basic realm="a", Digest x', "Content-Length: 0", line="HTTP/1.1 401 U")
    assert 'WWW-Authenticate: Basic realm="a", Digest x' in downstream(book(), answer)


# 15: status codes


@pytest.mark.parametrize("code", ["102 Processing", "103 Early Hints", "199 X"])
def test_section_15_2_interim_responses_are_forwarded(book: Book, code: str) -> None:
    play = book()
    play(("down", GET), ("up", response("Link: </a>", line=f"HTTP/1.1 {code}")), ("up", HI))
    assert received(play, "down").startswith(response("Link: </a>", line=f"HTTP/1.1 {code}") + b"HTTP/1.1 200 OK\r\n")


def test_section_15_2_a_client_of_http_1_0_gets_no_interim_response(book: Book) -> None:
    play = book()
    play(("down", GET.replace(b"1.1", b"1.0")), ("up", b"HTTP/1.1 103 E\r\n\r\n" + HI))
    assert received(play, "down").startswith(b"HTTP/1.1 200 OK\r\n")


def test_section_15_2_interim_responses_have_an_end(book: Book) -> None:
    play = book()
    play(("down", GET), ("up", b"HTTP/1.1 103 E\r\n\r\n" * 11))
    assert received(play, "down").count(b"HTTP/1.1 103") == 10
    assert b"HTTP/1.1 502 " in received(play, "down")


@pytest.mark.parametrize("line", ["HTTP/1.1 099 X", "HTTP/1.1 600 X", "HTTP/1.1 20 X", "HTTP/1.1 2000 X"])
def test_section_15_other_statuses_are_invalid(book: Book, line: str) -> None:
    assert status(book(), GET, response("Content-Length: 0", line=line)) == 502


@pytest.mark.parametrize("line", ["HTTP/1.1 299 Odd", "HTTP/1.1 499 Odd", "HTTP/1.1 599 Odd"])
def test_section_15_unknown_statuses_are_forwarded(book: Book, line: str) -> None:
    assert downstream(book(), response("Content-Length: 0", line=line))[0] == line


@pytest.mark.parametrize("code", [204, 205, 304])
def test_section_15_3_6_an_answer_of_our_own_has_no_content_where_there_is_none(book: Book, code: int) -> None:
    play = book(routes=[Route(prefix="/", direct_response=DirectResponse(code, "text"))])
    play(("down", GET), ("down", GET))
    assert b"text" not in received(play, "down")
    assert received(play, "down").count(b"HTTP/1.1 %d" % code) == 2


def test_section_15_3_6_the_content_of_an_origins_205_keeps_its_framing(book: Book) -> None:
    """It must not send any; but what it has framed is read as it says, or it would be the next answer."""
    play = book()
    play(("down", GET), ("up", response("Content-Length: 2", line="HTTP/1.1 205 R", body="hi")))
    assert received(play, "down").endswith(b"Content-Length: 2\r\n\r\nhi")


def test_section_15_5_9_a_408_closes(book: Book) -> None:
    play = book()
    play(("down", b"GET"), ("time", 11))
    assert received(play, "down").startswith(b"HTTP/1.1 408 ")
    assert b"Connection: close\r\n" in received(play, "down")
    assert ended(play, "down")


def test_section_15_5_15_and_15_6_6_have_their_own_statuses(book: Book) -> None:
    assert status(book(), request(line="GET /" + "a" * 17_000 + " HTTP/1.1")) == 414
    assert status(book(), request(line="GET / HTTP/1.2")) == 505


def test_section_15_5_22_a_426_says_which_protocol_is_wanted(book: Book) -> None:
    answer = response("Upgrade: h2c", "Connection: Upgrade", "Content-Length: 0", line="HTTP/1.1 426 U")
    assert "Upgrade: h2c" in downstream(book(), answer)


def test_section_15_6_5_an_origin_that_says_nothing_is_a_504(book: Book) -> None:
    play = book()
    play(("down", GET), ("time", 16))
    assert received(play, "down").startswith(b"HTTP/1.1 504 ")
    play = book(outcomes=[HANGS])
    play(("down", GET), ("time", 16))
    assert received(play, "down").startswith(b"HTTP/1.1 504 ")


# 17: security


def test_section_17_10_names_that_differ_by_an_underscore_are_no_way_around(book: Book) -> None:
    fields = ["Content_Length: 5", "X_Forwarded_For: 1.2.3.4", "transfer_encoding: chunked", "x_request_id: 1"]
    assert upstream(book(), request(*fields, "X_Other: 1"))[2:] == ["X_Other: 1"]


def test_cve_2016_5385_a_proxy_field_never_reaches_a_cgi(book: Book) -> None:
    assert upstream(book(), request("Proxy: http://evil/"))[2:] == []
