"""The frames of HTTP/2 (RFC 9113 sections 4 and 6): numbers, and how one is written."""

from __future__ import annotations

from typing import Final

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEADER_BYTES: Final = 9
# RFC 9113 section 4.2: what everybody may send without asking. Larger frames would only hold up others.
MAX_FRAME_BYTES: Final = 16 * 1024
MAX_WINDOW: Final = 2**31 - 1
MAX_STREAM_ID: Final = 2**31 - 1
DEFAULT_WINDOW: Final = 65_535

DATA: Final = 0
HEADERS: Final = 1
PRIORITY: Final = 2
RST_STREAM: Final = 3
SETTINGS: Final = 4
PUSH_PROMISE: Final = 5
PING: Final = 6
GOAWAY: Final = 7
WINDOW_UPDATE: Final = 8
CONTINUATION: Final = 9

END_STREAM: Final = 0x1
ACK: Final = 0x1
END_HEADERS: Final = 0x4
PADDED: Final = 0x8
PRIORITIZED: Final = 0x20

SETTINGS_ENABLE_PUSH: Final = 2
SETTINGS_MAX_CONCURRENT_STREAMS: Final = 3
SETTINGS_INITIAL_WINDOW_SIZE: Final = 4
SETTINGS_MAX_FRAME_SIZE: Final = 5
SETTINGS_MAX_HEADER_LIST_SIZE: Final = 6

# Section 7.
NO_ERROR: Final = 0
PROTOCOL_ERROR: Final = 1
INTERNAL_ERROR: Final = 2
FLOW_CONTROL_ERROR: Final = 3
STREAM_CLOSED: Final = 5
FRAME_SIZE_ERROR: Final = 6
REFUSED_STREAM: Final = 7
CANCEL: Final = 8
COMPRESSION_ERROR: Final = 9
ENHANCE_YOUR_CALM: Final = 11


def frame(kind: int, flags: int, stream_id: int, payload: bytes = b"") -> bytes:
    """One frame; the caller keeps the payload within what the other side takes."""
    return b"%b%b%b" % (
        (len(payload) << 16 | kind << 8 | flags).to_bytes(5, "big"),
        stream_id.to_bytes(4, "big"),
        payload,
    )


def number(value: int) -> bytes:
    return value.to_bytes(4, "big")


def head_frames(stream_id: int, block: bytes, end_stream: bool) -> bytes:
    """A field block as HEADERS, and as many CONTINUATIONs as it takes."""
    flags = END_STREAM if end_stream else 0
    if len(block) <= MAX_FRAME_BYTES:
        return frame(HEADERS, flags | END_HEADERS, stream_id, block)
    pieces = [frame(HEADERS, flags, stream_id, block[:MAX_FRAME_BYTES])]
    for start in range(MAX_FRAME_BYTES, len(block), MAX_FRAME_BYTES):
        piece = block[start : start + MAX_FRAME_BYTES]
        last = start + MAX_FRAME_BYTES >= len(block)
        pieces.append(frame(CONTINUATION, END_HEADERS if last else 0, stream_id, piece))
    return b"".join(pieces)
