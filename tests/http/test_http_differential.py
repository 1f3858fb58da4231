"""One head, three parsers: the compiled kernel, the one with httptools, and h11, which knows nothing of ours.

The rule: what our two give is identical, down to the word for a violation; and a head that they take is one that h11
takes, with the same method, target, status, fields, framing and persistence. Where h11's picture is another one by its
design, `DIFFERENCES` says so and why. Where we refuse what h11 takes, `STRICTER` has the word for it. Both lists are
proved complete by what hypothesis makes up, and needed by an example for each entry.
"""

from __future__ import annotations

from typing import NamedTuple

import h11
import pytest
from grammar_heads import request_lines, response_lines, whole, with_one_defect
from h11._connection import _body_framing, _keep_alive  # framing and persistence have no public name
from head_bytes import HEADS, described, mutated
from hypothesis import given, settings

from hotproxy.http.codec import CHUNKED, HTTP_1_1, LENGTH, UNTIL_CLOSE, RequestHead, ResponseHead, Violation
from hotproxy.http.head_parser import HeadParser, HttptoolsHeadParser
from tests.kit.kernels import compiled

PURE = HttptoolsHeadParser()

# How our picture of a head that both take differs from h11's: by design, and in no other way.
DIFFERENCES = {
    "neighbours": "we take off what is between neighbours, and what Connection names (RFC 9110, 7.6.1); h11 shows all",
    "te": "of a nominated TE we keep `trailers`, which is true of us too (RFC 9110, 10.1.4); h11 shows it as it came",
    "absolute": "an absolute target replaces Host (RFC 9112, 3.2.2); h11 leaves both to its user",
    "expect": "Expect in HTTP/1.0 must be ignored (RFC 9110, 10.1.1), and so goes no further; h11 shows it",
    "keep-alive": "HTTP/1.0 persists when it asks for it (RFC 9112, 9.3); h11 never lets it",
    "no body": "an answer to HEAD and a 304 keep the declared length, which goes on to the client; h11 says 0 at once",
}

# What h11 takes and we refuse: a strict reading everywhere, docs/decisions/0005-http1-is-strict.md.
STRICTER = {
    "http1.bare_lf": "h11 takes a bare LF for the end of a line",
    "http1.control_character": "h11 lets controls but NUL through in values and phrases",
    "http1.obs_fold": "h11 unfolds lines",
    "http1.malformed_head": "llhttp, the second opinion, takes no tab behind a coding, though RFC 9110 5.5 allows it",
    "http1.unsupported_version": "h11 takes any HTTP/digit.digit; it leaves versions to its user",
    "http1.invalid_status": "h11 takes statuses below 100 and above 599",
    "http1.fragment_in_target": "h11 takes any visible byte in a target",
    "http1.invalid_target": "the same, for targets that are neither a path, nor http(s), nor `*` of OPTIONS",
    "http1.invalid_target_authority": "the same, for the authority of an absolute one",
    "http1.http2_preface": "h11 sees a method PRI",
    "http1.connect_refused": "CONNECT is valid and not our business",
    "http1.invalid_host": "h11 does not look into Host",
    "http1.invalid_connection": "h11 does not look into Connection",
    "http1.forbidden_nomination": "the same: fields for all recipients may not be named there (RFC 9110, 7.6.1)",
    "http1.conflicting_framing": "h11 lets Transfer-Encoding win over Content-Length, as RFC 9112 6.3 allows",
    "http1.transfer_encoding_in_http10": "h11 reads it, though RFC 9112 6.1 calls such a message faulty",
    "http1.repeated_content_length": "h11 merges equal ones, as RFC 9110 8.6 allows",
    "http1.invalid_content_length": "the same for equal ones in a list",
    "http1.content_length_overflow": "h11 takes lengths of up to 20 digits; we end at 2**63 - 1",
    "http1.body_not_allowed": "h11 ignores framing in a 204 and in interim responses, which RFC 9112 6.1 forbids",
    "http1.too_many_fields": "h11 counts bytes, not fields",
}


_ASK = b"GET / HTTP/1.1\r\nHost: a\r\n"
_SAY = b"HTTP/1.1 200 OK\r\n"
EXAMPLES = {
    "neighbours": _ASK + b"Connection: x-a\r\nX-A: 1\r\nKeep-Alive: 5\r\n\r\n",
    "te": _ASK + b"Connection: TE\r\nTE: gzip, trailers\r\n\r\n",
    "absolute": b"GET http://b/c?d HTTP/1.1\r\nHost: a\r\n\r\n",
    "expect": b"POST / HTTP/1.0\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n",
    "keep-alive": b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    "no body": b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n",
    "http1.bare_lf": b"GET / HTTP/1.1\nHost: a\r\n\r\n",
    "http1.control_character": _ASK + b"A: b\x01\r\n\r\n",
    "http1.obs_fold": _SAY + b"A: b\r\n c\r\n\r\n",
    "http1.malformed_head": _SAY + b"Transfer-Encoding: chunked\t\r\n\r\n",
    "http1.unsupported_version": b"GET / HTTP/1.2\r\nHost: a\r\n\r\n",
    "http1.invalid_status": b"HTTP/1.1 600 OK\r\nContent-Length: 0\r\n\r\n",
    "http1.fragment_in_target": b"GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n",
    "http1.invalid_target": b"GET a:b HTTP/1.1\r\nHost: a\r\n\r\n",
    "http1.invalid_target_authority": b"GET http://u@a/ HTTP/1.1\r\nHost: a\r\n\r\n",
    "http1.http2_preface": b"PRI * HTTP/2.0\r\n\r\n",
    "http1.connect_refused": b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n",
    "http1.invalid_host": b"GET / HTTP/1.1\r\nHost: a,b\r\n\r\n",
    "http1.invalid_connection": _ASK + b"Connection: a b\r\n\r\n",
    "http1.forbidden_nomination": _ASK + b"Connection: Host\r\n\r\n",
    "http1.conflicting_framing": _SAY + b"Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n",
    "http1.transfer_encoding_in_http10": b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
    "http1.repeated_content_length": _SAY + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\n",
    "http1.invalid_content_length": _SAY + b"Content-Length: 5, 5\r\n\r\n",
    "http1.content_length_overflow": _SAY + b"Content-Length: 9223372036854775808\r\n\r\n",
    "http1.body_not_allowed": b"HTTP/1.1 204 No Content\r\nContent-Length: 6\r\n\r\n",
    "http1.too_many_fields": _SAY + b"a: b\r\n" * 101 + b"\r\n",
}


class Meaning(NamedTuple):
    """What a head says, in the words of neither."""

    start: tuple[object, ...]  # method and target, or status and phrase
    version: bytes
    fields: list[tuple[bytes, bytes]]
    framing: tuple[str, int]
    keep_alive: bool
    upgrade: bytes


@pytest.fixture(scope="module")
def kernel() -> HeadParser:
    made: HeadParser = compiled("hotproxy.http._kernel").CompiledHeadParser()
    return made


# What we say


def meaning(head: RequestHead | ResponseHead) -> Meaning:
    start = (head.method, head.target) if isinstance(head, RequestHead) else (head.status, head.phrase)
    framing = {LENGTH: ("length", head.content_length), CHUNKED: ("chunked", 0), UNTIL_CLOSE: ("until close", 0)}
    return Meaning(
        start,
        b"1.1" if head.version == HTTP_1_1 else b"1.0",
        [(name.lower(), value) for name, value in head.headers],
        framing.get(head.framing, ("length", 0)),
        head.keep_alive,
        head.upgrade,
    )


# What h11 says, with the differences by design applied to it


def by_h11_request(head: bytes) -> h11.Request | None:
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=2**20)
    connection.receive_data(head)
    try:
        event = connection.next_event()
    except h11.RemoteProtocolError:
        return None
    return event if isinstance(event, h11.Request) else None


def by_h11_response(head: bytes, to_head: bool) -> h11.Response | h11.InformationalResponse | None:
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=2**20)
    fields = [("host", "a"), ("connection", "upgrade"), ("upgrade", "websocket")]  # so that a 101 may come
    connection.send(h11.Request(method="HEAD" if to_head else "GET", target="/", headers=fields))
    connection.send(h11.EndOfMessage())
    connection.receive_data(head)
    try:
        event = connection.next_event()
    except h11.RemoteProtocolError:
        return None
    return event if isinstance(event, h11.Response | h11.InformationalResponse) else None


def options_of(fields: list[tuple[bytes, bytes]]) -> set[bytes]:
    listed = b",".join(value for name, value in fields if name == b"connection")
    return {option.strip(b" \t").lower() for option in listed.split(b",")} - {b""}


def expected(event: h11.Request | h11.Response | h11.InformationalResponse, to_head: bool) -> tuple[Meaning, set[str]]:
    """What we are to say of a head that h11 understands so; and the names of the differences that came in."""
    used: set[str] = set()
    seen = [(bytes(name), bytes(value)) for name, value in event.headers]
    version = bytes(event.http_version)
    options = options_of(seen)
    asks = isinstance(event, h11.Request)
    kind, numbers = (
        ("content-length", (0,)) if isinstance(event, h11.InformationalResponse) else framing_of(event, to_head)
    )
    framing = {"content-length": ("length", *numbers), "chunked": ("chunked", 0), "http/1.0": ("until close", 0)}[kind]
    if isinstance(event, h11.Response) and (to_head or event.status_code == 304):
        declared = framing_of(h11.Response(status_code=200, headers=event.headers, http_version=version), False)
        if declared[0] != "http/1.0" and declared != (kind, numbers):
            used.add("no body")
            framing = ("chunked", 0) if declared[0] == "chunked" else ("length", *declared[1])

    upgrade = b""
    if b"upgrade" in options and (not asks or (version == b"1.1" and framing == ("length", 0))):
        upgrade = b", ".join(value for name, value in seen if name == b"upgrade")
    takes = [value.lower() for name, value in seen if name == b"te"]
    keeps_te = asks and version == b"1.1" and not upgrade and b"te" in options and len(takes) == 1
    keeps_te = keeps_te and b"trailers" in [part.strip(b" \t") for part in takes[0].split(b",")]
    between = {
        b"connection",
        b"content-length",
        b"keep-alive",
        b"proxy-connection",
        b"te",
        b"transfer-encoding",
        b"upgrade",
    }
    fields = []
    for name, value in seen:
        if name == b"te" and keeps_te:
            used.add("te")
            fields.append((name, b"trailers"))
        elif name in between or name in options:
            used.add("neighbours")
        elif name == b"expect" and asks and version == b"1.0":
            used.add("expect")
        else:
            fields.append((name, value))

    keep_alive = framing[0] != "until close" and b"close" not in options
    if version == b"1.0" and keep_alive:
        keep_alive = b"keep-alive" in options
    if (
        not isinstance(event, h11.InformationalResponse)
        and framing[0] != "until close"
        and keep_alive != _keep_alive(event)
    ):
        used.add("keep-alive")

    if not isinstance(event, h11.Request):
        return Meaning((event.status_code, bytes(event.reason)), version, fields, framing, keep_alive, upgrade), used
    target = bytes(event.target)
    if b"://" in target and not target.startswith(b"/"):
        used.add("absolute")
        authority, slash, path = target.partition(b"://")[2].partition(b"/")
        authority, question, query = authority.partition(b"?")
        if question:
            target = b"/?" + query + slash + path
        else:
            target = slash + path or (b"*" if event.method == b"OPTIONS" else b"/")
        had_host = any(name == b"host" for name, _ in fields)
        fields = [(name, authority if name == b"host" else value) for name, value in fields]
        fields = fields if had_host else [(b"host", authority), *fields]
    return Meaning((bytes(event.method), target), version, fields, framing, keep_alive, upgrade), used


def framing_of(event: h11.Request | h11.Response, to_head: bool) -> tuple[str, tuple[()] | tuple[int]]:
    return _body_framing(b"HEAD" if to_head else b"GET", event)


# The rule


def compare(kernel: HeadParser, raw: bytes) -> set[str]:
    """Raises when the rule is broken. Gives the names of the differences by design that were met."""
    used: set[str] = set()
    head = (raw + b"\r\n\r\n").partition(b"\r\n\r\n")[0] + b"\r\n\r\n"  # what a codec would cut out
    for text in {head, raw}:
        assert described(kernel.parse_request(text)) == described(PURE.parse_request(text))
        for to_head in (False, True):
            assert described(kernel.parse_response(text, to_head)) == described(PURE.parse_response(text, to_head))
    used |= judged(PURE.parse_request(head), by_h11_request(head), False)
    for to_head in (False, True):
        used |= judged(PURE.parse_response(head, to_head), by_h11_response(head, to_head), to_head)
    return used


def judged(
    ours: RequestHead | ResponseHead | Violation,
    theirs: h11.Request | h11.Response | h11.InformationalResponse | None,
    to_head: bool,
) -> set[str]:
    if isinstance(ours, Violation):
        assert theirs is None or ours.details in STRICTER, f"h11 takes {theirs}, we say {ours.details}"
        return set() if theirs is None else {ours.details}
    assert theirs is not None, f"h11 refuses, we take {meaning(ours)}"
    wanted, used = expected(theirs, to_head)
    assert meaning(ours) == wanted
    return used


@pytest.mark.parametrize("name", [*DIFFERENCES, *STRICTER])
def test_every_difference_is_one(kernel: HeadParser, name: str):
    """Otherwise the lists would excuse what is long mended."""
    assert name in compare(kernel, EXAMPLES[name])


@pytest.mark.parametrize("head", HEADS)
def test_the_heads_of_the_corpus(kernel: HeadParser, head: bytes):
    compare(kernel, head)


@settings(max_examples=1500, deadline=None)
@given(mutated())
def test_heads_of_the_corpus_with_a_few_changes(kernel: HeadParser, head: bytes):
    compare(kernel, head)


@settings(max_examples=1000, deadline=None)
@given(request_lines())
def test_requests_by_the_grammar_are_taken_by_all(kernel: HeadParser, lines: list[bytes]):
    head = whole(lines)
    assert isinstance(PURE.parse_request(head), RequestHead)
    compare(kernel, head)


@settings(max_examples=1000, deadline=None)
@given(response_lines())
def test_responses_by_the_grammar_are_taken_by_all(kernel: HeadParser, lines: list[bytes]):
    head = whole(lines)
    assert isinstance(PURE.parse_response(head, False), ResponseHead)
    compare(kernel, head)


@settings(max_examples=2000, deadline=None)
@given(with_one_defect(request_lines))
def test_requests_with_one_defect(kernel: HeadParser, head: bytes):
    compare(kernel, head)


@settings(max_examples=2000, deadline=None)
@given(with_one_defect(response_lines))
def test_responses_with_one_defect(kernel: HeadParser, head: bytes):
    compare(kernel, head)
