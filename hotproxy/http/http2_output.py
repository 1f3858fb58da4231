"""The sending half of an HTTP/2 server's codec: responses of many streams in turn, windows, and leaving.

Output is collected, and taken once a turn. Data waits in its stream until both windows and the socket have room, and
the streams take turns, a frame each. A response that is complete before its request resets what is left of that
(RFC 9113 section 8.1): nobody wants it.

    leaving      STAYS --go_away()--> SAID (GOAWAY 2^31-1, PING) --its ACK--> LAST (GOAWAY with the last stream)
"""

from __future__ import annotations

from collections import deque
from typing import Final

from hotproxy.http.codec import LENGTH, NO_BODY, ResponseHead
from hotproxy.http.headers import Headers
from hotproxy.http.hpack_fields import SHRUNK_TABLE
from hotproxy.http.http2_frames import (
    DATA,
    DEFAULT_WINDOW,
    END_STREAM,
    GOAWAY,
    MAX_FRAME_BYTES,
    MAX_STREAM_ID,
    NO_ERROR,
    PING,
    RST_STREAM,
    SETTINGS,
    SETTINGS_MAX_CONCURRENT_STREAMS,
    SETTINGS_MAX_HEADER_LIST_SIZE,
    WINDOW_UPDATE,
    frame,
    head_frames,
    number,
)
from hotproxy.http.http2_heads import response_block, trailer_block
from hotproxy.http.http2_limits import MAX_WINDOW_UPDATES, SMALL_DATA_BYTES, WINDOW_UPDATES_PER_DATA
from hotproxy.http.http2_stream import UNKNOWN, Http2Stream
from hotproxy.http.syntax import MAX_HEAD_BYTES

# Envoy recommends 100 at the edge; nginx has 128.
MAX_STREAMS: Final = 100
# Given back whenever half of it is used, whatever becomes of the bytes: large enough for a transatlantic upload.
CONNECTION_WINDOW: Final = 1024 * 1024

STAYS: Final = 0
SAID: Final = 1
LAST: Final = 2
LEAVING_PING: Final = b"hotproxy"

# Of data that is collected in a turn; what comes beyond it waits, and leaves as the socket takes it. A turn can bring
# answers of our own to 100 requests.
_MAX_COLLECTED_BYTES: Final = 64 * 1024

# Streams that we have reset: the client may not know it yet, and what it sends on them is thrown away.
_REMEMBERED_RESETS: Final = 200


class Http2Output:
    """What `Http2ServerCodec` sends; a part of it, apart because the two halves have little to say to each other."""

    __slots__ = (
        "_collected", "_initial_window", "_last_id", "_leaving", "_out", "_queue", "_relieved", "_reset_ids",
        "_send_window", "_settings_sent", "_shrunk", "_streams", "_window_updates", "choked", "resets_sent",
        "waiting_total",
    )  # fmt: skip

    def __init__(self) -> None:
        self._streams: dict[int, Http2Stream] = {}
        self._last_id = 0  # the highest stream that the client has begun
        self._reset_ids: dict[int, None] = {}
        self._send_window = DEFAULT_WINDOW
        self._initial_window = DEFAULT_WINDOW  # of new streams, as the client wants it
        self._settings_sent = 0  # and not acknowledged
        self._leaving = STAYS
        self._shrunk = False  # the client knows that we use no dynamic table
        self._window_updates = WINDOW_UPDATES_PER_DATA  # how many are no more than our data explains
        self._out: list[bytes] = []
        self._collected = 0  # bytes of data in it
        self._queue: deque[Http2Stream] = deque()  # those that may send what waits, in turn
        self._relieved: list[int] = []  # streams of which something that waited has left
        self.choked = False  # the socket takes nothing: no more data
        self.resets_sent = 0  # for whoever counts them, and takes them away
        self.waiting_total = 0  # bytes of data that wait, of all streams

    def greet(self) -> None:
        """Our SETTINGS; the first thing that the client gets, and it need not have said anything."""
        settings = ((SETTINGS_MAX_CONCURRENT_STREAMS, MAX_STREAMS), (SETTINGS_MAX_HEADER_LIST_SIZE, MAX_HEAD_BYTES))
        payload = b"".join([kind.to_bytes(2, "big") + number(value) for kind, value in settings])
        self._out.append(frame(SETTINGS, 0, 0, payload))
        self._out.append(frame(WINDOW_UPDATE, 0, 0, number(CONNECTION_WINDOW - DEFAULT_WINDOW)))
        self._settings_sent = 1

    def take_output(self, room: int) -> bytes:
        """What has been collected, and up to about `room` bytes of the data that waits."""
        if self._queue:
            self._send_waiting(room)
        out = self._out
        if not out:
            return b""
        taken = out[0] if len(out) == 1 else b"".join(out)
        out.clear()
        self._collected = 0
        return taken

    def take_relieved(self) -> list[int]:
        """Streams of which something that waited has left since the last time."""
        relieved = self._relieved
        if relieved:
            self._relieved = []
        return relieved

    # -- responses; to a stream that is gone nothing is sent

    def encode_interim(self, stream_id: int, head: ResponseHead) -> None:
        stream = self._streams.get(stream_id)
        if stream is not None:
            self._out.append(head_frames(stream_id, self._block(response_block(head)), False))

    def encode_head(self, stream_id: int, head: ResponseHead) -> None:
        """The final head; the end as well where no body follows."""
        stream = self._streams.get(stream_id)
        if stream is None:
            return
        status, framing = head.status, head.framing
        stream.head_sent = True
        stream.without_body = stream.answering_head or status in (204, 304) or framing == NO_BODY
        ended = stream.without_body or (framing == LENGTH and not head.content_length)
        stream.to_send = head.content_length if framing == LENGTH else UNKNOWN
        self._out.append(head_frames(stream_id, self._block(response_block(head)), ended))
        if ended:
            self._over(stream)

    def encode_data(self, stream_id: int, data: bytes) -> bool:
        """A piece of body; False where none may follow, or nobody is left to read it.

        ValueError for more than the announced length: a bug of ours.
        """
        stream = self._streams.get(stream_id)
        if stream is None or stream.without_body:
            return False
        size = len(data)
        if stream.to_send != UNKNOWN:
            if size > stream.to_send:
                raise ValueError(f"{size} bytes of body where {stream.to_send} were announced")
            stream.to_send -= size
            stream.ending = not stream.to_send
        shut = size > stream.send_window or size > self._send_window
        if stream.pending or shut or self.choked or self._collected > _MAX_COLLECTED_BYTES:
            stream.pending += data
            self.waiting_total += size
            self._enqueue(stream)
            return True
        if size <= MAX_FRAME_BYTES:
            self._send_data(stream, data)
        else:
            for start in range(0, size, MAX_FRAME_BYTES):
                self._send_data(stream, data[start : start + MAX_FRAME_BYTES], start + MAX_FRAME_BYTES >= size)
        return True

    def encode_end(self, stream_id: int, trailers: Headers | None = None) -> None:
        """ValueError for less than the announced length: a bug of ours (a broken body ends by a reset)."""
        stream = self._streams.get(stream_id)
        if stream is None or stream.ending:
            return
        if stream.to_send > 0:
            raise ValueError(f"the body ends {stream.to_send} bytes short of what was announced")
        stream.ending = True
        if trailers is not None and len(trailers):
            stream.trailers = trailer_block(trailers)
        if not stream.pending:
            self._send_end(stream)

    def reset(self, stream_id: int, code: int) -> None:
        """The stream ends here, for both sides."""
        stream = self._streams.get(stream_id)
        if stream is not None:
            self._send_reset(stream_id, code)
            self._forget(stream)

    def waiting_bytes(self, stream_id: int) -> int:
        """Of a stream's data, what its client has not made room for."""
        stream = self._streams.get(stream_id)
        return len(stream.pending) if stream is not None else 0

    def is_open(self, stream_id: int) -> bool:
        """Something of it is still to be sent or received."""
        return stream_id in self._streams

    def has_request_ended(self, stream_id: int) -> bool:
        """Its END_STREAM has been read, though perhaps not been handled yet."""
        stream = self._streams.get(stream_id)
        return stream is not None and stream.remote_ended

    def stream(self, stream_id: int) -> Http2Stream | None:
        """For whoever moves it."""
        return self._streams.get(stream_id)

    @property
    def open_streams(self) -> list[int]:
        return list(self._streams)

    def _block(self, block: bytes) -> bytes:
        if self._shrunk:
            return block
        self._shrunk = True
        return SHRUNK_TABLE + block

    def _send_data(self, stream: Http2Stream, data: bytes, last: bool = True) -> None:
        """One frame; `last`: nothing of what was given to us is left behind it."""
        size = len(data)
        stream.send_window -= size
        self._send_window -= size
        self._collected += size
        # A frame that is small because its window is explains nothing: the client opens it byte by byte.
        if last or size >= SMALL_DATA_BYTES:
            self._window_updates = min(self._window_updates + WINDOW_UPDATES_PER_DATA, MAX_WINDOW_UPDATES)
        ended = last and stream.ending and not stream.trailers
        self._out.append(frame(DATA, END_STREAM if ended else 0, stream.id, data))
        if ended:
            self._over(stream)
        elif last and stream.ending:
            self._send_end(stream)

    def _send_end(self, stream: Http2Stream) -> None:
        if stream.trailers:
            self._out.append(head_frames(stream.id, self._block(stream.trailers), True))
        else:
            self._out.append(frame(DATA, END_STREAM, stream.id))
        self._over(stream)

    def _over(self, stream: Http2Stream) -> None:
        """END_STREAM is sent."""
        if not stream.remote_ended:
            self._send_reset(stream.id, stream.reset_code)
        self._forget(stream)

    def _forget(self, stream: Http2Stream) -> None:
        del self._streams[stream.id]
        if stream.queued:
            self._queue.remove(stream)
            stream.queued = False
        self.waiting_total -= len(stream.pending)
        stream.pending.clear()

    def _send_reset(self, stream_id: int, code: int) -> None:
        self._out.append(frame(RST_STREAM, 0, stream_id, number(code)))
        self._remember_reset(stream_id)
        self.resets_sent += 1

    def _remember_reset(self, stream_id: int) -> None:
        self._reset_ids[stream_id] = None
        if len(self._reset_ids) > _REMEMBERED_RESETS:
            del self._reset_ids[next(iter(self._reset_ids))]

    # -- data that waits

    def _enqueue(self, stream: Http2Stream) -> None:
        if stream.pending and not stream.queued and stream.send_window > 0:
            stream.queued = True
            self._queue.append(stream)

    def _send_waiting(self, room: int) -> None:
        """A frame of each stream in turn. Whose own window is shut leaves the queue until it is opened."""
        queue = self._queue
        while queue and room > 0 and self._send_window > 0:
            stream = queue.popleft()
            stream.queued = False
            if stream.send_window <= 0:  # shut since, by SETTINGS
                continue
            size = min(len(stream.pending), stream.send_window, self._send_window, MAX_FRAME_BYTES)
            data = bytes(stream.pending[:size])
            del stream.pending[:size]
            self.waiting_total -= size
            room -= size
            if not self._relieved or self._relieved[-1] != stream.id:
                self._relieved.append(stream.id)
            self._send_data(stream, data, not stream.pending)
            self._enqueue(stream)

    # -- leaving

    def go_away(self) -> None:
        """No new streams, without losing one that is under way: what comes until the PING is answered is served."""
        if self._leaving == STAYS:
            self._leaving = SAID
            self._out.append(frame(GOAWAY, 0, 0, number(MAX_STREAM_ID) + number(NO_ERROR)))
            self._out.append(frame(PING, 0, 0, LEAVING_PING))

    def close(self, code: int, details: str = "") -> None:
        """The last word: the connection is about to be closed."""
        self._leaving = LAST
        self._out.append(frame(GOAWAY, 0, 0, number(self._last_id) + number(code) + details.encode()))

    @property
    def stream_count(self) -> int:
        return len(self._streams)
