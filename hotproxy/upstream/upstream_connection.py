"""A connection to an endpoint with its codec, and what happens to it from connect to close.

busy --release()--> idle --taken()--> busy        HTTP/1.1: one request at a time on a connection
 |                   \\-- EOF, unexpected bytes, idle timeout --> closed
 \\-- lost, close(), or not reusable --> closed
"""

from __future__ import annotations

import socket
from typing import Final, NamedTuple, Protocol

from hotproxy.clock import Timer
from hotproxy.config.address import Address
from hotproxy.config.model import DEFAULT_UPSTREAM_IDLE_TIMEOUT_S
from hotproxy.http.codec import Event, RequestHead, Violation
from hotproxy.http.headers import Headers
from hotproxy.http.http1_client import Http1ClientCodec
from hotproxy.net.connection import OPEN, Connection, Gauge
from hotproxy.net.connection_state import ConnectionState
from hotproxy.net.saved_state import read_state
from hotproxy.net.tls_loop import TlsLoop
from hotproxy.saved import saved_bool, saved_bytes, saved_int, saved_seconds, saved_text, saved_version
from hotproxy.upstream.cluster import Cluster
from hotproxy.upstream.connect import ConnectRuntime
from hotproxy.upstream.endpoint import Endpoint

# Where there is no idle timeout: a client's own may have been parted from it by a restart, or by a config that
# introduces it otherwise, and then nobody closes it when the client leaves.
PARTED_S: Final = DEFAULT_UPSTREAM_IDLE_TIMEOUT_S

DUMP_VERSION: Final = 2
_KEYS: Final = frozenset(
    (
        "version", "endpoint", "connection", "codec", "raw", "reused", "responded", "sent_before", "idle_deadline_s",
        "preface",
    )
)  # fmt: skip
_SHAPES: Final = {1: _KEYS - {"preface"}, DUMP_VERSION: _KEYS}


class UpstreamUser(Protocol):
    """Whoever has it to itself, until `release()`, `close()`, `finish()` or `on_upstream_lost`."""

    def on_upstream_event(self, event: Event) -> None: ...

    def on_upstream_raw(self, data: bytes) -> None:
        """Bytes behind a 101 (`upstream.raw`)."""

    def on_upstream_turn_end(self) -> None:
        """Everything that this read has brought was given: what came of it can be written in one piece."""

    def on_upstream_eof(self) -> None:
        """The endpoint will send no more; only behind a 101, where both directions end on their own."""

    def on_upstream_lost(self, error: str) -> None:
        """It ended before the response did; closed already."""

    def on_upstream_pressure(self, high: bool) -> None: ...

    def on_internal_error(self) -> None:
        """An exception is on its way to the loop: a bug of ours. Answer and let go."""


class PoolRuntime(ConnectRuntime, Protocol):
    """What a pool needs of the worker's `Runtime`."""

    buffered: Gauge


class Keeper(Protocol):
    """The pool, seen from a connection."""

    def keep(self, upstream: UpstreamConnection) -> bool:
        """It is idle. False: it must go."""

    def forget(self, upstream: UpstreamConnection) -> None:
        """It is closed; it may or may not have been idle."""


class UpstreamConnection:
    """A connection to an endpoint with its codec. What is sent is collected, and written by `flush()` in one call."""

    __slots__ = (
        "_closed", "_idle", "_keeper", "_out", "_secure", "_sent_before", "_tx_counted", "_wheel", "cluster", "codec",
        "connection", "endpoint", "local", "preface", "raw", "responded", "reused", "user",
    )  # fmt: skip

    def __init__(
        self,
        sock: socket.socket,
        cluster: Cluster,
        endpoint: Endpoint,
        user: UpstreamUser | None,
        keeper: Keeper,
        runtime: PoolRuntime,
        secure: TlsLoop | None = None,
    ) -> None:
        loop = runtime.loop if secure is None else secure
        self.connection = Connection(sock, self, loop, runtime.wheel, runtime.buffered)
        self._secure = secure
        self.codec = Http1ClientCodec()
        self.cluster = cluster
        self.endpoint = endpoint
        self.user = user  # None: idle
        self.local: str | None = None  # our own address as text, once somebody wanted to know
        self.preface = b""  # the PROXY header that it began with: it is one client's for ever
        self.raw = False  # behind a 101
        self.reused = False  # has carried a request before
        self.responded = False  # a byte of the response to the current request has been read
        self._idle = Timer(self, "upstream_idle")
        self._keeper = keeper
        self._wheel = runtime.wheel
        self._out: list[bytes] = []
        self._sent_before = 0  # tx_bytes when the current request began
        self._tx_counted = 0
        self._closed = False

    # -- sending

    def send_head(self, head: RequestHead) -> None:
        self._out.append(self.codec.encode_head(head, self.endpoint.authority))

    def send_data(self, data: bytes) -> None:
        self._out.append(self.codec.encode_data(data))

    def send_end(self, trailers: Headers | None) -> None:
        end = self.codec.encode_end(trailers)
        if end:
            self._out.append(end)

    def send_raw(self, data: bytes) -> None:
        self._out.append(data)

    def flush(self) -> None:
        """Write what was collected. The user may hear `on_upstream_pressure` from inside."""
        out = self._out
        if out:
            data = out[0] if len(out) == 1 else b"".join(out)
            out.clear()
            self.connection.write(data)
            self._count_sent()

    @property
    def untouched(self) -> bool:
        """No byte of the current request has left: it may be sent elsewhere, whatever its method."""
        return self.connection.tx_bytes == self._sent_before

    @property
    def tls_error(self) -> str:
        """What the endpoint did wrong, or says that we did, behind the handshake: with TLS 1.3 it looks at our
        certificate when we are done. "" mostly."""
        return "" if self._secure is None else self._secure.broken

    # -- receiving: we are the Connection's owner

    def on_data(self, data: bytes) -> None:
        self.cluster.stats.upstream_cx_rx_bytes_total.add(len(data))
        user = self.user
        if user is None:  # nobody has asked anything: a 408 before closing, or an origin out of step
            self.close()
            return
        try:
            if self.raw:
                user.on_upstream_raw(data)
            else:
                self.responded = True
                for event in self.codec.receive(data):
                    user.on_upstream_event(event)
                    if self.user is not user:
                        return
            user.on_upstream_turn_end()
        except Exception:
            user.on_internal_error()
            raise

    def on_eof(self) -> None:
        user = self.user
        if user is None:
            self.close()
            return
        if self.raw:
            user.on_upstream_eof()
            return
        events = self.codec.receive_eof()
        if events and type(events[0]) is not Violation:  # the body lasted until here
            for event in events:
                user.on_upstream_event(event)
            return
        self.close()
        user.on_upstream_lost("connection closed by the endpoint")

    def on_lost(self, error: str) -> None:
        user = self.user
        if self.tls_error and self.cluster.tls is not None:
            self.cluster.tls.stats.connection_error.inc()
        self._gone()
        if user is not None:
            user.on_upstream_lost(error)

    def on_pressure(self, high: bool) -> None:
        if self.user is not None:
            self.user.on_upstream_pressure(high)

    def on_timeout(self, timer: Timer) -> None:
        self.cluster.stats.upstream_cx_idle_timeout.inc()
        self.close()

    # -- ending

    def release(self) -> None:
        """The exchange is over: back into the pool, or closed where that is not possible."""
        connection = self.connection
        self.user = None
        if (
            connection.state != OPEN
            or connection.read_closed
            or connection.pending_bytes
            or not self.codec.reusable
            or not self._keeper.keep(self)
        ):
            self.close()
            return
        self.codec.next_message()
        self.reused = True
        self.responded = False
        self._sent_before = connection.tx_bytes
        timeout_s = self.cluster.idle_timeout_s
        self._wheel.arm(self._idle, PARTED_S if self.preface and timeout_s == 0.0 else timeout_s)

    def taken(self, user: UpstreamUser) -> None:
        """Out of the pool: a new request begins."""
        self.user = user
        self._idle.disarm()

    def finish(self) -> None:
        """Close, but send what is pending first (the end of a tunnel)."""
        self.cluster.stats.upstream_cx_tx_bytes_total.add(self.connection.pending_bytes)
        self.connection.finish()
        self._gone()

    def close(self) -> None:
        """Close at once. Safe to call twice."""
        if (
            self._secure is not None and self.user is None
        ):  # between two requests: the endpoint may know that it is no cut
            self.connection.shutdown_write()
        if self.raw and not self.connection.write_closed:  # a tunnel that is cut: bytes that only their end delimits
            self.connection.reset()
        else:
            self.connection.close()
        self._gone()

    def _gone(self) -> None:
        if self._closed:
            return
        self._closed = True
        self.user = None
        self._count_sent()
        self._out.clear()
        self._idle.drop()
        self._keeper.forget(self)
        stats = self.cluster.stats
        stats.upstream_cx_active.add(-1)
        stats.upstream_cx_destroy.inc()

    def _count_sent(self) -> None:
        sent = self.connection.tx_bytes
        if sent != self._tx_counted:
            self.cluster.stats.upstream_cx_tx_bytes_total.add(sent - self._tx_counted)
            self._tx_counted = sent

    # -- handoff: the connection alone; who uses it, or that nobody does, moves with `proxy/http_moving` or `moving`

    def freeze(self) -> bool:
        """Hear and send nothing until `thaw`. False: it is about to end by itself."""
        if self._out or not self.connection.freeze():
            return False
        self._idle.suspend()
        return True

    def thaw(self) -> None:
        """Go on; also the start of one that was loaded."""
        self._wheel.resume(self._idle, self)
        self.connection.thaw()

    def leave(self) -> None:
        """Close our copy of the descriptor: it lives on in another process, and has not ended."""
        self._closed = True
        self.user = None
        self._idle.drop()
        self.connection.leave()
        self.cluster.stats.upstream_cx_active.add(-1)

    def dump(self) -> dict[str, object]:
        """Of a frozen connection, without its descriptor. Counts what has been sent and was not counted yet."""
        self._count_sent()
        return {
            "version": DUMP_VERSION,
            "endpoint": self.endpoint.name,
            "connection": self.connection.dump(),
            "codec": self.codec.dump(),
            "raw": self.raw,
            "reused": self.reused,
            "responded": self.responded,
            "sent_before": self._sent_before,
            "idle_deadline_s": self._idle.deadline_s,
            "preface": self.preface,
        }

    @classmethod
    def load(
        cls,
        record: UpstreamRecord,
        sock: socket.socket,
        cluster: Cluster,
        user: UpstreamUser | None,
        keeper: Keeper,
        runtime: PoolRuntime,
    ) -> UpstreamConnection:
        """The inverse of `dump`, not started; counted as active."""
        upstream = cls(sock, cluster, record.endpoint, user, keeper, runtime)
        upstream.codec = record.codec
        upstream.connection = Connection.load(
            sock, record.connection, upstream, runtime.loop, runtime.wheel, runtime.buffered
        )
        upstream.preface = record.preface
        upstream.raw = record.raw
        upstream.reused = record.reused
        upstream.responded = record.responded
        upstream._sent_before = record.sent_before
        upstream._tx_counted = upstream.connection.tx_bytes
        upstream._idle.deadline_s = record.idle_deadline_s  # armed by `thaw`
        cluster.stats.upstream_cx_active.add(1)
        return upstream


class UpstreamRecord(NamedTuple):
    """What `dump` gave, with every value looked at."""

    endpoint: Endpoint
    connection: ConnectionState
    codec: Http1ClientCodec
    raw: bool
    reused: bool
    responded: bool
    sent_before: int
    idle_deadline_s: float
    preface: bytes


def read_upstream(state: object, cluster: Cluster) -> UpstreamRecord:
    """ValueError for a version or shape that this code does not know.

    An endpoint that the config no longer has is made once more: the request that it is answering has it.
    """
    record = saved_version(state, "upstream connection", _SHAPES)
    name = saved_text(record, "endpoint")
    endpoint = next((known for known in cluster.endpoints if known.name == name), None)
    connection = read_state(record["connection"])
    return UpstreamRecord(
        endpoint or Endpoint(Address.parse(name)),
        connection,
        Http1ClientCodec.load(record["codec"]),
        saved_bool(record, "raw"),
        saved_bool(record, "reused"),
        saved_bool(record, "responded"),
        saved_int(record, "sent_before", connection["tx"]),
        saved_seconds(record, "idle_deadline_s"),
        saved_bytes(record, "preface") if record["version"] != 1 else b"",
    )
