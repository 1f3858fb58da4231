r"""HTTP/1.1 towards clients: requests in, responses out.

    receiving:  HEAD --request head--> BODY --its last byte--> COMPLETE --next_message--> HEAD
                  \___________________/ \--a violation--> BROKEN     COMPLETE --101 sent--> RAW
    sending:    nothing --encode_head--> body --encode_end--> sent --next_message--> nothing

The two go on side by side: a response may begin before its request has ended.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Final

from hotproxy.http.body import BodyDecoder, BodyEncoder
from hotproxy.http.codec import (
    CHUNKED,
    END,
    HTTP_1_0,
    HTTP_1_1,
    LENGTH,
    NO_BODY,
    UNTIL_CLOSE,
    Event,
    ResponseHead,
    Violation,
)
from hotproxy.http.head_parser import HeadParser
from hotproxy.http.headers import Headers
from hotproxy.http.kernel import PARSER, encode_head
from hotproxy.http.syntax import (
    HTTP2_PREFACE,
    MAX_BLANK_LINES,
    MAX_HEAD_BYTES,
    MAX_REQUEST_LINE_BYTES,
    TOKEN_CHARS,
    incomplete_head_violation,
)
from hotproxy.saved import saved_bool, saved_bytes, saved_int, saved_record

KIND: Final = "http1_server"
VERSION: Final = 1
_KEYS: Final = frozenset(
    (
        "kind", "version", "state", "buffer", "blank_lines", "eof", "body", "answering_head", "client_version",
        "client_keep_alive", "out", "without_body", "keep_alive",
    )
)  # fmt: skip

_HEAD: Final = 0
_BODY: Final = 1
_COMPLETE: Final = 2
_RAW: Final = 3
_BROKEN: Final = 4

_CR: Final = 0x0D
_LF: Final = 0x0A
_TLS_HANDSHAKE: Final = 0x16  # RFC 8446 section 5.1: the first byte of a ClientHello's record


class Http1ServerCodec:
    """One client connection's protocol state. See `codec.ServerCodec`."""

    __slots__ = (
        "_answering_head",
        "_blank_lines",
        "_body",
        "_buffer",
        "_client_keep_alive",
        "_client_version",
        "_eof",
        "_keep_alive",
        "_out",
        "_parser",
        "_scanned",
        "_state",
        "_without_body",
    )

    def __init__(self, parser: HeadParser = PARSER) -> None:
        self._parser = parser
        self._buffer = b""
        self._scanned = 0  # bytes of a partial head that are known not to end it
        self._blank_lines = 0  # empty lines skipped before this request
        self._eof = False
        self._state = _HEAD
        self._body = BodyDecoder()
        # Of the current request, for its response:
        self._answering_head = False
        self._client_version = HTTP_1_1
        self._client_keep_alive = False
        # Of the current response:
        self._out = BodyEncoder()
        self._without_body = False
        self._keep_alive = False

    # Receiving

    def receive(self, data: bytes) -> list[Event]:
        events: list[Event] = []
        state = self._state
        if state == _BROKEN:
            return events
        buffer = self._buffer + data if self._buffer else data
        position = 0
        if state == _HEAD and buffer:
            position = self._receive_head(buffer, events)
        if self._state == _BODY:
            position = self._body.decode(buffer, position, events)
            if events and events[-1] is END:
                self._state = _COMPLETE
        self._buffer = buffer[position:] if position else buffer
        if self._eof and (self._state == _BODY or (self._state == _HEAD and self._buffer)):
            events.append(Violation("http1.unexpected_eof"))
        if events and isinstance(events[-1], Violation):
            self._break(events[-1])
        return events

    def receive_eof(self) -> list[Event]:
        self._eof = True
        return self.receive(b"")

    def next_message(self) -> None:
        if self._state != _COMPLETE:
            raise ValueError("the request has not ended")
        self._state = _HEAD
        self._blank_lines = 0
        # Should the next request not even have a head, then its 400 must not be shaped by this one.
        self._answering_head = False
        self._client_version = HTTP_1_1
        self._client_keep_alive = False
        self._keep_alive = False

    def take_buffered(self) -> bytes:
        buffered, self._buffer = self._buffer, b""
        self._scanned = 0
        return buffered

    @property
    def between_messages(self) -> bool:
        return self._state == _HEAD and not self._buffer

    @property
    def buffered_bytes(self) -> int:
        return len(self._buffer)

    def _receive_head(self, buffer: bytes, events: list[Event]) -> int:
        """Returns the position behind what is done with: the head, or the empty lines before it."""
        start = 0
        first = buffer[0]
        if first not in TOKEN_CHARS:
            start = self._skip_blank_lines(buffer, events)
            if events or start == len(buffer) or buffer[start] == _CR:
                return start
            first = buffer[start]
        end = buffer.find(b"\r\n\r\n", max(start, start + self._scanned - 3), start + MAX_HEAD_BYTES)
        if end < 0 or buffer.find(b"\r\n", start, start + MAX_REQUEST_LINE_BYTES) < 0:
            rest = buffer[start:] if start else buffer
            violation = incomplete_head_violation(rest, self._scanned, MAX_REQUEST_LINE_BYTES)
            if violation is not None:
                events.append(violation)
            self._scanned = len(rest)
            return start
        head = self._parser.parse_request(buffer[start : end + 4])
        events.append(head)
        if isinstance(head, Violation):
            return start
        self._state = _BODY
        self._scanned = 0
        self._body = BodyDecoder(head.framing, head.content_length)
        self._answering_head = head.method == b"HEAD"
        self._client_version = head.version
        self._client_keep_alive = head.keep_alive
        return end + 4

    def _skip_blank_lines(self, buffer: bytes, events: list[Event]) -> int:
        """Returns where the request line begins, if it can begin there; a lone CR at the end waits for its LF."""
        position = 0
        while position < len(buffer) and buffer[position] not in TOKEN_CHARS:
            first = buffer[position]
            if first == _CR and self._blank_lines < MAX_BLANK_LINES:
                if position + 1 == len(buffer):
                    break
                if buffer[position + 1] == _LF:
                    self._blank_lines += 1
                    position += 2
                    continue
                events.append(Violation("http1.bare_cr"))
            elif first == _LF:
                events.append(Violation("http1.bare_lf"))
            elif first == _TLS_HANDSHAKE:
                events.append(Violation("http1.tls_on_plain_port"))
            else:
                events.append(Violation("http1.invalid_request_line"))
            break
        return position

    def _break(self, violation: Violation) -> None:
        """`take_buffered` has a preface of HTTP/2 and what came behind it: another codec may understand them."""
        self._state = _BROKEN
        if violation.details != HTTP2_PREFACE:
            self._buffer = b""
        self._client_keep_alive = False

    # Sending

    def encode_head(self, head: ResponseHead, close: bool) -> bytes:
        status = head.status
        if status < 200 and status != 101:
            return b"" if self._client_version == HTTP_1_0 else encode_head(_status_line(head), head.headers, [])
        lines: list[bytes] = []
        keep_alive = self._client_keep_alive and not close and self._state != _BROKEN
        framing, length = head.framing, head.content_length
        if status == 101:
            self._state = _RAW
            framing, keep_alive, self._without_body = UNTIL_CLOSE, False, False
        else:
            self._without_body = self._answering_head or status in (204, 304)
            if not self._without_body:
                if framing == NO_BODY:
                    framing, length = LENGTH, 0
                elif framing != LENGTH:
                    framing = CHUNKED if self._client_version == HTTP_1_1 else UNTIL_CLOSE
                    keep_alive = keep_alive and framing == CHUNKED
            if framing == LENGTH and status != 204:
                lines.append(b"Content-Length: %d" % length)
            elif framing == CHUNKED and status != 204 and self._client_version == HTTP_1_1:
                lines.append(b"Transfer-Encoding: chunked")
        if head.upgrade and status in (101, 426):
            lines.append(b"Upgrade: " + head.upgrade)
            lines.append(b"Connection: Upgrade" if keep_alive or status == 101 else b"Connection: Upgrade, close")
        elif not keep_alive:
            lines.append(b"Connection: close")
        elif self._client_version == HTTP_1_0:
            lines.append(b"Connection: keep-alive")
        encoded = encode_head(_status_line(head), head.headers, lines)
        self._keep_alive = keep_alive
        self._out = BodyEncoder(NO_BODY if self._without_body else framing, length)
        return encoded

    def encode_data(self, data: bytes) -> bytes:
        return b"" if self._without_body else self._out.encode_data(data)

    def encode_end(self, trailers: Headers | None = None) -> bytes:
        return b"" if self._without_body else self._out.encode_end(trailers)

    @property
    def keep_alive(self) -> bool:
        return self._keep_alive

    # Moving

    @property
    def receiving(self) -> BodyDecoder:
        return self._body

    @property
    def sending(self) -> BodyEncoder:
        return self._out

    @property
    def is_between_requests(self) -> bool:
        """No head has come yet, though perhaps a part of one."""
        return self._state == _HEAD

    @property
    def is_complete(self) -> bool:
        return self._state == _COMPLETE

    @property
    def is_raw(self) -> bool:
        return self._state == _RAW

    @property
    def is_without_body(self) -> bool:
        return self._without_body

    @property
    def answering_head(self) -> bool:
        return self._answering_head

    @property
    def client_version(self) -> int:
        return self._client_version

    def dump(self) -> dict[str, object]:
        return {
            "kind": KIND,
            "version": VERSION,
            "state": self._state,
            "buffer": self._buffer,
            "blank_lines": self._blank_lines,
            "eof": self._eof,
            "body": self._body.dump(),
            "answering_head": self._answering_head,
            "client_version": self._client_version,
            "client_keep_alive": self._client_keep_alive,
            "out": self._out.dump(),
            "without_body": self._without_body,
            "keep_alive": self._keep_alive,
        }

    @classmethod
    def load(cls, dumped: object, parser: HeadParser = PARSER) -> Http1ServerCodec:
        """The inverse of `dump`; ValueError for another version or nonsense."""
        state = saved_record(dumped, KIND, VERSION, _KEYS)
        codec = cls(parser)
        codec._state = saved_int(state, "state", _BROKEN)
        codec._buffer = saved_bytes(state, "buffer")
        codec._blank_lines = saved_int(state, "blank_lines", MAX_BLANK_LINES)
        codec._eof = saved_bool(state, "eof")
        codec._body = BodyDecoder.load(state["body"])
        codec._answering_head = saved_bool(state, "answering_head")
        codec._client_version = saved_int(state, "client_version", HTTP_1_1)
        codec._client_keep_alive = saved_bool(state, "client_keep_alive")
        codec._out = BodyEncoder.load(state["out"])
        codec._without_body = saved_bool(state, "without_body")
        codec._keep_alive = saved_bool(state, "keep_alive")
        if codec._client_version not in (HTTP_1_0, HTTP_1_1):
            raise ValueError(f"client_version: there is no version {codec._client_version}")
        body = codec._body
        unfinished = body.framing == CHUNKED or (body.framing == LENGTH and body.remaining > 0)
        if codec._state == _BODY and not unfinished:
            raise ValueError("body: it has ended, or never will")
        return codec


# The usual ones; an origin may write any phrase.
_STATUS_LINES: Final = {
    (status.value, status.phrase.encode()): f"HTTP/1.1 {status.value} {status.phrase}".encode() for status in HTTPStatus
}


def _status_line(head: ResponseHead) -> bytes:
    """The version is always our own (RFC 9112 section 2.3)."""
    line = _STATUS_LINES.get((head.status, head.phrase))
    return line if line is not None else b"HTTP/1.1 %d %b" % (head.status, head.phrase)
