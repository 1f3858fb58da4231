"""Rules that are easier to see in a table than in raw messages; the rest is in the corpus."""

from __future__ import annotations

import pytest

from hotproxy.http import rules
from hotproxy.http.codec import HTTP_1_1, RequestHead, Violation
from hotproxy.http.syntax import MAX_LENGTH


def parsed(*fields: tuple[bytes, bytes], target: bytes = b"/", method: bytes = b"GET") -> RequestHead | Violation:
    return rules.request_head(method, target, HTTP_1_1, [(b"Host", b"a"), *fields])


@pytest.mark.parametrize(
    "host", [b"a", b"a:0", b"a:80", b"a:65535", b"A.example-1.com.", b"127.0.0.1", b"[::1]", b"[::1]:1", b"a_b", b"~"]
)
def test_hosts(host: bytes):
    assert rules.valid_host(host)


@pytest.mark.parametrize(
    "host",
    [
        b"",
        b":",
        b"a:",
        b"a:b",
        b"a:65536",
        b"a:123456",
        b"a b",
        b" a",
        b"a@b",
        b"a,b",
        b"[",
        b"[]",
        b"[1]",
        b"[::1",
        b"[::1]x",
        b"[::g]",
        b"[1.2.3.4]",
        b"a/b",
        b"a\\b",
        b"a%41",
        b"a\n",
        b"a:1\n",
        b"[::1%eth0]",
        "é".encode(),
    ],
)
def test_no_hosts(host: bytes):
    assert not rules.valid_host(host)


def test_the_largest_length():
    head = parsed((b"Content-Length", b"%d" % MAX_LENGTH))
    assert isinstance(head, RequestHead)
    assert head.content_length == MAX_LENGTH


@pytest.mark.parametrize("name", [*sorted(rules.NEVER_NOMINATED), b"x-forwarded-proto", b"x-envoy-original-path"])
def test_what_may_not_be_nominated(name: bytes):
    found = parsed((b"Connection", b"close, " + name.upper()))
    assert isinstance(found, Violation)
    assert found.details == "http1.forbidden_nomination"


@pytest.mark.parametrize("name", sorted(rules.HOP_BY_HOP - {b"content-length", b"transfer-encoding"}))
def test_hop_by_hop_fields_never_go_on(name: bytes):
    head = parsed((name.title(), b"close"), (b"X", b"y"), (name, b"close"))
    assert isinstance(head, RequestHead)
    assert list(head.headers) == [(b"Host", b"a"), (b"X", b"y")]


def test_thousands_of_nominations_take_no_time():
    """64 KiB of Connection options against a hundred fields; done field by field it is work for a second."""
    fields = [(b"X-%d" % number, b"y") for number in range(98)]
    head = parsed((b"Connection", b",".join(b"x-%d" % number for number in range(9000))), *fields)
    assert isinstance(head, RequestHead)
    assert list(head.headers) == [(b"Host", b"a")]


def test_several_upgrade_fields_are_one_list():
    head = parsed((b"Upgrade", b"websocket"), (b"Connection", b"upgrade"), (b"Upgrade", b"h2c"))
    assert isinstance(head, RequestHead)
    assert head.upgrade == b"websocket, h2c"


@pytest.mark.parametrize(
    ("coding", "details"),
    [
        (b"chunked", ""),
        (b"CHUNKED", ""),
        (b"gzip", "unsupported"),
        (b"gzip,chunked", "unsupported"),
        (b"gzip;q=1, chunked", "unsupported"),
        (b"chunked,chunked", "invalid"),
        (b"chunked , gzip", "invalid"),
        (b",chunked", "invalid"),
        (b"chunked;a", "invalid"),
        (b"chunked ;a=b", "invalid"),
        (b"chun ked", "invalid"),
        (b"\xffchunked", "invalid"),
    ],
)
def test_codings(coding: bytes, details: str):
    found = parsed((b"Transfer-Encoding", coding))
    assert (found.details if isinstance(found, Violation) else "") == (details and f"http1.{details}_transfer_encoding")
