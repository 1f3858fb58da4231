"""Records of TLS: where each of them ends on the wire, and the seam behind which they are sealed and opened.

    | type 20..24 | version 3.x | length, 2 bytes | ciphertext |        RFC 8446 section 5.1, RFC 5246 section 6.2

Whoever opens records is given whole ones only, so that no byte of half a record lies where we can't get it back: a
handoff then needs what a `RecordLayer` can dump, and the bytes that are still ours.
"""

from __future__ import annotations

from typing import Final, Protocol

HEADER_BYTES: Final = 5
# RFC 5246 section 6.2.3: 2^14 of plaintext and at most 2048 of expansion (TLS 1.3: 256).
MAX_RECORD_BYTES: Final = HEADER_BYTES + (1 << 14) + 2048
CHANGE_CIPHER_SPEC: Final = 20
# change_cipher_spec, alert 21, handshake 22, application_data 23, heartbeat 24
_LOWEST_TYPE: Final = 20
_HIGHEST_TYPE: Final = 24
_MAJOR_VERSION: Final = 3

# No bytes of TLS at all.
NO_RECORD: Final = -1


class RecordLayer(Protocol):
    """The keys of a connection after its handshake. What it has to say itself (alerts, key updates) is in `output`."""

    ended: bool  # the peer's close_notify was opened: nothing follows
    broken: str  # what was wrong with a record: nothing behind it is opened; "" while all is well

    def open(self, records: bytes) -> bytes:
        """The plaintext of whole records, b"" where they carry none; of those before a broken one."""

    def seal(self, data: bytes | bytearray) -> bytes:
        """Records with this plaintext. Raises TlsError."""

    def seal_end(self) -> bytes:
        """close_notify; nothing is sealed after it."""

    def output(self) -> bytes:
        """Records that the layer wants sent, b"" mostly."""

    def dump(self) -> dict[str, object] | None:
        """What another process needs to go on; None: it can't."""


def whole_records(data: bytes | bytearray) -> int:
    """How many bytes at the beginning of `data` are whole records; NO_RECORD if there is something else."""
    position = 0
    size = len(data)
    while position + HEADER_BYTES <= size:
        after = position + HEADER_BYTES + (data[position + 3] << 8 | data[position + 4])
        if not _is_record(data, position) or after - position > MAX_RECORD_BYTES:
            return NO_RECORD
        if after > size:
            break
        position = after
    return position


def first_record(data: bytes | bytearray) -> int:
    """As `whole_records`, of the first one alone."""
    if len(data) < HEADER_BYTES:
        return NO_RECORD if data and not _LOWEST_TYPE <= data[0] <= _HIGHEST_TYPE else 0
    after = HEADER_BYTES + (data[3] << 8 | data[4])
    if not _is_record(data, 0) or after > MAX_RECORD_BYTES:
        return NO_RECORD
    return after if after <= len(data) else 0


def _is_record(data: bytes | bytearray, at: int) -> bool:
    return _LOWEST_TYPE <= data[at] <= _HIGHEST_TYPE and data[at + 1] == _MAJOR_VERSION
