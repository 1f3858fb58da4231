"""HTTP/2 clients that never connect anew: each holds one connection with several streams open at any moment, and checks
every byte of each. In front of an `echo_origin`.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import socket
import threading
from collections.abc import Iterator
from typing import Any

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    ResponseReceived,
    StreamEnded,
    StreamReset,
)

from tests.kit.echo_origin import pattern
from tests.kit.instance import PATIENCE_S, eventually

DOWNLOADS = 2
PIECES = 60  # of 4 KiB, one every 10 ms
UPLOAD_BYTES = 200_000
QUICK = 3
DIGEST = 64


class Http2Client:
    """One connection, in a thread of its own. `streams`: how many exchanges were right."""

    def __init__(self, port: int) -> None:
        self.streams = 0
        self.failure = ""
        self._stopping = threading.Event()
        self._sock = socket.create_connection(("127.0.0.1", port), PATIENCE_S)
        self._peer = H2Connection(H2Configuration(client_side=True, header_encoding="utf-8"))
        self._bodies: dict[int, bytearray] = {}
        self._status: dict[int, str] = {}
        self._wanted: dict[int, bytes] = {}  # the whole body; b"": its own digest at its end
        self._uploads: dict[int, bytes] = {}  # what is still to be sent
        self._numbers = itertools.count()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def begin_to_stop(self) -> None:
        """What is under way is completed."""
        self._stopping.set()

    def stop(self) -> None:
        self.begin_to_stop()
        self._thread.join(PATIENCE_S)
        if self._thread.is_alive():
            self.failure = self.failure or f"streams {sorted(self._wanted)} do not end"
        self._sock.close()

    def _run(self) -> None:
        try:
            self._peer.initiate_connection()
            while self._wanted or not self._stopping.is_set():
                if not self._stopping.is_set():
                    self._ask()
                self._send()
                data = self._sock.recv(65536)
                assert data, "the connection was closed"
                for event in self._peer.receive_data(data):
                    self._hear(event)
        except Exception as error:
            self.failure = f"{type(error).__name__}: {error}"

    def _ask(self) -> None:
        kinds = list(self._wanted.values())
        for _ in range(DOWNLOADS - kinds.count(b"")):
            self._begin("GET", f"/stream/{PIECES}", b"")
        if not self._uploads and not any(len(wanted) > DIGEST for wanted in kinds):
            body = pattern(0, UPLOAD_BYTES)
            stream_id = self._begin(
                "POST", "/upload", f"{hashlib.sha256(body).hexdigest()} {len(body)}\n".encode(), False
            )
            self._uploads[stream_id] = body
        for _ in range(QUICK - sum(0 < len(wanted) < DIGEST for wanted in kinds)):
            number = str(next(self._numbers))
            self._begin("GET", "/load", f"{number}\n".encode(), True, ("x-number", number))

    def _begin(self, method: str, path: str, wanted: bytes, end: bool = True, *more: tuple[str, str]) -> int:
        stream_id = self._peer.get_next_available_stream_id()
        fields = [(":method", method), (":scheme", "http"), (":authority", "a"), (":path", path), *more]
        self._peer.send_headers(stream_id, fields, end_stream=end)
        self._bodies[stream_id] = bytearray()
        self._wanted[stream_id] = wanted
        return stream_id

    def _send(self) -> None:
        """All that the windows have room for: perhaps nothing comes before it has arrived."""
        for stream_id in list(self._uploads):
            while rest := self._uploads.get(stream_id, b""):
                room = min(
                    self._peer.local_flow_control_window(stream_id), self._peer.max_outbound_frame_size, len(rest)
                )
                if room <= 0:
                    break
                self._peer.send_data(stream_id, rest[:room], end_stream=room == len(rest))
                self._uploads[stream_id] = rest[room:]
            if not self._uploads[stream_id]:
                del self._uploads[stream_id]
        self._sock.sendall(self._peer.data_to_send())

    def _hear(self, event: Event) -> None:
        if isinstance(event, ResponseReceived):
            self._status[event.stream_id] = dict(event.headers)[":status"]
        elif isinstance(event, DataReceived):
            self._bodies[event.stream_id] += event.data
            self._peer.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, StreamEnded):
            self._check(event.stream_id)
        elif isinstance(event, StreamReset | ConnectionTerminated):
            raise AssertionError(f"{event}")

    def _check(self, stream_id: int) -> None:
        body, wanted = bytes(self._bodies.pop(stream_id)), self._wanted.pop(stream_id)
        assert self._status.pop(stream_id) == "200"
        if not wanted:
            body, wanted = body[-DIGEST:], hashlib.sha256(body[:-DIGEST]).hexdigest().encode()
        assert body == wanted, f"stream {stream_id}: {body[:100]!r} instead of {wanted[:100]!r}"
        self.streams += 1


class Crowd:
    def __init__(self, clients: list[Http2Client]) -> None:
        self.clients = clients

    def wait_for_more(self, streams: int) -> None:
        """Until each of them has completed so many more."""
        before = [client.streams for client in self.clients]
        eventually(
            lambda: all(
                client.failure or client.streams >= count + streams
                for client, count in zip(self.clients, before, strict=True)
            ),
            "each client to go on",
        )

    def stop(self) -> dict[str, Any]:
        for client in self.clients:
            client.begin_to_stop()
        for client in self.clients:
            client.stop()
        failures = [client.failure for client in self.clients if client.failure]
        return {"failures": failures, "streams": sum(client.streams for client in self.clients)}


@contextlib.contextmanager
def crowd(port: int, connections: int) -> Iterator[Crowd]:
    made = Crowd([Http2Client(port) for _ in range(connections)])
    try:
        yield made
    finally:
        made.stop()
