"""The server name that a TLS client asks for (SNI), out of its first message, without decrypting anything.

The message may come in pieces of any size, and be spread over several records (RFC 8446 section 5.1). Whoever has the
bytes keeps them: a reader looks at what is new, and remembers only how far it has come, so that half a message travels
to another process as the bytes that it is, and a new reader begins over there.
"""

from __future__ import annotations

from typing import Final

# What `read` has found.
PENDING: Final = 0
WHOLE: Final = 1
OTHER: Final = 2  # no TLS, or nothing that a server of it would take
TOO_LARGE: Final = 3

# Envoy's limit. Half a kilobyte is usual, a post-quantum key share brings it to two.
MAX_HELLO_BYTES: Final = 16 * 1024
# With the heads of its records: a message of this size in records of 16 bytes, which nobody sends.
MAX_BYTES: Final = MAX_HELLO_BYTES + MAX_HELLO_BYTES // 16 * 5

_RECORD_HEAD_BYTES: Final = 5
_MAX_RECORD_BYTES: Final = 16 * 1024  # RFC 8446 section 5.1
_HANDSHAKE: Final = 22
_CLIENT_HELLO: Final = 1
_MESSAGE_HEAD_BYTES: Final = 4
_SERVER_NAME: Final = 0
# RFC 1035 section 2.3.4.
_MAX_NAME_BYTES: Final = 255


class ClientHelloReader:
    """Used once. `server_name` is in lower case, "" where the client names none."""

    __slots__ = ("_at", "_message", "server_name")

    def __init__(self) -> None:
        self.server_name = ""
        self._at = 0  # where the next record begins
        self._message = bytearray()  # of the records so far

    def read(self, data: bytes | bytearray) -> int:
        """`data`: all that has come so far, what was given before included."""
        while True:
            at = self._at
            head = bytes(data[at : at + _RECORD_HEAD_BYTES])
            if (head and head[0] != _HANDSHAKE) or (len(head) > 1 and head[1] != 3):
                return OTHER
            if len(head) < _RECORD_HEAD_BYTES:
                break
            size = int.from_bytes(head[3:5], "big")
            # "Implementations MUST NOT send zero-length fragments of Handshake types".
            if size == 0 or size > _MAX_RECORD_BYTES:
                return OTHER
            start = at + _RECORD_HEAD_BYTES
            if len(data) < start + size:
                break
            self._message += data[start : start + size]
            self._at = start + size
            found = self._look()
            if found != PENDING:
                return found
        return TOO_LARGE if len(data) > MAX_BYTES else PENDING

    def _look(self) -> int:
        message = self._message
        if message[0] != _CLIENT_HELLO:
            return OTHER
        if len(message) < _MESSAGE_HEAD_BYTES:
            return PENDING
        size = int.from_bytes(message[1:4], "big")
        if size > MAX_HELLO_BYTES:
            return TOO_LARGE
        if len(message) < _MESSAGE_HEAD_BYTES + size:
            return PENDING
        name = _server_name(bytes(message[_MESSAGE_HEAD_BYTES : _MESSAGE_HEAD_BYTES + size]))
        if name is None:
            return OTHER
        self.server_name = name
        return WHOLE


def _server_name(hello: bytes) -> str | None:
    """Of a ClientHello's body (RFC 8446 section 4.1.2); "" for none, None where its parts do not fit together."""
    size = len(hello)
    at = _behind(hello, 34, 1)  # version, random; session id
    at = _behind(hello, at, 2)  # cipher suites
    at = _behind(hello, at, 1)  # compression methods
    if at == size:
        return ""  # no extensions, as TLS 1.0 allows
    if _behind(hello, at, 2) != size:
        return None
    at += 2
    while at < size:
        end = _behind(hello, at + 2, 2)
        if end > size:
            return None
        if hello[at : at + 2] == b"\x00\x00":
            return _host_name(hello[at + 4 : end])
        at = end
    return ""


def _host_name(extension: bytes) -> str | None:
    """RFC 6066 section 3: a list of names, of which there is one kind."""
    size = len(extension)
    if _behind(extension, 0, 2) != size:
        return None
    at = 2
    while at < size:
        end = _behind(extension, at + 1, 2)
        if end > size:
            return None
        if extension[at] == _SERVER_NAME:
            return _name(extension[at + 3 : end])
        at = end
    return None


def _name(raw: bytes) -> str | None:
    """A DNS name in ASCII, as certificates are matched with it."""
    if not raw or len(raw) > _MAX_NAME_BYTES or not raw.isascii():
        return None
    name = raw.decode("ascii").lower().removesuffix(".")
    return name if name and name.isprintable() and " " not in name else None


def _behind(data: bytes, at: int, length_bytes: int) -> int:
    """The end of a vector that begins with its length; behind the end of `data` where it does not fit."""
    start = at + length_bytes
    if start > len(data):
        return len(data) + 1
    return min(start + int.from_bytes(data[at:start], "big"), len(data) + 1)
