r"""Bodies on the wire: taking the framing off what is received, and putting it on what is sent.

    chunked, received:   SIZE --size line--> DATA --all of it--> DATA_END --CRLF--> SIZE ...
                           \--size 0--> TRAILERS --empty line--> done

A few numbers are all the state there is; bytes that do not make a step yet stay in the codec's buffer, raw.
RFC 9112 sections 6 and 7.
"""

from __future__ import annotations

import re
from typing import Final

from hotproxy.http.codec import CHUNKED, END, LENGTH, NO_BODY, UNTIL_CLOSE, Data, Event, Trailers, Violation
from hotproxy.http.head_encoder import field_lines
from hotproxy.http.headers import Headers
from hotproxy.http.rules import HOP_BY_HOP
from hotproxy.http.syntax import (
    FIELD_BLOCK,
    MAX_FIELDS,
    MAX_LENGTH,
    MAX_TRAILER_BYTES,
    field_block_violation,
    split_fields,
)
from hotproxy.saved import saved_int, saved_part

_SIZE: Final = 0
_DATA: Final = 1
_DATA_END: Final = 2
_TRAILERS: Final = 3

_DECODER_KEYS: Final = frozenset(("framing", "remaining", "step"))
_ENCODER_KEYS: Final = frozenset(("framing", "remaining"))

# A size of 16 digits and an extension. Nobody uses extensions; without a bound a sender makes us read 1 MB of them for
# each byte of data (CVE-2023-39326).
MAX_SIZE_LINE_BYTES: Final = 256
# Strict: no space before ";" or behind the size (RFC 9112 section 7.1.1 calls it bad whitespace), no "0x", no sign.
_SIZE_LINE: Final = re.compile(rb"([0-9A-Fa-f]{1,16})(?:;[\t -~\x80-\xff]*+)?")

# A trailer with one of these wants to be taken for a header: of the framing, or of the request's destination.
_REFUSED_TRAILERS: Final = frozenset((b"content-length", b"host", b"transfer-encoding"))
# RFC 9110 section 6.5.1: not to be sent as trailers, since a recipient that merges them would route, authenticate,
# decode or cache by them. Dropped: a sender may put anything there in good faith.
_DROPPED_TRAILERS: Final = HOP_BY_HOP | frozenset(
    (
        b"age",
        b"authorization",
        b"cache-control",
        b"content-encoding",
        b"content-range",
        b"content-type",
        b"cookie",
        b"date",
        b"early-data",
        b"expect",
        b"expires",
        b"forwarded",
        b"location",
        b"max-forwards",
        b"pragma",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"range",
        b"retry-after",
        b"set-cookie",
        b"trailer",
        b"vary",
        b"via",
        b"www-authenticate",
    )
)
_DROPPED_PREFIXES: Final = (b"if-", b"x-forwarded-", b"x-envoy-")


class BodyDecoder:
    """The body being received. `decode` is called until it has appended `End` or a `Violation`."""

    __slots__ = ("_framing", "_remaining", "_step")

    def __init__(self, framing: int = NO_BODY, length: int = 0) -> None:
        self._framing = framing
        self._remaining = length  # bytes: of the body, or of the current chunk
        self._step = _SIZE

    @property
    def until_close(self) -> bool:
        """The end of the connection is the end of this body."""
        return self._framing == UNTIL_CLOSE

    def decode(self, buffer: bytes, position: int, events: list[Event]) -> int:
        """Take what can be taken from `buffer[position:]`; returns the position behind it.

        Neighbouring chunks become one `Data`: what arrived together goes on together, so that a sender of one-byte
        chunks does not cost a write for each.
        """
        if self._framing == CHUNKED:
            return self._decode_chunks(buffer, position, events)
        available = len(buffer) - position
        taken = available if self._framing == UNTIL_CLOSE else min(available, self._remaining)
        if taken:
            # No copy where a whole read is a piece of body.
            events.append(Data(buffer if taken == len(buffer) else buffer[position : position + taken]))
        if self._framing != UNTIL_CLOSE:
            self._remaining -= taken
            if not self._remaining:
                events.append(END)
        return position + taken

    def _decode_chunks(self, buffer: bytes, position: int, events: list[Event]) -> int:
        pieces: list[bytes] = []
        last: Event | None = None
        while last is None:
            if self._step == _DATA:
                piece = buffer[position : position + self._remaining]
                if not piece:
                    break
                pieces.append(piece)
                position += len(piece)
                self._remaining -= len(piece)
                if self._remaining:
                    break
                self._step = _DATA_END
            elif self._step == _DATA_END:
                end = buffer[position : position + 2]
                if end == b"\r\n":
                    position += 2
                    self._step = _SIZE
                elif end in (b"", b"\r"):
                    break
                else:
                    last = Violation("http1.invalid_chunk_end")
            elif self._step == _SIZE:
                line_end = buffer.find(b"\r\n", position, position + MAX_SIZE_LINE_BYTES)
                if line_end < 0:
                    last = _incomplete_size_line_violation(buffer, position)
                    break
                size = _chunk_size(buffer[position:line_end])
                if isinstance(size, Violation):
                    last = size
                else:
                    position = line_end + 2
                    self._remaining = size
                    self._step = _DATA if size else _TRAILERS
            else:
                if pieces:
                    events.append(Data(b"".join(pieces)))
                    pieces.clear()
                return _decode_trailers(buffer, position, events)
        if pieces:
            events.append(Data(b"".join(pieces)))
        if last is not None:
            events.append(last)
        return position

    @property
    def framing(self) -> int:
        return self._framing

    @property
    def remaining(self) -> int:
        """Bytes until the end of the body, or of the current chunk."""
        return self._remaining

    def dump(self) -> dict[str, object]:
        return {"framing": self._framing, "remaining": self._remaining, "step": self._step}

    @classmethod
    def load(cls, state: object) -> BodyDecoder:
        record = saved_part(state, "body", _DECODER_KEYS)
        decoder = cls(saved_int(record, "framing", UNTIL_CLOSE), saved_int(record, "remaining", MAX_LENGTH))
        decoder._step = saved_int(record, "step", _TRAILERS)
        if decoder._framing != CHUNKED and decoder._step != _SIZE:
            raise ValueError("step: of a body without chunks")
        if decoder._framing in (NO_BODY, UNTIL_CLOSE) and decoder._remaining:
            raise ValueError("remaining: of a body without length")
        if decoder._framing == CHUNKED and (decoder._step == _DATA) != (decoder._remaining > 0):
            raise ValueError("remaining: not of a chunk")
        return decoder


class BodyEncoder:
    """The body being sent. It raises ValueError when we break our own promise; a broken body ends by closing."""

    __slots__ = ("_framing", "_remaining")

    def __init__(self, framing: int = NO_BODY, length: int = 0) -> None:
        self._framing = framing
        self._remaining = length  # bytes that are still owed, for LENGTH

    def encode_data(self, data: bytes) -> bytes:
        if not data:
            return b""  # an empty chunk would be the end
        if self._framing == CHUNKED:
            return b"%x\r\n%b\r\n" % (len(data), data)
        if self._framing == LENGTH:
            if len(data) > self._remaining:
                raise ValueError(f"{len(data)} bytes of body where {self._remaining} were announced")
            self._remaining -= len(data)
        elif self._framing == NO_BODY:
            raise ValueError("body for a message without one")
        return data

    def encode_end(self, trailers: Headers | None) -> bytes:
        if self._framing == CHUNKED:
            if trailers is None or not len(trailers):
                return b"0\r\n\r\n"
            return b"0\r\n" + field_lines(trailers) + b"\r\n"
        if self._framing == LENGTH and self._remaining:
            raise ValueError(f"the body ends {self._remaining} bytes short of what was announced")
        return b""

    @property
    def framing(self) -> int:
        return self._framing

    @property
    def remaining(self) -> int:
        return self._remaining

    def dump(self) -> dict[str, object]:
        return {"framing": self._framing, "remaining": self._remaining}

    @classmethod
    def load(cls, state: object) -> BodyEncoder:
        record = saved_part(state, "out", _ENCODER_KEYS)
        return cls(saved_int(record, "framing", UNTIL_CLOSE), saved_int(record, "remaining", MAX_LENGTH))


def _chunk_size(line: bytes) -> int | Violation:
    match = _SIZE_LINE.fullmatch(line)
    if match is None:
        return Violation("http1.invalid_chunk_size")
    size = int(match[1], 16)
    return size if size <= MAX_LENGTH else Violation("http1.chunk_size_overflow")


def _incomplete_size_line_violation(buffer: bytes, position: int) -> Violation | None:
    """As for heads: the cause whose byte comes first, however the bytes were split."""
    if buffer.find(b"\n", position, position + MAX_SIZE_LINE_BYTES) >= 0:
        return Violation("http1.invalid_chunk_size")
    if len(buffer) - position > MAX_SIZE_LINE_BYTES:
        return Violation("http1.chunk_line_too_long")
    return None


def _decode_trailers(buffer: bytes, position: int, events: list[Event]) -> int:
    """The section behind the last chunk: field lines and an empty line, or just that."""
    start = buffer[position : position + 2]
    if start == b"\r\n":
        events.append(END)
        return position + 2
    end = buffer.find(b"\r\n\r\n", position, position + MAX_TRAILER_BYTES)
    if end < 0:
        section = buffer[position : position + MAX_TRAILER_BYTES + 1]
        violation = field_block_violation(section) if _has_bare_lf(section) else None
        if violation is None and len(section) > MAX_TRAILER_BYTES:
            violation = Violation("http1.trailers_too_large", 431)
        if violation is not None:
            events.append(violation)
        return position
    block = buffer[position : end + 2]
    if FIELD_BLOCK.fullmatch(block) is None:
        events.append(field_block_violation(block) or Violation("http1.malformed_trailers"))
        return position
    fields = split_fields(block)
    if len(fields) > MAX_FIELDS:
        events.append(Violation("http1.too_many_fields", 431))
        return position
    kept = kept_trailers(fields)
    if kept is None:
        events.append(Violation("http1.forbidden_trailer"))
        return position
    if kept:
        events.append(Trailers(Headers(kept)))
    events.append(END)
    return end + 4


def kept_trailers(fields: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]] | None:
    """Those that are forwarded; None: one of them wants to be taken for a header of the framing."""
    kept = []
    for name, value in fields:
        lower = name.lower()
        if lower in _REFUSED_TRAILERS:
            return None
        if lower not in _DROPPED_TRAILERS and not lower.startswith(_DROPPED_PREFIXES):
            kept.append((name, value))
    return kept


def _has_bare_lf(section: bytes) -> bool:
    return section.count(b"\n") != section.count(b"\r\n")
