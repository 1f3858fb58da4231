r"""HTTP/1.1 towards origins: requests out, responses in.

    receiving:  IDLE --encode_head--> HEAD --final head--> BODY --its last byte--> COMPLETE --next_message--> IDLE
                                       |  \--101--> RAW
                any of them --a violation--> BROKEN         (bytes while IDLE are one)

An origin is trusted no more than a client: an answer that two parties could read differently is a 502, for its rest
would be taken for the answer to somebody else's request.
"""

from __future__ import annotations

from typing import Final

from hotproxy.http.body import BodyDecoder, BodyEncoder
from hotproxy.http.codec import CHUNKED, END, LENGTH, NO_BODY, Event, RequestHead, ResponseHead, Violation
from hotproxy.http.head_parser import HeadParser
from hotproxy.http.headers import Headers
from hotproxy.http.kernel import PARSER, encode_head
from hotproxy.http.syntax import MAX_HEAD_BYTES, incomplete_head_violation
from hotproxy.saved import saved_bool, saved_bytes, saved_int, saved_record

KIND: Final = "http1_client"
VERSION: Final = 1
_KEYS: Final = frozenset(
    (
        "kind", "version", "state", "buffer", "eof", "body", "interim", "out", "request_sent", "to_head",
        "upgrade_wanted", "keep_alive",
    )
)  # fmt: skip

_IDLE: Final = 0
_HEAD: Final = 1
_BODY: Final = 2
_COMPLETE: Final = 3
_RAW: Final = 4
_BROKEN: Final = 5

# A 100, a 103 and a few 102 are all that is sent in practice; without a bound an origin keeps a stream busy for ever.
MAX_INTERIM_RESPONSES: Final = 10

_PREFIX: Final = b"HTTP/"


class Http1ClientCodec:
    """One origin connection's protocol state. See `codec.ClientCodec`."""

    __slots__ = (
        "_body",
        "_buffer",
        "_eof",
        "_interim",
        "_keep_alive",
        "_out",
        "_parser",
        "_request_sent",
        "_scanned",
        "_state",
        "_to_head",
        "_upgrade_wanted",
    )

    def __init__(self, parser: HeadParser = PARSER) -> None:
        self._parser = parser
        self._buffer = b""
        self._scanned = 0  # bytes of a partial head that are known not to end it
        self._eof = False
        self._state = _IDLE
        self._body = BodyDecoder()
        self._interim = 0
        # Of the current request:
        self._out = BodyEncoder()
        self._request_sent = True
        self._to_head = False
        self._upgrade_wanted = False
        # Of the current response:
        self._keep_alive = True

    # Sending

    def encode_head(self, head: RequestHead, authority: bytes = b"") -> bytes:
        if self._state != _IDLE:
            raise ValueError("another request is under way")
        lines: list[bytes] = []
        if not head.headers.has(b"host"):
            lines.append(b"Host: " + authority)
        if head.framing == LENGTH:
            lines.append(b"Content-Length: %d" % head.content_length)
        elif head.framing == CHUNKED:
            lines.append(b"Transfer-Encoding: chunked")
        elif head.framing != NO_BODY:
            raise ValueError("a request's body cannot end with the connection")
        if head.upgrade:
            lines.append(b"Upgrade: " + head.upgrade)
            lines.append(b"Connection: Upgrade")
        elif head.headers.has(b"te"):  # RFC 9110 section 10.1.4: its sender must nominate it
            lines.append(b"Connection: TE")
        block = encode_head(b"%b %b HTTP/1.1" % (head.method, head.target), head.headers, lines)
        self._state = _HEAD
        self._out = BodyEncoder(head.framing, head.content_length)
        self._request_sent = False
        self._to_head = head.method == b"HEAD"
        self._upgrade_wanted = bool(head.upgrade)
        return block

    def encode_data(self, data: bytes) -> bytes:
        return self._out.encode_data(data)

    def encode_end(self, trailers: Headers | None = None) -> bytes:
        encoded = self._out.encode_end(trailers)
        self._request_sent = True
        return encoded

    # Receiving

    def receive(self, data: bytes) -> list[Event]:
        events: list[Event] = []
        if self._state == _BROKEN:
            return events
        buffer = self._buffer + data if self._buffer else data
        position = 0
        if self._state == _IDLE and buffer:
            events.append(Violation("http1.unexpected_data"))
        while self._state == _HEAD and position < len(buffer):
            behind = self._receive_head(buffer, position, events)
            if behind == position:
                break
            position = behind
        if self._state == _BODY:
            position = self._body.decode(buffer, position, events)
            if events and events[-1] is END:
                self._state = _COMPLETE
        self._buffer = buffer[position:] if position else buffer
        if self._eof and self._state in (_HEAD, _BODY):
            if self._state == _BODY and self._body.until_close:
                self._state = _COMPLETE
                events.append(END)
            else:
                events.append(Violation("http1.unexpected_eof"))
        if events and isinstance(events[-1], Violation):
            self._state = _BROKEN
            self._buffer = b""
        return events

    def receive_eof(self) -> list[Event]:
        self._eof = True
        return self.receive(b"")

    def next_message(self) -> None:
        if not self.reusable:
            raise ValueError("this connection cannot be used again")
        self._state = _IDLE

    def take_buffered(self) -> bytes:
        buffered, self._buffer = self._buffer, b""
        self._scanned = 0
        return buffered

    @property
    def between_messages(self) -> bool:
        return self._state == _IDLE or (self._state == _HEAD and not self._buffer and not self._interim)

    @property
    def buffered_bytes(self) -> int:
        return len(self._buffer)

    @property
    def reusable(self) -> bool:
        return (
            self._state in (_COMPLETE, _IDLE)
            and self._request_sent
            and self._keep_alive
            and not self._eof
            and not self._buffer
        )

    def _receive_head(self, buffer: bytes, start: int, events: list[Event]) -> int:
        """Returns the position behind the head; `start` when there is none."""
        prefix = buffer[start : start + len(_PREFIX)]
        if not _PREFIX.startswith(prefix):
            events.append(Violation("http1.invalid_status_line"))
            return start
        end = buffer.find(b"\r\n\r\n", max(start, start + self._scanned - 3), start + MAX_HEAD_BYTES)
        if end < 0:
            rest = buffer[start:] if start else buffer
            violation = incomplete_head_violation(rest, self._scanned, MAX_HEAD_BYTES)
            if violation is not None:
                events.append(violation)
            self._scanned = len(rest)
            return start
        self._scanned = 0
        head = self._parser.parse_response(buffer[start : end + 4], self._to_head)
        if isinstance(head, ResponseHead):
            violation = self._accept(head)
            if violation is None:
                events.append(head)
                return end + 4
            events.append(violation)
        else:
            events.append(head)
        return start

    def _accept(self, head: ResponseHead) -> Violation | None:
        """Move on to what follows this head."""
        status = head.status
        if status == 101:
            if not self._upgrade_wanted or not head.upgrade:
                return Violation("http1.unexpected_upgrade")
            self._state = _RAW
            self._keep_alive = False
        elif status < 200:
            self._interim += 1
            if self._interim > MAX_INTERIM_RESPONSES:
                return Violation("http1.too_many_interim_responses")
        else:
            self._state = _BODY
            self._interim = 0
            self._keep_alive = head.keep_alive
            without_body = self._to_head or status in (204, 304)
            self._body = BodyDecoder() if without_body else BodyDecoder(head.framing, head.content_length)
        return None

    # Moving

    @property
    def receiving(self) -> BodyDecoder:
        return self._body

    @property
    def sending(self) -> BodyEncoder:
        return self._out

    @property
    def awaits_head(self) -> bool:
        """The final head has not come yet."""
        return self._state == _HEAD

    @property
    def is_answering(self) -> bool:
        """A request is under way, and its response has not ended."""
        return self._state in (_HEAD, _BODY)

    @property
    def is_raw(self) -> bool:
        return self._state == _RAW

    @property
    def request_sent(self) -> bool:
        return self._request_sent

    @property
    def to_head(self) -> bool:
        return self._to_head

    @property
    def upgrade_wanted(self) -> bool:
        return self._upgrade_wanted

    def dump(self) -> dict[str, object]:
        return {
            "kind": KIND,
            "version": VERSION,
            "state": self._state,
            "buffer": self._buffer,
            "eof": self._eof,
            "body": self._body.dump(),
            "interim": self._interim,
            "out": self._out.dump(),
            "request_sent": self._request_sent,
            "to_head": self._to_head,
            "upgrade_wanted": self._upgrade_wanted,
            "keep_alive": self._keep_alive,
        }

    @classmethod
    def load(cls, dumped: object, parser: HeadParser = PARSER) -> Http1ClientCodec:
        """The inverse of `dump`; ValueError for another version or nonsense."""
        state = saved_record(dumped, KIND, VERSION, _KEYS)
        codec = cls(parser)
        codec._state = saved_int(state, "state", _BROKEN)
        codec._buffer = saved_bytes(state, "buffer")
        codec._eof = saved_bool(state, "eof")
        codec._body = BodyDecoder.load(state["body"])
        codec._interim = saved_int(state, "interim", MAX_INTERIM_RESPONSES + 1)
        codec._out = BodyEncoder.load(state["out"])
        codec._request_sent = saved_bool(state, "request_sent")
        codec._to_head = saved_bool(state, "to_head")
        codec._upgrade_wanted = saved_bool(state, "upgrade_wanted")
        codec._keep_alive = saved_bool(state, "keep_alive")
        return codec
