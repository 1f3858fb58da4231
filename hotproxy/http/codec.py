"""The interface of every HTTP codec: bytes in, events out; events in, bytes out. No I/O, no clock.

One codec object belongs to one connection. `receive` never looks beyond the end of the current message: bytes of a
pipelined successor stay inside the codec, raw, until `next_message()`. State is plain attributes, so that `dump()`
gives msgpack values and `load()` an equal object; a partial head travels as raw bytes.

    ServerCodec   downstream: receives requests, sends responses
    ClientCodec   upstream:   sends requests, receives responses

Events of a request:   RequestHead  Data*  Trailers?  End
Events of a response:  ResponseHead(1xx)*  ResponseHead  Data*  Trailers?  End
                       ResponseHead(1xx)*  ResponseHead(101)      and from then on raw bytes: `take_buffered()`
A Violation may take the place of any of them, and nothing follows it.

HTTP/2 has the same events, each with the number of its stream: `http2_server`.
"""

from __future__ import annotations

from typing import Final, Protocol

from hotproxy.http.headers import Headers

# How a body is delimited (RFC 9112 section 6).
NO_BODY: Final = 0
LENGTH: Final = 1
CHUNKED: Final = 2
UNTIL_CLOSE: Final = 3  # responses only

HTTP_1_0: Final = 10
HTTP_1_1: Final = 11
HTTP_2: Final = 20


class RequestHead:
    """The start line and headers of a request, end-to-end fields only.

    What the framing, hop-by-hop and connection-nominated fields meant is in the attributes; the encoding codec writes
    its own. `Expect` is end-to-end and stays in `headers` (but for HTTP/1.0, where it must be ignored), and so does
    "TE: trailers", which is true of us because it is true of the client.
    """

    __slots__ = (
        "content_length",
        "expect_continue",
        "framing",
        "headers",
        "keep_alive",
        "method",
        "target",
        "upgrade",
        "version",
    )

    def __init__(
        self,
        method: bytes,
        target: bytes,  # origin-form ("/p?q") or "*"; absolute-form has been split into target and the Host header
        version: int,
        headers: Headers,
        framing: int = NO_BODY,
        content_length: int = 0,  # bytes, for LENGTH
        keep_alive: bool = True,  # what the sender wants for its connection
        upgrade: bytes = b"",  # the Upgrade field's value, if Connection nominates it and no body comes with it
        expect_continue: bool = False,  # the client waits for "100 Continue" before it sends its body
    ) -> None:
        self.method = method
        self.target = target
        self.version = version
        self.headers = headers
        self.framing = framing
        self.content_length = content_length
        self.keep_alive = keep_alive
        self.upgrade = upgrade
        self.expect_continue = expect_continue

    def dump(self) -> list[object]:
        """For msgpack, in the order of `__init__`. Its version is that of the record which contains it."""
        return [
            self.method,
            self.target,
            self.version,
            self.headers.dump(),
            self.framing,
            self.content_length,
            self.keep_alive,
            self.upgrade,
            self.expect_continue,
        ]

    @classmethod
    def load(cls, state: object) -> RequestHead:
        """The inverse of `dump`; ValueError when the shape is another."""
        match state:
            case [
                bytes(method),
                bytes(target),
                int(version),
                headers,
                int(framing),
                int(length),
                bool(keep_alive),
                bytes(upgrade),
                bool(expect),
            ]:
                return cls(method, target, version, Headers.load(headers), framing, length, keep_alive, upgrade, expect)
        raise ValueError("a request head of another shape")


class ResponseHead:
    """The status line and headers of a response (1xx included), end-to-end fields only.

    `framing` is what a GET would have: an answer to HEAD and a 304 keep the declared length although no Data follows
    (and NO_BODY when nothing was declared). So a local reply to HEAD is built like one to GET; the codec, which knows
    the request's method, leaves the body out.
    """

    __slots__ = ("content_length", "framing", "headers", "keep_alive", "phrase", "status", "upgrade", "version")

    def __init__(
        self,
        status: int,
        phrase: bytes,
        version: int,
        headers: Headers,
        framing: int = NO_BODY,
        content_length: int = 0,  # bytes, for LENGTH
        keep_alive: bool = True,  # what the origin wants for its connection
        upgrade: bytes = b"",  # the Upgrade field's value, if Connection nominates it; sent with 101 and 426
    ) -> None:
        self.status = status
        self.phrase = phrase
        self.version = version
        self.headers = headers
        self.framing = framing
        self.content_length = content_length
        self.keep_alive = keep_alive
        self.upgrade = upgrade

    def dump(self) -> list[object]:
        """For msgpack, in the order of `__init__`. Its version is that of the record which contains it."""
        return [
            self.status,
            self.phrase,
            self.version,
            self.headers.dump(),
            self.framing,
            self.content_length,
            self.keep_alive,
            self.upgrade,
        ]

    @classmethod
    def load(cls, state: object) -> ResponseHead:
        """The inverse of `dump`; ValueError when the shape is another."""
        match state:
            case [
                int(status),
                bytes(phrase),
                int(version),
                headers,
                int(framing),
                int(length),
                bool(keep_alive),
                bytes(upgrade),
            ]:
                return cls(status, phrase, version, Headers.load(headers), framing, length, keep_alive, upgrade)
        raise ValueError("a response head of another shape")


class Data:
    """A piece of body, without its framing; never empty."""

    __slots__ = ("data",)

    def __init__(self, data: bytes) -> None:
        self.data = data


class Trailers:
    """The trailer section of a chunked body; comes before `End`, and only when it is not empty."""

    __slots__ = ("headers",)

    def __init__(self, headers: Headers) -> None:
        self.headers = headers


class End:
    """The message is complete."""

    __slots__ = ()


class Violation:
    """The peer broke the protocol: nothing after this can be trusted, the connection must go.

    `details` is one word per cause (`http1.conflicting_framing`), `status` the answer it deserves on the downstream
    side (400, 414, 431, 501, 505); upstream it is always a 502.
    """

    __slots__ = ("details", "status")

    def __init__(self, details: str, status: int = 400) -> None:
        self.details = details
        self.status = status


class Reset:
    """HTTP/2: the client has given up this stream, or (`details`) has broken the rules of its frames: it is gone."""

    __slots__ = ("details",)

    def __init__(self, details: str = "") -> None:
        self.details = details


Event = RequestHead | ResponseHead | Data | Trailers | End | Violation
END: Final = End()
# HTTP/2: of which stream; a Violation of stream 0 is the end of the connection.
StreamEvent = tuple[int, RequestHead | Data | Trailers | End | Violation | Reset]


class ServerCodec(Protocol):
    """The downstream half. After a `Violation` it may still encode one response, which says `Connection: close`."""

    def receive(self, data: bytes) -> list[Event]:
        """Feed what was read (b"" just resumes); at most up to the `End` of the current request."""

    def receive_eof(self) -> list[Event]:
        """The client will send no more: a `Violation` inside a message, else nothing.

        It is remembered: when a pipelined successor turns out to be cut short, `receive(b"")` says so.
        """

    def next_message(self) -> None:
        """The exchange is over on both sides: accept the next request. Follow with `receive(b"")`."""

    def take_buffered(self) -> bytes:
        """What has been read beyond the current message, raw, and forgets it: the first bytes after a 101."""

    @property
    def between_messages(self) -> bool:
        """True while no byte of a request has been read (the connection is idle)."""

    @property
    def buffered_bytes(self) -> int:
        """Raw bytes held: a partial head or pipelined successors."""

    def encode_head(self, head: ResponseHead, close: bool) -> bytes:
        """A response head with the framing this client understands; `close` adds `Connection: close`.

        Whether the connection can be kept afterwards is `keep_alive` from then on: a body without known length
        towards HTTP/1.0 ends with the connection. An interim (1xx) head for an HTTP/1.0 client is b"".
        ValueError when the head would split the message (CR, LF or NUL inside): a bug of ours.
        """

    def encode_data(self, data: bytes) -> bytes:
        """A piece of body; b"" for an empty piece and where no body may follow (HEAD, 204, 304).

        ValueError for more than the announced length: a bug of ours.
        """

    def encode_end(self, trailers: Headers | None = None) -> bytes:
        """The end of the body; trailers are dropped where the framing has no room for them.

        ValueError for less than the announced length: a bug of ours (a broken body ends by closing).
        """

    @property
    def keep_alive(self) -> bool:
        """After `encode_head` of a final response: may another request follow on this connection?"""

    def dump(self) -> dict[str, object]: ...


class ClientCodec(Protocol):
    """The upstream half; the mirror image of `ServerCodec`. The origin may answer before the request is complete."""

    def encode_head(self, head: RequestHead, authority: bytes = b"") -> bytes:
        """The request head, always HTTP/1.1. A head without Host (HTTP/1.0) gets `authority` (RFC 9112 section 3.2)."""

    def encode_data(self, data: bytes) -> bytes: ...

    def encode_end(self, trailers: Headers | None = None) -> bytes: ...

    def receive(self, data: bytes) -> list[Event]:
        """Feed what was read. Bytes while no request is under way are a `Violation`: such a connection must go."""

    def receive_eof(self) -> list[Event]:
        """`End` for a body that lasts until close; a `Violation` inside a message; nothing between messages."""

    def next_message(self) -> None:
        """Only when `reusable`."""

    def take_buffered(self) -> bytes:
        """The raw bytes that came behind a 101."""

    @property
    def between_messages(self) -> bool:
        """True while no byte of a response has been read."""

    @property
    def buffered_bytes(self) -> int: ...

    @property
    def reusable(self) -> bool:
        """Both messages complete, nothing unexpected in the buffer, and the origin wants to keep it."""

    def dump(self) -> dict[str, object]: ...
