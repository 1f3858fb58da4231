"""The `Loop` of one connection whose bytes are encrypted on the wire: a `Connection` on it sees plaintext only.

    Connection  receive() <- plaintext <- RecordLayer.open <- whole records <- receive()  the worker's loop
                transmit() -> plaintext -> RecordLayer.seal -> records -> transmit()

So everything that a connection does (pressure, flushing, half-closes, lingering) is the same with TLS and without, and
plain connections pay nothing for it.

**What counts as sent** is plaintext whose records the kernel has taken to the last byte. Until then its owner keeps it
and offers it again; what has been sealed of it already is kept here and never sealed twice.

**Ends.** close_notify is the peer's end; the end of TCP without it is a connection that was cut (RFC 8446 section 6.1),
so that nobody can shorten a body that lasts until the end. Our own end is close_notify and then FIN.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from typing import Final

from hotproxy.net.loop import Loop
from hotproxy.net.tls_errors import TlsError
from hotproxy.net.tls_records import NO_RECORD, RecordLayer, whole_records
from hotproxy.telemetry.tls_info import TlsInfo

# Sealed at a time: four full records. More would be sealed for a reader who does not take it, and held twice.
SEALED_BYTES: Final = 64 * 1024

# Records that wait to be taken: what is sealed at a time, and as much again that the record layer has to say itself,
# for a KeyUpdate may ask for one in return. 2,000 of those are more than anybody means who reads none of them.
_MAX_SEALED_BYTES: Final = 2 * SEALED_BYTES

CUT: Final = "closed without close_notify"
_TALKS_TO_ITSELF: Final = "the peer asked for more key updates than it has read"


class TlsLoop:
    """`received`: what came behind the handshake already. `info`: what the handshake has agreed upon. `watched`: the
    handshake has left the descriptor in the loop, until somebody reads or `settle`."""

    __slots__ = (
        "_due", "_ended", "_ending", "_fd", "_held", "_loop", "_partial", "_reader", "_records", "_sealed",
        "_sealed_plain", "_watched", "info",
    )  # fmt: skip

    def __init__(
        self, loop: Loop, fd: int, records: RecordLayer, received: bytes, info: TlsInfo, watched: bool = False
    ) -> None:
        self.info = info
        self._watched = watched
        self._loop = loop
        self._fd = fd
        self._records = records
        self._partial = received  # not opened yet
        self._reader: Callable[[], None] | None = None
        self._due = bool(received)  # something to tell that the descriptor will not announce
        self._held: bytes | None = None  # plaintext that `is_quiet` came across
        self._ended = False  # the peer's end was told
        self._sealed = b""  # records, or their rest, that the kernel has not taken
        self._sealed_plain = 0  # how much plaintext is in them
        self._ending: socket.socket | None = None  # close_notify is on its way, then FIN

    @property
    def broken(self) -> str:
        """What is wrong with the peer's records, or what it says is wrong with ours; "" mostly."""
        return self._records.broken

    # -- reading

    def add_reader(self, fd: int, callback: Callable[[], None]) -> None:
        self._reader = callback
        self._watched = False
        self._loop.add_reader(fd, callback)
        if self._due:
            self._loop.call_soon(self._tell_due)

    def remove_reader(self, fd: int) -> None:
        self._reader = None
        self._loop.remove_reader(fd)

    def settle(self) -> None:
        """Whoever was to read has had the chance to say so."""
        if self._watched:
            self._watched = False
            self._loop.remove_reader(self._fd)

    def _tell_due(self) -> None:
        if self._due and self._reader is not None:
            self._reader()

    def receive(self, fd: int) -> bytes | None:
        """Plaintext; b"" is close_notify; None: no whole record with plaintext is here. OSError: broken, or cut."""
        held = self._held
        if held is not None:
            self._held = None
            self._due = bool(held) and self._is_last
            self._call_due()
            return held
        if self._due:
            self._due = False
            return self._end() if self._is_last else self._open(fd, self._partial)
        data = self._loop.receive(fd)
        if data is None:
            return None
        if not data:
            if self._ended:
                return b""
            raise TlsError(CUT)
        return self._open(fd, self._partial + data if self._partial else data)

    def _open(self, fd: int, data: bytes) -> bytes | None:
        records = self._records
        size = whole_records(data)
        if size == len(data) or size == NO_RECORD:
            self._partial = b""
        else:
            self._partial = data[size:]
            data = data[:size]
        if not data:
            return None
        plain = records.open(data)
        self._say(fd)
        last = self._is_last
        if plain:
            if last:
                self._due = True
                self._call_due()
            return plain
        return self._end() if last else None

    @property
    def _is_last(self) -> bool:
        """Nothing behind what was opened will be."""
        return self._records.ended or self._records.broken != ""

    def _end(self) -> bytes:
        if self._records.broken:
            raise TlsError(self._records.broken)
        self._ended = True
        return b""

    def _call_due(self) -> None:
        if self._due:
            self._loop.call_soon(self._tell_due)

    def _say(self, fd: int) -> None:
        """What the record layer wants sent goes out now, or with what is sent next."""
        output = self._records.output()
        if output:
            self._sealed += output
            if self._sealed_plain == 0:
                try:
                    self._send(fd)
                except OSError:  # reading or writing will tell
                    pass
            if len(self._sealed) > _MAX_SEALED_BYTES:
                raise TlsError(_TALKS_TO_ITSELF)

    def is_quiet(self, fd: int) -> bool:
        """Session tickets and key updates are no noise: they are taken in."""
        while not self._due and self._held is None:
            if self._loop.is_quiet(fd):
                return not self._partial  # the rest of a record would be taken for the answer to what is sent next
            try:
                self._held = self.receive(fd)
            except OSError:
                break
        self._due = True
        self._call_due()
        return False

    # -- writing

    def add_writer(self, fd: int, callback: Callable[[], None]) -> None:
        self._loop.add_writer(fd, callback)

    def remove_writer(self, fd: int) -> None:
        self._loop.remove_writer(fd)

    def call_soon(self, callback: Callable[[], None]) -> None:
        self._loop.call_soon(callback)

    def transmit(self, fd: int, data: bytes | bytearray) -> int:
        """How much of `data` the kernel has taken in whole records. What it has not taken must be offered again."""
        taken = 0
        if self._sealed:
            if not self._send(fd):
                return 0
            taken = self._sealed_plain
            self._sealed_plain = 0
        size = len(data)
        while taken < size:
            piece = data if size <= SEALED_BYTES and not taken else data[taken : taken + SEALED_BYTES]
            self._sealed = self._records.seal(piece)
            self._sealed_plain = len(piece)
            if not self._send(fd):
                break
            taken += len(piece)
            self._sealed_plain = 0
        return taken

    def _send(self, fd: int) -> bool:
        """Has the kernel taken all that is sealed?"""
        sealed = self._sealed
        sent = self._loop.transmit(fd, sealed)
        if sent == len(sealed):
            self._sealed = b""
            return True
        if sent:
            self._sealed = sealed[sent:]
        return False

    def half_close(self, sock: socket.socket) -> None:
        fd = self._fd
        self._sealed += self._records.seal_end()
        try:
            sent = self._send(fd)
        except OSError as error:
            raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN)) from error
        if sent:
            self._loop.half_close(sock)
        else:  # the kernel's buffer is full to the last byte: its owner has nothing to send, and no writer
            self._ending = sock
            self._loop.add_writer(fd, self._on_writable)

    def _on_writable(self) -> None:
        sock = self._ending
        if sock is None:
            return
        try:
            if not self._send(self._fd):
                return
            self._loop.half_close(sock)
        except OSError:  # reading will tell
            pass
        self._ending = None
        self._loop.remove_writer(self._fd)

    # -- ending and handoff

    def forget(self, fd: int) -> None:
        self._reader = None
        self._watched = False
        self._ending = None
        self._due = False
        self._held = None
        self._sealed = b""
        self._loop.forget(fd)

    def is_movable(self, fd: int) -> bool:
        return self._records.dump() is not None
