"""The record layer that OpenSSL keeps after a handshake. It can't be dumped: such a connection drains at a restart.

Python's ssl module gives out neither keys nor sequence numbers, so this object stays where it was made. What replaces
it one day has the same few methods; nothing but this file and the handshake knows about OpenSSL.
"""

from __future__ import annotations

import ssl
from typing import Final

from hotproxy.net.tls_errors import TlsError, in_words

# RFC 8446 section 5.1: what a record carries at most, and so what one read brings.
_PLAIN_BYTES: Final = 1 << 14


class OpensslRecords:
    """A `RecordLayer`."""

    __slots__ = ("_incoming", "_outgoing", "_ssl", "broken", "ended")

    def __init__(self, handshaken: ssl.SSLObject, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO) -> None:
        self.ended = False
        self.broken = ""
        self._ssl = handshaken
        self._incoming = incoming
        self._outgoing = outgoing

    def open(self, records: bytes) -> bytes:
        if self.ended:  # RFC 8446 section 6.1: whatever follows close_notify is ignored
            return b""
        incoming, read = self._incoming, self._ssl.read
        incoming.write(records)
        pieces: list[bytes] = []
        try:
            while True:
                piece = read(_PLAIN_BYTES)
                if not piece:
                    self.ended = True
                    break
                pieces.append(piece)
                if not incoming.pending:
                    break
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self.ended = True
        except ssl.SSLError as error:
            self.broken = in_words(error)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def seal(self, data: bytes | bytearray) -> bytes:
        try:
            self._ssl.write(data)
        except ssl.SSLError as error:
            raise TlsError(in_words(error)) from None
        return self._outgoing.read()

    def seal_end(self) -> bytes:
        try:
            self._ssl.unwrap()
        except ssl.SSLError:  # the peer has not said close_notify yet; ours is written nevertheless
            pass
        return self._outgoing.read()

    def output(self) -> bytes:
        return self._outgoing.read() if self._outgoing.pending else b""

    def dump(self) -> dict[str, object] | None:
        return None
