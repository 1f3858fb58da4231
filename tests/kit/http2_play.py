"""A playbook whose client speaks HTTP/2: what it receives is told as values, a stream's events by its number.

`h2` says what the client says, and keeps its windows. What it receives is read frame by frame here, because `h2` hears
nothing more behind a GOAWAY, where streams go on (RFC 9113 section 6.8).
"""

from __future__ import annotations

from h2.connection import H2Connection
from hpack import Decoder

from hotproxy.http import http2_frames as h2
from tests.kit.http2 import GET_FIELDS, client
from tests.kit.playbook import Playbook

Told = tuple[object, ...]
DATE = "Tue, 14 Nov 2023 22:13:20 GMT"
# What the proxy adds to each answer of an endpoint.
ADDED = [("via", "1.1 hotproxy"), ("date", DATE)]


class Http2Play:
    """`peer` is the client's side; what it has to say is said by ("down",), and by each turn that makes it answer."""

    def __init__(self, hands_off: bool = False, **options: object) -> None:
        """`hands_off`: to another process, before each step."""
        self.play = Playbook(**options)  # type: ignore[arg-type]
        self.peer: H2Connection = client()
        self.acknowledges = True  # opens windows again as it reads
        self.ended = False  # the connection, as the client sees it
        self._hands_off = hands_off
        self._decoder = Decoder()
        self._rest = b""  # of what was received, a part of a frame
        self._left = False  # a GOAWAY has come
        self._answers = b""  # what h2 does not say any more
        self._headed: set[int] = set()  # streams whose final head has come

    def __call__(self, *steps: tuple[object, ...]) -> list[Told]:
        """Play these; ("down",) is whatever the peer has to say. Returns what everybody has received."""
        told: list[Told] = []
        for step in steps:
            if self._hands_off and not self.play.closed and self.play.can_move() and step[0] != "window":
                self._collect(self.play(), told)
                self.play.hand_off()
            self._collect(self.play(("down", self._says()) if step == ("down",) else step), told)
        while not self.play.closed and not self.ended and (more := self._says()):
            self._collect(self.play(("down", more)), told)
        return told

    def mute(self) -> None:
        """The peer says nothing of its own accord: every byte comes from the test."""
        self.peer.data_to_send()
        self._left = True

    def get(self, stream_id: int, path: str = "/", *fields: tuple[str, str]) -> list[Told]:
        self.peer.send_headers(stream_id, [*GET_FIELDS[:3], (":path", path), *fields], end_stream=True)
        return self(("down",))

    def _says(self) -> bytes:
        said, self._answers = self.peer.data_to_send() + self._answers, b""
        return said

    def _collect(self, received: list[tuple[str, bytes | str]], told: list[Told]) -> None:
        for name, what in received:
            if name != "down":
                told.append((name, what))
            elif isinstance(what, bytes):
                self._receive(what, told)
            else:
                self.ended = True
                told.append(("down", what))

    def _receive(self, data: bytes, told: list[Told]) -> None:
        self._rest += data
        while len(self._rest) >= 9 and len(self._rest) >= (end := 9 + int.from_bytes(self._rest[:3], "big")):
            raw, self._rest = self._rest[:end], self._rest[end:]
            kind, flags, stream_id, payload = raw[3], raw[4], int.from_bytes(raw[5:9], "big"), raw[9:]
            self._left = self._left or kind == h2.GOAWAY
            if kind in (h2.SETTINGS, h2.WINDOW_UPDATE, h2.PING) and not self._left:
                self.peer.receive_data(raw)
            elif kind == h2.PING and not flags & h2.ACK:
                self._answers += h2.frame(h2.PING, h2.ACK, 0, payload)
            self._tell(kind, flags, stream_id, payload, told)

    def _tell(self, kind: int, flags: int, stream_id: int, payload: bytes, told: list[Told]) -> None:
        if kind == h2.HEADERS:
            fields = [tuple(field) for field in self._decoder.decode(payload)]
            what = "head" if stream_id not in self._headed else "trailers"
            if fields[0][0] == ":status" and fields[0][1][0] == "1":
                what = "interim"
            elif what == "head":
                self._headed.add(stream_id)
            told.append((stream_id, what, fields))
        elif kind == h2.DATA:
            if self.acknowledges and payload:
                for number in (0, stream_id):
                    self._answers += h2.frame(h2.WINDOW_UPDATE, 0, number, h2.number(len(payload)))
            before = told.pop()[2] if told and told[-1][:2] == (stream_id, "data") else b""
            if before or payload:
                told.append((stream_id, "data", before + payload))  # type: ignore[operator]
        elif kind == h2.RST_STREAM:
            told.append((stream_id, "reset", int.from_bytes(payload, "big")))
        elif kind == h2.GOAWAY:
            told.append(("goaway", int.from_bytes(payload[4:8], "big"), int.from_bytes(payload[:4], "big")))
        if kind in (h2.HEADERS, h2.DATA) and flags & h2.END_STREAM:
            told.append((stream_id, "end"))

    def end(self) -> None:
        self.play.end()
