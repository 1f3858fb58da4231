"""The interface of every HTTP codec: bytes in, events out; events in, bytes out. No I/O, no clock.

One codec object belongs to one connection. `receive` never looks beyond the end of the current message: bytes of a
pipelined successor stay inside the codec, raw, until `next_message()`. State is plain attributes, so that `dump()`
gives msgpack values and `load()` an equal object; a partial head travels as raw bytes.

    ServerCodec   downstream: receives requests, sends responses
    ClientCodec   upstream:   sends requests, receives responses
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


class RequestHead:
    """The start line and headers of a request. `headers` is free of framing and hop-by-hop fields once forwarded."""

    __slots__ = ("method", "target", "version", "headers", "framing", "content_length", "keep_alive", "upgrade")

    def __init__(
        self,
        method: bytes,
        target: bytes,  # origin-form ("/p?q") or "*"; absolute-form has been split into target and the Host header
        version: int,
        headers: Headers,
        framing: int = NO_BODY,
        content_length: int = 0,  # bytes, for LENGTH
        keep_alive: bool = True,  # what the sender wants for its connection
        upgrade: bytes = b"",  # the Upgrade field's value, if Connection nominates it
    ) -> None:
        self.method = method
        self.target = target
        self.version = version
        self.headers = headers
        self.framing = framing
        self.content_length = content_length
        self.keep_alive = keep_alive
        self.upgrade = upgrade


class ResponseHead:
    """The status line and headers of a response (1xx included)."""

    __slots__ = ("status", "phrase", "version", "headers", "framing", "content_length", "keep_alive", "upgrade")

    def __init__(
        self,
        status: int,
        phrase: bytes,
        version: int,
        headers: Headers,
        framing: int = NO_BODY,
        content_length: int = 0,
        keep_alive: bool = True,
        upgrade: bytes = b"",
    ) -> None:
        self.status = status
        self.phrase = phrase
        self.version = version
        self.headers = headers
        self.framing = framing
        self.content_length = content_length
        self.keep_alive = keep_alive
        self.upgrade = upgrade


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
    side (400, 408, 413, 414, 431, 501, 505); upstream it is always a 502.
    """

    __slots__ = ("details", "status")

    def __init__(self, details: str, status: int = 400) -> None:
        self.details = details
        self.status = status


Event = RequestHead | ResponseHead | Data | Trailers | End | Violation
END: Final = End()


class ServerCodec(Protocol):
    """The downstream half."""

    def receive(self, data: bytes) -> list[Event]:
        """Feed what was read (b"" just resumes); at most up to the `End` of the current request."""

    def receive_eof(self) -> list[Event]:
        """The client will send no more: a `Violation` inside a message, else nothing."""

    def next_message(self) -> None:
        """The exchange is over on both sides: accept the next request. Follow with `receive(b"")`."""

    @property
    def between_messages(self) -> bool:
        """True while no byte of a request has been read (the connection is idle)."""

    @property
    def buffered_bytes(self) -> int:
        """Raw bytes held: a partial head or pipelined successors."""

    def encode_head(self, head: ResponseHead, close: bool) -> bytes:
        """A response head with the framing this client understands; `close` adds `Connection: close`.

        Whether the connection can be kept afterwards is `keep_alive` from then on: a body without known length
        towards HTTP/1.0 ends with the connection.
        """

    def encode_data(self, data: bytes) -> bytes: ...

    def encode_end(self, trailers: Headers | None = None) -> bytes: ...

    @property
    def keep_alive(self) -> bool:
        """After `encode_head` of a final response: may another request follow on this connection?"""

    def dump(self) -> dict[str, object]: ...


class ClientCodec(Protocol):
    """The upstream half; the mirror image of `ServerCodec`."""

    def encode_head(self, head: RequestHead) -> bytes: ...

    def encode_data(self, data: bytes) -> bytes: ...

    def encode_end(self, trailers: Headers | None = None) -> bytes: ...

    def receive(self, data: bytes) -> list[Event]: ...

    def receive_eof(self) -> list[Event]:
        """`End` for a body that lasts until close; a `Violation` inside a message; nothing between messages."""

    def next_message(self) -> None: ...

    @property
    def between_messages(self) -> bool: ...

    @property
    def reusable(self) -> bool:
        """Both messages complete, nothing unexpected in the buffer, and the origin wants to keep it."""

    def dump(self) -> dict[str, object]: ...
