r"""HTTP/2 towards clients (RFC 9113): frames in, events of many streams out; responses in, frames out.

    PREFACE --24 bytes--> FIRST --SETTINGS--> OPEN        any of them --connection error--> BROKEN

`receive` gives (stream, event) pairs: RequestHead Data* Trailers? End, as in HTTP/1. A Violation may take the place of
any of them: it deserves an answer, and the stream is reset behind it. A Reset says that the stream is gone. A Violation
of stream 0 ends the connection: `take_output` has the GOAWAY.

**Windows.** The connection's is given back as bytes come, so that no stream can use it up; what is held is bounded by
the streams' windows, which are given back as the other side takes bytes (`hold`, `release`).

No I/O and no clock: `receive` is told the time, for the budgets of what a client may ask (`http2_limits`). The sending
half is `http2_output`.
"""

from __future__ import annotations

from typing import Final

from hotproxy.http import http2_frames as h2
from hotproxy.http.codec import END, LENGTH, Data, RequestHead, Reset, StreamEvent, Trailers, Violation
from hotproxy.http.hpack_fields import FieldDecoder
from hotproxy.http.http2_heads import read_request, read_trailers
from hotproxy.http.http2_limits import GLITCH_BURST, GLITCHES_PER_S, RESET_BURST, RESETS_PER_S, Budget
from hotproxy.http.http2_output import CONNECTION_WINDOW, LAST, LEAVING_PING, MAX_STREAMS, SAID, STAYS, Http2Output
from hotproxy.http.http2_stream import UNKNOWN, Http2Stream
from hotproxy.http.syntax import MAX_HEAD_BYTES

# Above what is announced a request is answered with 431; far above it, nobody decodes any further.
MAX_LIST_BYTES: Final = 2 * MAX_HEAD_BYTES
# In one frame: nghttp2's bound. There are nine kinds.
MAX_SETTINGS: Final = 32

_PREFACE: Final = 0
_FIRST: Final = 1
_OPEN: Final = 2
BROKEN: Final = 3


class Http2ServerCodec(Http2Output):
    """One client connection's protocol state."""

    __slots__ = (
        "_section", "_section_flags", "_section_stream", "_buffer", "_client_leaves", "_fields", "_glitches",
        "_receive_window", "_resets", "_state",
    )  # fmt: skip

    def __init__(self) -> None:
        super().__init__()
        self._state = _PREFACE
        self._buffer = b""
        self._fields = FieldDecoder()
        self._section = bytearray()  # a field section that is not complete
        self._section_stream = 0
        self._section_flags = 0
        self._receive_window = CONNECTION_WINDOW
        self._client_leaves = False
        self._glitches = Budget(GLITCH_BURST, GLITCHES_PER_S)
        self._resets = Budget(RESET_BURST, RESETS_PER_S)

    # -- receiving

    def receive(self, data: bytes, now_s: float) -> list[StreamEvent]:
        events: list[StreamEvent] = []
        if self._state == BROKEN:
            return events
        buffer = self._buffer + data if self._buffer else data
        at = 0
        if self._state == _PREFACE:
            if not h2.PREFACE.startswith(buffer[: len(h2.PREFACE)]):
                self._fail(h2.PROTOCOL_ERROR, "http2.invalid_preface", events)
                return events
            if len(buffer) < len(h2.PREFACE):
                self._buffer = buffer
                return events
            at = len(h2.PREFACE)
            self._state = _FIRST
        end = len(buffer)
        while end - at >= h2.HEADER_BYTES and self._state != BROKEN:
            length = int.from_bytes(buffer[at : at + 3], "big")
            if length > h2.MAX_FRAME_BYTES:
                self._fail(h2.FRAME_SIZE_ERROR, "http2.frame_too_large", events)
                break
            body = at + h2.HEADER_BYTES
            if end - body < length:
                break
            stream_id = int.from_bytes(buffer[at + 5 : body], "big") & h2.MAX_STREAM_ID
            self._receive_frame(buffer[at + 3], buffer[at + 4], stream_id, buffer[body : body + length], now_s, events)
            at = body + length
        self._buffer = b"" if self._state == BROKEN else buffer[at:]
        return events

    def _receive_frame(
        self, kind: int, flags: int, stream_id: int, payload: bytes, now_s: float, events: list[StreamEvent]
    ) -> None:
        if self._section_stream and (kind != h2.CONTINUATION or stream_id != self._section_stream):
            self._fail(h2.PROTOCOL_ERROR, "http2.interrupted_header_block", events)
        elif self._state == _FIRST and (kind != h2.SETTINGS or flags & h2.ACK):
            self._fail(h2.PROTOCOL_ERROR, "http2.settings_missing", events)
        elif kind == h2.DATA:
            self._receive_data(flags, stream_id, payload, now_s, events)
        elif kind == h2.HEADERS:
            self._receive_headers(flags, stream_id, payload, now_s, events)
        elif kind == h2.WINDOW_UPDATE:
            self._receive_window_update(stream_id, payload, now_s, events)
        elif kind == h2.CONTINUATION:
            self._receive_continuation(flags, stream_id, payload, now_s, events)
        elif kind == h2.RST_STREAM:
            self._receive_reset(stream_id, payload, now_s, events)
        elif kind == h2.SETTINGS:
            self._receive_settings(flags, stream_id, payload, now_s, events)
        elif kind == h2.PING:
            self._receive_ping(flags, stream_id, payload, now_s, events)
        elif kind == h2.PUSH_PROMISE:
            self._fail(h2.PROTOCOL_ERROR, "http2.push_promise", events)
        elif kind == h2.PRIORITY:  # deprecated (section 5.3.2): looked at, and ignored
            if not stream_id or len(payload) != 5:
                code = h2.FRAME_SIZE_ERROR if stream_id else h2.PROTOCOL_ERROR
                self._fail(code, "http2.invalid_priority", events)
            else:
                self._spend_glitch(now_s, events)
        elif kind == h2.GOAWAY:
            if stream_id or len(payload) < 8:
                code = h2.PROTOCOL_ERROR if stream_id else h2.FRAME_SIZE_ERROR
                self._fail(code, "http2.invalid_goaway", events)
            elif self._spend_glitch(now_s, events):
                self._client_leaves = True
        else:  # section 5.5: unknown ones are ignored
            self._spend_glitch(now_s, events)

    # DATA: section 6.1

    def _receive_data(
        self, flags: int, stream_id: int, payload: bytes, now_s: float, events: list[StreamEvent]
    ) -> None:
        size = len(payload)  # padding counts too (section 6.9)
        self._receive_window -= size
        if self._is_idle(stream_id):
            self._fail(h2.PROTOCOL_ERROR, "http2.data_of_idle_stream", events)
            return
        if self._receive_window < 0:
            self._fail(h2.FLOW_CONTROL_ERROR, "http2.window_exceeded", events)
            return
        if self._receive_window <= CONNECTION_WINDOW // 2:
            self._out.append(h2.frame(h2.WINDOW_UPDATE, 0, 0, h2.number(CONNECTION_WINDOW - self._receive_window)))
            self._receive_window = CONNECTION_WINDOW
        if flags & h2.PADDED:
            if not payload or payload[0] >= size:
                self._fail(h2.PROTOCOL_ERROR, "http2.invalid_padding", events)
                return
            payload = payload[1 : size - payload[0]]
        ended = flags & h2.END_STREAM
        if not payload and not ended and not self._spend_glitch(now_s, events):
            return
        stream = self._streams.get(stream_id)
        if stream is None:
            if stream_id not in self._reset_ids and stream_id <= self._last_id:
                self._break_stream(stream_id, h2.STREAM_CLOSED, "http2.data_of_closed_stream", now_s, events)
            return
        if stream.broken:
            return
        stream.receive_window -= size
        if stream.remote_ended:
            self._break_stream(stream_id, h2.STREAM_CLOSED, "http2.data_behind_end", now_s, events)
        elif stream.receive_window < 0:
            self._break_stream(stream_id, h2.FLOW_CONTROL_ERROR, "http2.window_exceeded", now_s, events)
        elif stream.remaining != UNKNOWN and len(payload) > stream.remaining:
            self._violate(stream, Violation("http2.content_length_mismatch"), now_s, events)
        else:
            if stream.remaining != UNKNOWN:
                stream.remaining -= len(payload)
            if payload:
                events.append((stream_id, Data(payload)))
            stream.owed_window += size
            if ended:
                self._end_request(stream, now_s, events)
            else:
                self._give_back(stream)

    def _end_request(self, stream: Http2Stream, now_s: float, events: list[StreamEvent]) -> None:
        if stream.remaining > 0:
            self._violate(stream, Violation("http2.content_length_mismatch"), now_s, events)
            return
        stream.remote_ended = True
        events.append((stream.id, END))

    def _give_back(self, stream: Http2Stream) -> None:
        if stream.owed_window > h2.DEFAULT_WINDOW // 2 and not stream.held and not stream.remote_ended:
            self._out.append(h2.frame(h2.WINDOW_UPDATE, 0, stream.id, h2.number(stream.owed_window)))
            stream.receive_window += stream.owed_window
            stream.owed_window = 0

    # HEADERS and CONTINUATION: sections 6.2 and 6.10

    def _receive_headers(
        self, flags: int, stream_id: int, payload: bytes, now_s: float, events: list[StreamEvent]
    ) -> None:
        if not stream_id % 2:  # 0, or one of those that a server would begin
            self._fail(h2.PROTOCOL_ERROR, "http2.headers_of_wrong_stream", events)
            return
        start, end = 0, len(payload)
        if flags & h2.PADDED:
            start = 1
            end -= payload[0] if payload else end + 1
        if flags & h2.PRIORITIZED:
            start += 5
        if end < start:
            self._fail(h2.PROTOCOL_ERROR, "http2.invalid_padding", events)
            return
        self._section = bytearray(payload[start:end])
        self._section_stream = stream_id
        self._section_flags = flags
        if flags & h2.END_HEADERS:
            self._receive_section(now_s, events)

    def _receive_continuation(
        self, flags: int, stream_id: int, payload: bytes, now_s: float, events: list[StreamEvent]
    ) -> None:
        if not self._section_stream:
            self._fail(h2.PROTOCOL_ERROR, "http2.unexpected_continuation", events)
            return
        # Nobody needs more than a few. It would also be the same bytes over and over that are looked at.
        if not flags & h2.END_HEADERS and not self._spend_glitch(now_s, events):
            return
        # Compressed it is shorter than the list may be; a longer one is an attack (CVE-2024-27316).
        if len(self._section) + len(payload) > MAX_LIST_BYTES:
            self._fail(h2.ENHANCE_YOUR_CALM, "http2.header_block_too_large", events)
            return
        self._section += payload
        if flags & h2.END_HEADERS:
            self._receive_section(now_s, events)

    def _receive_section(self, now_s: float, events: list[StreamEvent]) -> None:
        """A whole field section. It is decoded whatever becomes of its stream: the next one depends on its table."""
        stream_id, ended = self._section_stream, bool(self._section_flags & h2.END_STREAM)
        fields = self._fields.decode(bytes(self._section), MAX_LIST_BYTES)
        self._section = bytearray()
        self._section_stream = 0
        if isinstance(fields, Violation):
            self._fail(h2.ENHANCE_YOUR_CALM if fields.status == 431 else h2.COMPRESSION_ERROR, fields.details, events)
            return
        if stream_id > self._last_id:
            if self._leaving != LAST:  # section 6.8: otherwise the client knows that we do not look at it
                self._last_id = stream_id
                self._begin_stream(stream_id, fields, ended, now_s, events)
            return
        stream = self._streams.get(stream_id)
        if stream is None:
            if stream_id not in self._reset_ids:
                self._fail(h2.STREAM_CLOSED, "http2.headers_of_closed_stream", events)
        elif stream.remote_ended:
            self._break_stream(stream_id, h2.STREAM_CLOSED, "http2.headers_behind_end", now_s, events)
        elif not stream.broken:
            trailers = read_trailers(fields) if ended else Violation("http2.trailers_without_end")
            if self._fields.list_bytes > MAX_HEAD_BYTES:
                trailers = Violation("http2.trailers_too_large", 431)
            if isinstance(trailers, Violation):
                self._violate(stream, trailers, now_s, events)
                return
            if len(trailers) and stream.remaining <= 0:
                events.append((stream_id, Trailers(trailers)))
            self._end_request(stream, now_s, events)

    def _begin_stream(
        self, stream_id: int, fields: list[tuple[bytes, bytes]], ended: bool, now_s: float, events: list[StreamEvent]
    ) -> None:
        if len(self._streams) >= MAX_STREAMS:
            self._send_reset(stream_id, h2.REFUSED_STREAM)
            self._spend_reset(now_s, events)
            return
        stream = self._streams[stream_id] = Http2Stream(stream_id, self._initial_window)
        head: RequestHead | Violation
        if self._fields.list_bytes > MAX_HEAD_BYTES:
            head = Violation("http2.header_list_too_large", 431)
        else:
            head = read_request(fields, ended)
        stream.remote_ended = ended
        if isinstance(head, Violation):
            stream.answering_head = (b":method", b"HEAD") in fields
            self._violate(stream, head, now_s, events)
            return
        stream.answering_head = head.method == b"HEAD"
        if head.framing == LENGTH:
            stream.remaining = head.content_length
        events.append((stream_id, head))
        if ended:
            events.append((stream_id, END))

    # RST_STREAM, SETTINGS, PING, WINDOW_UPDATE: sections 6.4, 6.5, 6.7, 6.9

    def _receive_reset(self, stream_id: int, payload: bytes, now_s: float, events: list[StreamEvent]) -> None:
        if self._is_idle(stream_id):
            self._fail(h2.PROTOCOL_ERROR, "http2.reset_of_idle_stream", events)
        elif len(payload) != 4:
            self._fail(h2.FRAME_SIZE_ERROR, "http2.invalid_reset", events)
        elif stream_id in self._streams:
            self._forget(self._streams[stream_id])
            events.append((stream_id, Reset()))
            self._spend_reset(now_s, events)
        else:
            self._spend_glitch(now_s, events)

    def _receive_settings(
        self, flags: int, stream_id: int, payload: bytes, now_s: float, events: list[StreamEvent]
    ) -> None:
        if stream_id:
            self._fail(h2.PROTOCOL_ERROR, "http2.settings_of_stream", events)
        elif (flags & h2.ACK and payload) or len(payload) % 6:
            self._fail(h2.FRAME_SIZE_ERROR, "http2.invalid_settings", events)
        elif flags & h2.ACK:
            if self._settings_sent:
                self._settings_sent -= 1
            else:
                self._spend_glitch(now_s, events)
        elif self._state == _FIRST or self._spend_glitch(now_s, events):
            self._state = _OPEN
            self._apply_settings(payload, events)
            if self._state == BROKEN:
                return
            self._out.append(h2.frame(h2.SETTINGS, h2.ACK, 0))

    def _apply_settings(self, payload: bytes, events: list[StreamEvent]) -> None:
        if len(payload) > MAX_SETTINGS * 6:
            self._fail(h2.ENHANCE_YOUR_CALM, "http2.too_many_settings", events)
            return
        window = self._initial_window
        for at in range(0, len(payload), 6):
            kind, value = int.from_bytes(payload[at : at + 2], "big"), int.from_bytes(payload[at + 2 : at + 6], "big")
            if not _is_valid_setting(kind, value):
                code = h2.FLOW_CONTROL_ERROR if kind == h2.SETTINGS_INITIAL_WINDOW_SIZE else h2.PROTOCOL_ERROR
                self._fail(code, "http2.invalid_setting", events)
                return
            if kind == h2.SETTINGS_INITIAL_WINDOW_SIZE:
                window = value
        if window != self._initial_window:
            self._resize_windows(window, events)

    def _resize_windows(self, size: int, events: list[StreamEvent]) -> None:
        """Section 6.9.2: of the streams that are open too."""
        change = size - self._initial_window
        self._initial_window = size
        for stream in self._streams.values():
            stream.send_window += change
            if stream.send_window > h2.MAX_WINDOW:
                self._fail(h2.FLOW_CONTROL_ERROR, "http2.window_overflow", events)
                return
            self._enqueue(stream)

    def _receive_ping(
        self, flags: int, stream_id: int, payload: bytes, now_s: float, events: list[StreamEvent]
    ) -> None:
        if stream_id:
            self._fail(h2.PROTOCOL_ERROR, "http2.ping_of_stream", events)
        elif len(payload) != 8:
            self._fail(h2.FRAME_SIZE_ERROR, "http2.invalid_ping", events)
        elif not flags & h2.ACK:
            if self._spend_glitch(now_s, events):
                self._out.append(h2.frame(h2.PING, h2.ACK, 0, payload))
        elif self._leaving == SAID and payload == LEAVING_PING:
            # Whatever the client had sent before it read of our leaving has come: nothing will be lost by saying so.
            self._leaving = LAST
            self._out.append(h2.frame(h2.GOAWAY, 0, 0, h2.number(self._last_id) + h2.number(h2.NO_ERROR)))
        else:
            self._spend_glitch(now_s, events)

    def _receive_window_update(self, stream_id: int, payload: bytes, now_s: float, events: list[StreamEvent]) -> None:
        if len(payload) != 4:
            self._fail(h2.FRAME_SIZE_ERROR, "http2.invalid_window_update", events)
            return
        if stream_id and self._is_idle(stream_id):
            self._fail(h2.PROTOCOL_ERROR, "http2.window_update_of_idle_stream", events)
            return
        if self._window_updates > 0:
            self._window_updates -= 1
        elif not self._spend_glitch(now_s, events):
            return
        increment = int.from_bytes(payload, "big") & h2.MAX_WINDOW
        if not stream_id:
            self._send_window += increment
            if not increment:
                self._fail(h2.PROTOCOL_ERROR, "http2.empty_window_update", events)
            elif self._send_window > h2.MAX_WINDOW:
                self._fail(h2.FLOW_CONTROL_ERROR, "http2.window_overflow", events)
            return
        stream = self._streams.get(stream_id)
        if stream is None:  # it has ended meanwhile (section 5.1)
            return
        stream.send_window += increment
        if not increment:
            self._break_stream(stream_id, h2.PROTOCOL_ERROR, "http2.empty_window_update", now_s, events)
        elif stream.send_window > h2.MAX_WINDOW:
            self._break_stream(stream_id, h2.FLOW_CONTROL_ERROR, "http2.window_overflow", now_s, events)
        else:
            self._enqueue(stream)

    # -- what the connection asks

    def hold(self, stream_id: int) -> None:
        """What comes of this stream is not taken: let its window shut."""
        stream = self._streams.get(stream_id)
        if stream is not None:
            stream.held = True

    def release(self, stream_id: int) -> None:
        stream = self._streams.get(stream_id)
        if stream is not None:
            stream.held = False
            self._give_back(stream)

    @property
    def in_head(self) -> bool:
        """A client that begins a field section has to end it: nothing else can be sent meanwhile."""
        return self._section_stream > 0

    @property
    def is_greeted(self) -> bool:
        """The client's preface and h2.SETTINGS have come."""
        return self._state == _OPEN

    @property
    def is_leaving(self) -> bool:
        return self._leaving != STAYS

    @property
    def is_over(self) -> bool:
        """One of the two has said that no stream follows, and none is left."""
        return not self._streams and (self._leaving == LAST or self._client_leaves)

    def _is_idle(self, stream_id: int) -> bool:
        """None that the client has begun, as far as we have looked: above the last one of a GOAWAY we do not."""
        return not stream_id % 2 or (stream_id > self._last_id and self._leaving != LAST)

    # -- errors

    def _fail(self, code: int, details: str, events: list[StreamEvent]) -> None:
        """A connection error (section 5.4.1): nothing more is read."""
        if self._state == BROKEN:
            return
        self._state = BROKEN
        self._section = bytearray()
        self._section_stream = 0
        self._out.append(h2.frame(h2.GOAWAY, 0, 0, h2.number(self._last_id) + h2.number(code) + details.encode()))
        events.append((0, Violation(details)))

    def _break_stream(self, stream_id: int, code: int, details: str, now_s: float, events: list[StreamEvent]) -> None:
        """A stream error (section 5.4.2): the stream is gone at once, and whoever made us do that pays for a reset."""
        stream = self._streams.get(stream_id)
        self._send_reset(stream_id, code)
        if stream is not None:
            self._forget(stream)
            events.append((stream_id, Reset(details)))
        self._spend_reset(now_s, events)

    def _violate(self, stream: Http2Stream, violation: Violation, now_s: float, events: list[StreamEvent]) -> None:
        """Section 8.1.1: malformed. It is answered, and what still comes of it is thrown away; who does it pays."""
        stream.broken = True
        stream.reset_code = h2.PROTOCOL_ERROR
        events.append((stream.id, violation))
        self._spend_reset(now_s, events)

    def _spend_glitch(self, now_s: float, events: list[StreamEvent]) -> bool:
        if self._glitches.spend(now_s):
            return True
        self._fail(h2.ENHANCE_YOUR_CALM, "http2.too_many_glitches", events)
        return False

    def _spend_reset(self, now_s: float, events: list[StreamEvent]) -> None:
        if not self._resets.spend(now_s):
            self._fail(h2.ENHANCE_YOUR_CALM, "http2.too_many_resets", events)


def _is_valid_setting(kind: int, value: int) -> bool:
    """Section 6.5.2; unknown ones are ignored."""
    if kind == h2.SETTINGS_ENABLE_PUSH:
        return value <= 1
    if kind == h2.SETTINGS_INITIAL_WINDOW_SIZE:
        return value <= h2.MAX_WINDOW
    return kind != h2.SETTINGS_MAX_FRAME_SIZE or h2.MAX_FRAME_BYTES <= value < 1 << 24
