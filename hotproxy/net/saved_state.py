"""Reading what `Connection.dump` gave, before anything is made of it."""

from __future__ import annotations

from typing import Final

from hotproxy.net.connection_state import DUMP_VERSION, HIGH_WATERMARK_BYTES, LOW_WATERMARK_BYTES, ConnectionState
from hotproxy.saved import MAX_COUNT, saved_bool, saved_bytes, saved_int, saved_record

_KEYS: Final = frozenset(
    ("version", "rx", "tx", "read_closed", "write_closed", "shut_after_flush", "pressed", "pending")
)


def read_state(state: object) -> ConnectionState:
    """What `dump` gave, looked at value by value. ValueError for another version or shape, or a contradiction."""
    record = saved_record(state, "connection", DUMP_VERSION, _KEYS)
    found: ConnectionState = {
        "version": DUMP_VERSION,
        "rx": saved_int(record, "rx", MAX_COUNT),
        "tx": saved_int(record, "tx", MAX_COUNT),
        "read_closed": saved_bool(record, "read_closed"),
        "write_closed": saved_bool(record, "write_closed"),
        "shut_after_flush": saved_bool(record, "shut_after_flush"),
        "pressed": saved_bool(record, "pressed"),
        "pending": saved_bytes(record, "pending"),
    }
    unsent = len(found["pending"])
    if found["write_closed"] and (unsent or found["shut_after_flush"]):
        raise ValueError("connection: bytes to send behind its end")
    if found["shut_after_flush"] and not unsent:
        raise ValueError("connection: an end behind bytes that are not there")
    # Between two turns: above HIGH it is always pressed, below LOW never.
    if (unsent > HIGH_WATERMARK_BYTES and not found["pressed"]) or (unsent < LOW_WATERMARK_BYTES and found["pressed"]):
        raise ValueError(f"connection: pressed is {found['pressed']} with {unsent} bytes to send")
    return found
