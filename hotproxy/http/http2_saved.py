"""How an HTTP/2 codec is written down when its connection moves, and read again: a part of `Http2ServerCodec`.

Streams with their windows and what waits in them, the client's HPACK table (ours is empty, see `hpack_fields`),
SETTINGS that were not acknowledged, budgets, and raw bytes: a frame or a field section that is not complete. Any codec
that knows these, compiled or not, can go on from here.
"""

from __future__ import annotations

from typing import Final

from hotproxy.http import http2_frames as h2
from hotproxy.http.hpack_fields import FieldDecoder
from hotproxy.http.http2_limits import (
    GLITCH_BURST,
    GLITCHES_PER_S,
    MAX_WINDOW_UPDATES,
    RESET_BURST,
    RESETS_PER_S,
    Budget,
)
from hotproxy.http.http2_output import CONNECTION_WINDOW, LAST, MAX_STREAMS
from hotproxy.http.http2_server import BROKEN, MAX_LIST_BYTES, Http2ServerCodec
from hotproxy.http.http2_stream import Http2Stream
from hotproxy.saved import saved_bool, saved_bytes, saved_int, saved_list, saved_record

KIND: Final = "http2_server"
VERSION: Final = 1
_KEYS: Final = frozenset(
    (
        "kind", "version", "state", "buffer", "streams", "last_id", "reset_ids", "hpack", "section", "section_stream",
        "section_flags", "send_window", "receive_window", "initial_window", "settings_sent", "leaving",
        "client_leaves", "shrunk", "glitches", "resets", "window_updates", "queue",
    )
)  # fmt: skip


def dump(codec: Http2ServerCodec) -> dict[str, object]:
    """Between two turns: all output was taken."""
    assert not codec._out, "frames that nobody has sent"
    return {
        "kind": KIND,
        "version": VERSION,
        "state": codec._state,
        "buffer": codec._buffer,
        "streams": [stream.dump() for stream in codec._streams.values()],
        "queue": [stream.id for stream in codec._queue],
        "last_id": codec._last_id,
        "reset_ids": list(codec._reset_ids),
        "hpack": codec._fields.dump(),
        "section": bytes(codec._section),
        "section_stream": codec._section_stream,
        "section_flags": codec._section_flags,
        "send_window": codec._send_window + h2.MAX_WINDOW,  # a number that is never negative
        "receive_window": codec._receive_window,
        "initial_window": codec._initial_window,
        "settings_sent": codec._settings_sent,
        "leaving": codec._leaving,
        "client_leaves": codec._client_leaves,
        "shrunk": codec._shrunk,
        "glitches": codec._glitches.dump(),
        "resets": codec._resets.dump(),
        "window_updates": codec._window_updates,
    }


def load(state: object) -> Http2ServerCodec:
    """The inverse of `dump`; ValueError for another version or nonsense."""
    record = saved_record(state, KIND, VERSION, _KEYS)
    codec = Http2ServerCodec()
    codec._state = saved_int(record, "state", BROKEN - 1)
    codec._buffer = saved_bytes(record, "buffer")
    codec._last_id = saved_int(record, "last_id", h2.MAX_STREAM_ID)
    codec._fields = FieldDecoder.load(record["hpack"])
    codec._section = bytearray(saved_bytes(record, "section"))
    codec._section_stream = saved_int(record, "section_stream", h2.MAX_STREAM_ID)
    codec._section_flags = saved_int(record, "section_flags", 255)
    codec._send_window = saved_int(record, "send_window", 2 * h2.MAX_WINDOW) - h2.MAX_WINDOW
    codec._receive_window = saved_int(record, "receive_window", CONNECTION_WINDOW)
    codec._initial_window = saved_int(record, "initial_window", h2.MAX_WINDOW)
    codec._settings_sent = saved_int(record, "settings_sent", 1)
    codec._leaving = saved_int(record, "leaving", LAST)
    codec._client_leaves = saved_bool(record, "client_leaves")
    codec._shrunk = saved_bool(record, "shrunk")
    codec._glitches = Budget.load(record["glitches"], GLITCH_BURST, GLITCHES_PER_S)
    codec._resets = Budget.load(record["resets"], RESET_BURST, RESETS_PER_S)
    codec._window_updates = saved_int(record, "window_updates", MAX_WINDOW_UPDATES)
    if len(codec._section) > MAX_LIST_BYTES or (codec._section and not codec._section_stream):
        raise ValueError("section: of no stream, or longer than it may be")
    if len(codec._buffer) >= h2.HEADER_BYTES + h2.MAX_FRAME_BYTES:
        raise ValueError("buffer: more than a frame")
    _load_streams(codec, record["streams"])
    for stream_id in saved_list(record, "queue"):
        if not isinstance(stream_id, int) or stream_id not in codec._streams:
            raise ValueError("queue: a stream that is not open")
        codec._enqueue(codec._streams[stream_id])
    for stream_id in saved_list(record, "reset_ids"):
        if not isinstance(stream_id, int):
            raise ValueError("reset_ids: not a number")
        codec._remember_reset(stream_id)
    return codec


def _load_streams(codec: Http2ServerCodec, states: object) -> None:
    if not isinstance(states, list) or len(states) > MAX_STREAMS:
        raise ValueError("streams: more than there may be")
    for state in states:
        stream = Http2Stream.load(state)
        if stream.id > codec._last_id or stream.id in codec._streams:
            raise ValueError("streams: one that has not begun, or twice the same")
        codec._streams[stream.id] = stream
        codec.waiting_total += len(stream.pending)
