"""The seam between a codec and whoever takes heads apart; here the implementation with httptools (llhttp).

A parser sees one complete head at a time and keeps nothing: no parser object outlives the call, so a connection can be
dumped at any moment. Our own pattern decides what is accepted, before httptools sees a byte; httptools splits the
fields, and is a second opinion: what it refuses is refused.
"""

from __future__ import annotations

from typing import Protocol

import httptools

from hotproxy.http import rules
from hotproxy.http.codec import HTTP_1_0, HTTP_1_1, RequestHead, ResponseHead, Violation
from hotproxy.http.syntax import (
    REQUEST_HEAD,
    RESPONSE_HEAD,
    request_head_violation,
    response_head_violation,
    split_fields,
)


class HeadParser(Protocol):
    """Complete heads in, closing empty line included, at most 64 KiB; heads with their meaning out."""

    def parse_request(self, head: bytes) -> RequestHead | Violation: ...

    def parse_response(self, head: bytes, to_head: bool) -> ResponseHead | Violation:
        """`to_head`: the response answers a HEAD request, so that its framing announces no body."""


class HttptoolsHeadParser:
    """The head parser that needs no compiler of its own."""

    __slots__ = ()

    def parse_request(self, head: bytes) -> RequestHead | Violation:
        match = REQUEST_HEAD.fullmatch(head)
        if match is None:
            return request_head_violation(head)
        method, target, minor, block = match.groups()
        version = HTTP_1_1 if minor == b"1" else HTTP_1_0
        fields = _split(block)
        if fields is not None:
            return rules.request_head(method, target, version, fields)
        # Our rules have the better word for it; if they see nothing wrong, the second opinion stands.
        found = rules.request_head(method, target, version, split_fields(block))
        return found if isinstance(found, Violation) else Violation("http1.malformed_head")

    def parse_response(self, head: bytes, to_head: bool) -> ResponseHead | Violation:
        match = RESPONSE_HEAD.fullmatch(head)
        if match is None:
            return response_head_violation(head)
        minor, status, phrase, block = match.groups()
        version = HTTP_1_1 if minor == b"1" else HTTP_1_0
        fields = _split(block)
        if fields is not None:
            return rules.response_head(int(status), phrase or b"", version, fields, to_head)
        found = rules.response_head(int(status), phrase or b"", version, split_fields(block), to_head)
        return found if isinstance(found, Violation) else Violation("http1.malformed_head")


HTTPTOOLS: HeadParser = HttptoolsHeadParser()


class _Fields:
    """What httptools calls back."""

    __slots__ = ("fields",)

    def __init__(self) -> None:
        self.fields: list[tuple[bytes, bytes]] = []

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields.append((name, value.rstrip(b" \t")))  # llhttp leaves the trailing whitespace in


def _split(block: bytes) -> list[tuple[bytes, bytes]] | None:
    """The fields of a valid block; None when httptools does not like them.

    It gets a start line of our own, for responses too: llhttp knows a fixed list of methods, while a method is any
    token (RFC 9110 section 9.1), and a response's status would make it expect more.
    """
    sink = _Fields()
    try:
        httptools.HttpRequestParser(sink).feed_data(b"GET / HTTP/1.1\r\n" + block + b"\r\n")
    except httptools.HttpParserUpgrade:  # raised behind the complete head
        return sink.fields
    except httptools.HttpParserError:
        return None
    return sink.fields
