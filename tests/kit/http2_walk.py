"""A client of HTTP/2 that does whatever comes to its mind, an origin that does the same, and moves in between.

The client keeps its own account: of both windows of each stream, of what has ended, and of the last stream that it was
told. Whatever it receives beyond its account is an AssertionError; `end` says whether anything was left behind.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final

from hpack import Decoder, Encoder

from hotproxy.config.model import DirectResponse, Route
from hotproxy.http import http2_frames as h2
from tests.kit.http2 import preface
from tests.kit.playbook import EOF, OK, REFUSED, RESET, TIMED_OUT, Playbook, Step

ROUTES: Final = (
    Route(prefix="/ours", direct_response=DirectResponse(200, "x" * 50_000)),
    Route(prefix="/soon", cluster="api", timeout_s=5.0, idle_timeout_s=3.0),
    Route(prefix="/", cluster="api"),
)
ANSWERS: Final[tuple[bytes | str, ...]] = (
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nX-Sum: 1\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 90000\r\n\r\n" + bytes(90_000),
    b"HTTP/1.1 200 OK\r\nContent-Length: 90000\r\n\r\n" + bytes(50_000),
    bytes(40_000),
    b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n",
    b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n",
    b"HTTP/1.1 500 No\r\n\r\nuntil the end",
    b"nothing of HTTP\r\n\r\n",
    EOF,
    RESET,
)
STEPS: Final = 150


class Walk:
    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self.play = Playbook(
            ROUTES, outcomes=self._random.choices((OK, REFUSED, TIMED_OUT), (3, 1, 1), k=300)
        )  # fmt: skip
        self._encoder, self._decoder = Encoder(), Decoder()
        self._heard = b""
        self._answers = b""  # to PINGs
        self._begun = 0  # the last stream
        self._uploads: set[int] = set()  # streams whose request has not ended
        self._heads: set[int] = set()  # whose final head has come
        self._over: set[int] = set()  # of which nothing may come any more
        self._reset: set[int] = set()
        # Ours to fill (for what is sent to us), and theirs; 0 is the connection's.
        self._ours: dict[int, int] = {0: h2.DEFAULT_WINDOW}
        self._theirs: dict[int, int] = {0: h2.DEFAULT_WINDOW}
        self._initial = h2.DEFAULT_WINDOW
        self._changes = [h2.DEFAULT_WINDOW]  # of it, which have not been acknowledged
        self._last_id = h2.MAX_STREAM_ID  # of a GOAWAY
        self._turns: list[tuple[Callable[[], None], int]] = [
            (self._ask, 22), (self._upload, 18), (self._end_upload, 4), (self._give_up, 4), (self._open_window, 10),
            (self._change_windows, 4), (self._origin_speaks, 20), (self._time_passes, 4), (self._stop_reading, 4),
            (self._origin_stops_reading, 3), (self._move, 8), (self._drain, 1),
        ]  # fmt: skip

    def run(self) -> None:
        self._say(preface())
        turns, weights = zip(*self._turns, strict=True)
        for turn in self._random.choices(turns, weights, k=STEPS):
            if self.play.closed:
                break
            answers, self._answers = self._answers, b""
            self._say(answers)
            turn()
        self._step(("window", "down", None))
        self.play.end()

    # -- what the client does

    def _ask(self) -> None:
        stream_id = self._begun + 1 + self._begun % 2
        self._begun = stream_id
        method = self._random.choice(("GET", "POST", "HEAD"))
        path = self._random.choice(("/", "/ours", "/soon"))
        fields = [(":method", method), (":scheme", "http"), (":authority", "a.example"), (":path", path)]
        fields += [(f"x-{self._random.randrange(30)}", "v" * self._random.randrange(60)) for _ in range(3)]
        ends = self._random.random() < 0.5
        if not ends:
            self._uploads.add(stream_id)
            if self._random.random() < 0.3:
                fields.append(("content-length", self._random.choice(("0", "5", "20000"))))
        self._ours[stream_id], self._theirs[stream_id] = self._initial, h2.DEFAULT_WINDOW
        block = self._encoder.encode(fields)
        cut = self._random.randrange(1, len(block))
        self._say(
            h2.frame(h2.HEADERS, h2.END_STREAM if ends else 0, stream_id, block[:cut])
            + h2.frame(h2.CONTINUATION, h2.END_HEADERS, stream_id, block[cut:])
        )

    def _upload(self) -> None:
        stream_id = self._one_of(self._uploads)
        size = self._random.choice((0, 1, 100, h2.MAX_FRAME_BYTES))
        if stream_id and size <= min(self._theirs[0], self._theirs[stream_id]):
            for number in (0, stream_id):
                self._theirs[number] -= size
            ends = self._random.random() < 0.2
            if ends:
                self._uploads.discard(stream_id)
            self._say(h2.frame(h2.DATA, h2.END_STREAM if ends else 0, stream_id, bytes(size)))

    def _end_upload(self) -> None:
        stream_id = self._one_of(self._uploads)
        if stream_id:
            self._uploads.discard(stream_id)
            flags = h2.END_STREAM | h2.END_HEADERS
            self._say(h2.frame(h2.HEADERS, flags, stream_id, self._encoder.encode([("x-sum", "1")])))

    def _give_up(self) -> None:
        stream_id = self._one_of(self._ours.keys() - {0})
        if stream_id:
            self._uploads.discard(stream_id)
            self._say(h2.frame(h2.RST_STREAM, 0, stream_id, h2.number(h2.CANCEL)))

    def _open_window(self) -> None:
        number, more = self._one_of(self._ours), self._random.choice((1, 100, 65_535, 1 << 20))
        self._ours[number] += more
        self._say(h2.frame(h2.WINDOW_UPDATE, 0, number, h2.number(more)))

    def _change_windows(self) -> None:
        size = self._random.choice((0, 1, 100, 65_535, 1 << 20))
        self._changes.append(size)
        self._say(h2.frame(h2.SETTINGS, 0, 0, b"\0\4" + h2.number(size)))

    def _stop_reading(self) -> None:
        self._step(("window", "down", self._random.choice((0, 1, 5000, None, None, None))))

    # -- what others do

    def _origin_speaks(self) -> None:
        names = [sock.name for sock in self.play.sockets.values() if sock.name != "down" and not sock.closed]
        if names:
            self._step((self._random.choice(names), self._random.choice(ANSWERS)))

    def _origin_stops_reading(self) -> None:
        names = [sock.name for sock in self.play.sockets.values() if sock.name != "down" and not sock.closed]
        if names:
            self._step(("window", self._random.choice(names), self._random.choice((0, 10, None, None))))

    def _time_passes(self) -> None:
        self._step(("time", self._random.choice((0.1, 1.0, 4.0))))

    def _drain(self) -> None:
        self._step(("drain",))

    def _move(self) -> None:
        self._step()
        if not self.play.closed and self.play.can_move():
            self._random.choice((self.play.hand_off, self.play.hand_off, self.play.give_back))()

    def _one_of(self, numbers: set[int] | dict[int, int]) -> int:
        return self._random.choice(sorted(numbers)) if numbers else 0

    def _say(self, data: bytes) -> None:
        """Now and then in two pieces, with a move between them."""
        cut = self._random.randrange(len(data)) if data and self._random.random() < 0.2 else 0
        if cut:
            self._step(("down", data[:cut]))
            self._move()
        self._step(("down", data[cut:]))

    def _step(self, *steps: Step) -> None:
        if not self.play.closed:
            for name, what in self.play(*steps):
                if name == "down" and isinstance(what, bytes):
                    self._hear(what)

    # -- what the client is told

    def _hear(self, data: bytes) -> None:
        self._heard += data
        while len(self._heard) >= 9 and len(self._heard) >= (end := 9 + int.from_bytes(self._heard[:3], "big")):
            raw, self._heard = self._heard[:end], self._heard[end:]
            kind, flags, stream_id, payload = raw[3], raw[4], int.from_bytes(raw[5:9], "big"), raw[9:]
            assert len(payload) <= h2.MAX_FRAME_BYTES
            if kind == h2.SETTINGS and flags & h2.ACK:
                self._resize(self._changes.pop(0))
            elif kind == h2.WINDOW_UPDATE:
                self._theirs[stream_id] += int.from_bytes(payload, "big")
                assert not stream_id or self._theirs[stream_id] <= h2.DEFAULT_WINDOW
            elif kind == h2.PING and not flags & h2.ACK:
                self._answers += h2.frame(h2.PING, h2.ACK, 0, payload)
            elif kind == h2.GOAWAY:
                assert int.from_bytes(payload[4:8], "big") == h2.NO_ERROR, payload[8:]
                last_id = int.from_bytes(payload[:4], "big")
                assert last_id <= self._last_id
                self._last_id = last_id
            elif stream_id:
                self._hear_of_stream(kind, flags, stream_id, payload)

    def _resize(self, size: int) -> None:
        for number in self._ours.keys() - {0}:
            self._ours[number] += size - self._initial
        self._initial = size

    def _hear_of_stream(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        assert stream_id <= self._begun and stream_id not in self._reset
        if kind == h2.RST_STREAM:
            self._uploads.discard(stream_id)
            self._reset.add(stream_id)
            return
        assert stream_id not in self._over
        if kind == h2.HEADERS:
            status = dict(self._decoder.decode(payload)).get(":status", "")
            assert bool(status) == (stream_id not in self._heads)
            if not status.startswith("1"):
                self._heads.add(stream_id)
        else:
            assert kind == h2.DATA and stream_id in self._heads
            for number in (0, stream_id):
                self._ours[number] -= len(payload)
                assert not payload or self._ours[number] >= 0, "beyond the window"
        if flags & h2.END_STREAM:
            self._over.add(stream_id)
