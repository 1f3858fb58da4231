"""Requests and answers as they are said, and as the other side receives them: the words of many conversations."""

from __future__ import annotations

DATE = b"date: Tue, 14 Nov 2023 22:13:20 GMT\r\n"
# What the proxy adds to a request, and to a response that has a date of its own or not.
FORWARDED = (
    b"x-forwarded-for: 10.1.1.1\r\nx-forwarded-proto: http\r\n"
    b"x-request-id: 00000000-0000-4000-8000-000000000000\r\nvia: 1.1 hotproxy\r\n"
)
ANSWERED = b"via: 1.1 hotproxy\r\n" + DATE

GET = b"GET /a HTTP/1.1\r\nHost: h\r\n\r\n"
GET_UP = b"GET /a HTTP/1.1\r\nHost: h\r\n" + FORWARDED + b"\r\n"
HI = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
HI_DOWN = b"HTTP/1.1 200 OK\r\n" + ANSWERED + b"Content-Length: 2\r\n\r\nhi"
POST = b"POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\nbody"
POST_UP = b"POST /a HTTP/1.1\r\nHost: h\r\n" + FORWARDED + b"Content-Length: 4\r\n\r\nbody"
CHUNKED_POST = b"POST /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
CHUNKED_POST_UP = b"POST /a HTTP/1.1\r\nHost: h\r\n" + FORWARDED + b"Transfer-Encoding: chunked\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
CHUNKED_DOWN = b"HTTP/1.1 200 OK\r\n" + ANSWERED + b"Transfer-Encoding: chunked\r\n\r\n"
WARM: tuple[tuple[str, bytes], ...] = (("down", GET), ("up", HI))  # afterwards the pool has a connection
WEBSOCKET = b"GET /a HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
WEBSOCKET_UP = GET_UP[:-2] + b"Upgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"


def local(status: bytes, body: bytes = b"", fields: bytes = b"", close: bool = False) -> bytes:
    kind = b"content-type: text/plain\r\n" if body else b""
    length = b"Content-Length: %d\r\n" % len(body)
    connection = b"Connection: close\r\n" if close else b""
    head = b"HTTP/1.1 " + status + b"\r\n" + fields + kind + DATE + b"server: hotproxy\r\n" + length + connection
    return head + b"\r\n" + body


CONNECT_FAILED = b"upstream connect error or disconnect/reset before headers. reset reason: connection failure"
CONNECT_TIMED_OUT = b"upstream connect error or disconnect/reset before headers. reset reason: connection timeout"
CONNECT_FAILED_HERE = (
    b"upstream connect error or disconnect/reset before headers. reset reason: local connection failure"
)
TERMINATED = b"upstream connect error or disconnect/reset before headers. reset reason: connection termination"
PROTOCOL_ERROR = b"upstream connect error or disconnect/reset before headers. reset reason: protocol error"
