"""What a connection writes down of itself when it moves (`dump`, `saved_state.read_state`), and its marks."""

from __future__ import annotations

from typing import Final, TypedDict

DUMP_VERSION: Final = 1

# Above HIGH the other side stops reading, below LOW it goes on; their distance keeps the switch from fluttering.
HIGH_WATERMARK_BYTES: Final = 256 * 1024
LOW_WATERMARK_BYTES: Final = 64 * 1024


class ConnectionState(TypedDict):
    """What `dump` gives."""

    version: int
    rx: int
    tx: int
    read_closed: bool
    write_closed: bool
    shut_after_flush: bool
    pressed: bool
    pending: bytes
