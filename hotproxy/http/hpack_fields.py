"""Field lists as HPACK blocks and back (RFC 7541): the state that both ends of an HTTP/2 connection must share.

Receiving keeps the dynamic table that the client fills, 4 KiB at most. Sending uses the static table alone, as nginx
does: a block then says the same whatever came before it, so nothing of it has to move with a connection, blocks can be
made before it is their turn, and a stream that was reset leaves no gap. The client is told so by the first block, which
shrinks its table to nothing.

The tables and the Huffman code are those of `hpack`. Its decoders are not used: one copies the rest of a block for each
literal in it, which a hostile block makes quadratic; the other goes through a text by half bytes, and takes 10 to 16 ms
for 45 KB of code (4 to 8 here).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from functools import lru_cache
from typing import Final

from hpack.huffman_table import HUFFMAN_COMPLETE, HUFFMAN_EMIT_SYMBOL, HUFFMAN_FAIL, HUFFMAN_TABLE
from hpack.table import HeaderTable

from hotproxy.http.codec import Violation
from hotproxy.http.plain_headers import saved_fields
from hotproxy.saved import saved_int, saved_part

# RFC 9113 section 6.5.2: what a client may use until it is told otherwise, which we do not.
MAX_TABLE_BYTES: Final = 4096
# RFC 7541 section 4.1: what an entry counts beside its name and value.
ENTRY_OVERHEAD_BYTES: Final = 32

_KEYS: Final = frozenset(("entries", "max_bytes"))
_STATIC: Final[tuple[tuple[bytes, bytes], ...]] = tuple(HeaderTable.STATIC_TABLE)
# The longest number in a block of ours: four bytes behind the prefix are 2^28, more than a header list may have.
_MAX_NUMBER_BYTES: Final = 4
_MEMORABLE_BYTES: Final = 128


class FieldDecoder:
    """One client's blocks, in the order in which they came."""

    __slots__ = ("_bytes", "_entries", "_max_bytes", "list_bytes")

    def __init__(self) -> None:
        self._entries: deque[tuple[bytes, bytes]] = deque()  # the newest first
        self._bytes = 0
        self._max_bytes = MAX_TABLE_BYTES  # what the client has chosen
        self.list_bytes = 0  # of the last list, counted as RFC 9113 section 6.5.2 says

    def decode(self, block: bytes, max_list_bytes: int) -> list[tuple[bytes, bytes]] | Violation:
        """A whole block's fields. After a Violation the tables differ: the connection must go."""
        fields: list[tuple[bytes, bytes]] = []
        size = 0
        at, end = 0, len(block)
        while at < end:
            first = block[at]
            if first >= 0x80:  # section 6.1: an entry
                index, at = _number(block, at, 0x7F)
                field = self._entry(index)
                if field is None:
                    return Violation("http2.invalid_header_block")
            elif first & 0xE0 == 0x20:  # section 6.3: another size for the table
                new_size, at = _number(block, at, 0x1F)
                if fields or not 0 <= new_size <= MAX_TABLE_BYTES:
                    return Violation("http2.invalid_header_block")
                self._max_bytes = new_size
                self._evict()
                continue
            else:  # sections 6.2.1 to 6.2.3: a literal, which may become an entry
                kept = first >= 0x40
                index, at = _number(block, at, 0x3F if kept else 0x0F)
                name: bytes | None
                if index:
                    known = self._entry(index)
                    name = known[0] if known is not None else None
                else:
                    name, at = _text(block, at)
                if name is None:
                    return Violation("http2.invalid_header_block")
                value, at = _text(block, at)
                if value is None:
                    return Violation("http2.invalid_header_block")
                field = (name, value)
                if kept:
                    self._keep(field)
            fields.append(field)
            size += len(field[0]) + len(field[1]) + ENTRY_OVERHEAD_BYTES
            if size > max_list_bytes:
                return Violation("http2.header_list_too_large", 431)
        self.list_bytes = size
        return fields

    def _entry(self, index: int) -> tuple[bytes, bytes] | None:
        if index <= 0:
            return None
        if index <= len(_STATIC):
            return _STATIC[index - 1]
        index -= len(_STATIC) + 1
        return self._entries[index] if index < len(self._entries) else None

    def _keep(self, field: tuple[bytes, bytes]) -> None:
        """Section 4.4: an entry larger than the table empties it."""
        self._entries.appendleft(field)
        self._bytes += len(field[0]) + len(field[1]) + ENTRY_OVERHEAD_BYTES
        self._evict()

    def _evict(self) -> None:
        while self._bytes > self._max_bytes:
            name, value = self._entries.pop()
            self._bytes -= len(name) + len(value) + ENTRY_OVERHEAD_BYTES

    def dump(self) -> dict[str, object]:
        return {"entries": [[name, value] for name, value in self._entries], "max_bytes": self._max_bytes}

    @classmethod
    def load(cls, state: object) -> FieldDecoder:
        """The inverse of `dump`; ValueError for anything else."""
        record = saved_part(state, "hpack", _KEYS)
        decoder = cls()
        decoder._max_bytes = saved_int(record, "max_bytes", MAX_TABLE_BYTES)
        decoder._entries.extend(saved_fields(record["entries"]))
        decoder._bytes = sum(len(name) + len(value) + ENTRY_OVERHEAD_BYTES for name, value in decoder._entries)
        if decoder._bytes > decoder._max_bytes:
            raise ValueError("hpack: more entries than the table has room for")
        return decoder


def _number(block: bytes, at: int, mask: int) -> tuple[int, int]:
    """(number, position behind it) of section 5.1; (-1, the end) when it is cut short or too large."""
    value = block[at] & mask
    at += 1
    if value < mask:
        return value, at
    shift = 0
    while at < len(block) and shift < 7 * _MAX_NUMBER_BYTES:
        byte = block[at]
        at += 1
        value += (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    return -1, len(block)


def _text(block: bytes, at: int) -> tuple[bytes | None, int]:
    """(string, position behind it) of section 5.2; None when it is cut short, or no Huffman code."""
    if at >= len(block):
        return None, at
    coded = block[at] >= 0x80
    length, at = _number(block, at, 0x7F)
    end = at + length
    if length < 0 or end > len(block):
        return None, at
    text = block[at:end]
    if not coded:
        return text, end
    return (_remembered(text) if length <= _MEMORABLE_BYTES else _decoded(text)), end


# The automaton of `hpack` reads half a byte; ours a byte, from rows that are made when one is first needed (40 ms
# for all). For each state: what a byte says (None: it is no code), and which state it leads to.
_SAYS: Final[list[list[bytes | None]]] = [[] for _ in range(len(HUFFMAN_TABLE) // 16)]
_LEADS_TO: Final[list[bytes]] = [b""] * len(_SAYS)
# Where a text may end: section 5.2 pads the last code with ones, fewer than eight.
_ENDS: Final = frozenset((0, *(state for state, flags, _ in HUFFMAN_TABLE if flags & HUFFMAN_COMPLETE)))


def _decoded(text: bytes) -> bytes | None:
    state = 0
    pieces: list[bytes] = []
    for byte in text:
        says = _SAYS[state]
        if not says:
            says = _make_row(state)
        piece = says[byte]
        if piece is None:
            return None
        pieces.append(piece)
        state = _LEADS_TO[state][byte]
    return b"".join(pieces) if state in _ENDS else None


def _make_row(state: int) -> list[bytes | None]:
    says: list[bytes | None] = []
    leads_to = bytearray()
    for byte in range(256):
        between, flags, symbol = HUFFMAN_TABLE[16 * state + (byte >> 4)]
        piece = bytes((symbol,)) if flags & HUFFMAN_EMIT_SYMBOL else b""
        after, more_flags, symbol = HUFFMAN_TABLE[16 * between + (byte & 15)]
        if more_flags & HUFFMAN_EMIT_SYMBOL:
            piece += bytes((symbol,))
        says.append(None if (flags | more_flags) & HUFFMAN_FAIL else piece)
        leads_to.append(after)
    _SAYS[state], _LEADS_TO[state] = says, bytes(leads_to)
    return says


@lru_cache(maxsize=1024)
def _remembered(text: bytes) -> bytes | None:
    """Paths, user agents and the like come again and again, and a byte of theirs costs as much as a call."""
    return _decoded(text)


# -- sending

SHRUNK_TABLE: Final = b"\x20"  # section 6.3: a table without room; at the beginning of the first block


def encode_number(value: int, mask: int, first: int) -> bytes:
    """Section 5.1, with `first` in the bits above the mask."""
    if value < mask:
        return bytes((first | value,))
    out = bytearray((first | mask,))
    value -= mask
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


# Section 6.2.2, a literal that never becomes an entry: what comes before its value.
_NAMES: Final = {name: encode_number(index, 0x0F, 0) for index, (name, _) in reversed(list(enumerate(_STATIC, 1)))}
_STATUSES: Final = {
    int(value): encode_number(index, 0x7F, 0x80) for index, (name, value) in enumerate(_STATIC, 1) if name == b":status"
}
_LENGTHS: Final = tuple(encode_number(length, 0x7F, 0) for length in range(256))


def encode_status(status: int) -> bytes:
    return _STATUSES.get(status) or _NAMES[b":status"] + b"\x03%d" % status


def encode_fields(fields: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Names are folded to lower case (RFC 9113 section 8.2.1)."""
    pieces = []
    for name, value in fields:
        lower = name.lower()
        known = _NAMES.get(lower)
        pieces.append(known if known is not None else b"\0" + _length(lower) + lower)
        pieces.append(_length(value))
        pieces.append(value)
    return b"".join(pieces)


def _length(text: bytes) -> bytes:
    length = len(text)
    return _LENGTHS[length] if length < 256 else encode_number(length, 0x7F, 0)
