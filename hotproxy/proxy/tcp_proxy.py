"""Carries the bytes of one client to one endpoint of a cluster and back; looks at none of them, unless there are routes
by server name: then at the first message of a TLS client.

    HELLO --cluster chosen--> CONNECTING --connected--> PIPING --EOF from both sides--> CLOSING --flushed--> DONE
        |        |  \\--failed: the next endpoint, at most max_connect_attempts--> CLOSING (UF, UH)
        |        \\---- client gone, idle, drain deadline, endpoint reset -----------> CLOSING or DONE
        \\---- no whole ClientHello in time, or one that is too large ---------------> DONE

Reading from the client begins at once, bounded, so that what it sends while we connect can travel in a dump. Both
directions half-close on their own: an EOF is passed on once everything before it is sent.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Final

from hotproxy.clock import Timer
from hotproxy.errors import (
    CONNECT_TIMEOUT,
    DOWNSTREAM_DISCONNECT,
    DRAIN_DEADLINE,
    LOCAL_CONNECT_FAILURE,
    NO_CLUSTER,
    NO_HEALTHY_UPSTREAM,
    NO_ROUTE,
    Reason,
)
from hotproxy.net.client_hello import PENDING, TOO_LARGE, ClientHelloReader
from hotproxy.net.connection import Connection
from hotproxy.net.proxy_protocol import Announced
from hotproxy.net.tls_loop import TlsLoop
from hotproxy.proxy import tcp_moving
from hotproxy.proxy.byte_meter import ByteMeter, bytes_moved
from hotproxy.proxy.filter_chain import DownstreamOwner, address_text
from hotproxy.proxy.runtime import Runtime
from hotproxy.proxy.snapshot import TcpListener
from hotproxy.proxy.splice import Splice
from hotproxy.proxy.tcp_leg import Leg
from hotproxy.proxy.tcp_moving import CONNECTING, DONE, EARLY_BYTES, HELLO, PIPING
from hotproxy.telemetry.stream_info import StreamInfo
from hotproxy.upstream.cluster import Cluster
from hotproxy.upstream.endpoint import Endpoint
from hotproxy.upstream.tls_connect import Connecting

# So many more large reads than small ones, and more are expected: 256 KiB at least. Large is not full: with 16 streams
# at a time hardly any is (measured with full ones: nearly all was copied, and the CPU three times as much).
BULK_READS: Final = 16
LARGE_BYTES: Final = 16 * 1024
# The state in which it cannot move, and is not over either; the others are tcp_moving's.
CLOSING: Final = 3

# Envoy's name for it (StreamInfo::LocalCloseReasons).
_IDLE_DETAILS: Final = "tcp_session_idle_timeout"
_RESET_DETAILS: Final = "upstream_reset_after_response_started{connection_termination}"


class TcpProxy:
    """A `DownstreamConnection`. `owner` is told once, when both descriptors are closed."""

    __slots__ = (
        "_attempt", "_cluster", "_down", "_early", "_early_disabled", "_endpoint", "_frozen", "_hello", "_idle",
        "_listener", "_loaded", "_meter", "_moved", "_open_legs", "_owner", "_postponed", "_runtime", "_tried",
        "_up", "info", "state",
    )  # fmt: skip

    kind: Final = "tcp"

    def __init__(
        self,
        sock: socket.socket,
        peer: str,
        listener: TcpListener,
        owner: DownstreamOwner,
        runtime: Runtime,
        announced: Announced | None = None,
        secure: TlsLoop | None = None,
    ) -> None:
        info = StreamInfo(runtime.clock.wall_s(), runtime.clock.now_s())
        info.listener = listener.name
        info.downstream_remote = peer
        info.downstream_local = _local_text(sock)
        if announced is not None and announced.known:
            info.downstream_remote, info.downstream_local = announced.remote, announced.local
            info.downstream_direct_remote, info.tlvs = peer or "@", announced.tlvs
        if secure is not None:
            info.tls = secure.info
            info.requested_server_name = secure.info.server_name
        self.state = HELLO
        self._listener = listener
        self._runtime = runtime
        self.info = info
        self._owner: DownstreamOwner | None = owner
        self._cluster: Cluster | None = None
        self._hello: ClientHelloReader | None = None  # looks for the name that `routes` want
        self._down = Leg(self, is_upstream=False)
        self._up = Leg(self, is_upstream=True)
        self._down.other = self._up
        self._up.other = self._down
        loop = runtime.loop if secure is None else secure
        self._down.connection = Connection(sock, self._down, loop, runtime.wheel, runtime.buffered)
        self._early = bytearray()  # from the client, while there is no endpoint yet
        self._early_disabled = False
        self._attempt: Connecting | None = None
        self._endpoint: Endpoint | None = None
        self._tried: list[Endpoint] = []
        self._idle = Timer(self, "idle")
        self._moved = 0  # bytes of both directions when the idle timer was armed last
        self._meter = ByteMeter(listener.stats, None)
        self._open_legs = 0  # while CLOSING
        self._loaded = False  # comes from a dump, and has not been started
        self._frozen = False  # on its way to another process
        self._postponed: Reason | None = None  # why it was to be closed meanwhile

    def start(self) -> None:
        down = self._down.connection
        assert down is not None
        loaded, self._loaded = self._loaded, False
        if loaded:
            self._runtime.wheel.resume(self._idle, self)
            tcp_moving.apply_options(self)
        else:
            self._listener.stats.downstream_cx_total.inc()
        if self.state == HELLO:
            self._begin(loaded)
        elif self.state == CONNECTING:
            self._connect()
        if self.state <= PIPING:
            down.start()
            if self._up.connection is not None:
                self._up.connection.start()

    def receive(self, data: bytes) -> None:
        down = self._down.connection
        if down is not None and self.state <= PIPING:
            down.rx_bytes += len(data)
            self.pass_on(self._down, data)

    # -- choosing a cluster -------------------------------------------------------------------------------------

    def _begin(self, loaded: bool) -> None:
        """`loaded`: its deadline is armed, and a part of the hello may be there."""
        routes = self._listener.routes
        if routes is None or not routes.wants_name or self.info.tls is not None:  # with TLS it is known by now
            self._arm_idle()
            name = self.info.requested_server_name
            self._choose(self._listener.cluster if routes is None else routes.pick(name, self._runtime.random))
            return
        self._hello = ClientHelloReader()
        if not loaded:
            self._runtime.wheel.arm(self._idle, self._listener.filters_timeout_s)
        elif self._early:
            self._look()

    def _look(self) -> None:
        """Has the client said where it wants to go?"""
        hello = self._hello
        assert hello is not None
        found = hello.read(self._early)
        if found == TOO_LARGE:
            self._listener.stats.client_hello_too_large.inc()
            self._cut("client_hello_too_large")
        elif found != PENDING:
            self.info.requested_server_name = hello.server_name
            self._choose_by_name()

    def _choose_by_name(self) -> None:
        routes = self._listener.routes
        assert routes is not None
        self._hello = None
        self._arm_idle()
        self._choose(routes.pick(self.info.requested_server_name, self._runtime.random))

    def _choose(self, name: str) -> None:
        self.use_cluster(name)
        self.state = CONNECTING
        if name:
            self._connect()
        else:
            self._listener.stats.downstream_cx_no_route.inc()
            self._end(NO_ROUTE.details, NO_ROUTE.flag)

    def use_cluster(self, name: str) -> None:
        """From here on its statistics count."""
        self.info.cluster = name
        self._cluster = self._runtime.snapshot.clusters.get(name)
        counted = self._meter.counted
        self._meter = ByteMeter(self._listener.stats, self._cluster.stats if self._cluster is not None else None)
        self._meter.counted = counted

    # -- connecting ---------------------------------------------------------------------------------------------

    def _connect(self) -> None:
        cluster = self._cluster
        if cluster is None:
            self._listener.stats.downstream_cx_no_route.inc()
            self._end(NO_CLUSTER.details, NO_CLUSTER.flag)
            return
        endpoint = cluster.balancer.pick(self._tried)
        if endpoint is None:
            cluster.stats.by_name(NO_HEALTHY_UPSTREAM.counter).inc()
            self._end(NO_HEALTHY_UPSTREAM.details, NO_HEALTHY_UPSTREAM.flag)
            return
        self.info.attempts += 1
        self._use(endpoint, cluster)
        cluster.stats.upstream_cx_total.inc()
        info = self.info
        preface = cluster.preface(info.downstream_remote, info.downstream_local, info.tlvs)
        self._attempt = self._runtime.snapshot.pools.attempt(cluster, endpoint, self, self._runtime, preface)
        self._attempt.start()

    def _use(self, endpoint: Endpoint, cluster: Cluster) -> None:
        self._endpoint = endpoint
        endpoint.active += 1
        cluster.stats.upstream_cx_active.add(1)

    def _leave_endpoint(self, moved: bool = False) -> None:
        """`moved`: the connection to it goes on elsewhere."""
        endpoint, self._endpoint = self._endpoint, None
        if endpoint is not None:
            assert self._cluster is not None
            endpoint.active -= 1
            self._cluster.stats.upstream_cx_active.add(-1)
            if not moved:
                self._cluster.stats.upstream_cx_destroy.inc()

    def on_connect_failed(self, reason: Reason, error: str) -> None:
        cluster, endpoint = self._cluster, self._endpoint
        assert cluster is not None and endpoint is not None
        self._attempt = None
        cluster.stats.upstream_cx_connect_fail.inc()  # a timeout is one too (Envoy)
        if reason is CONNECT_TIMEOUT:
            cluster.stats.upstream_cx_connect_timeout.inc()
        self._leave_endpoint()
        if reason is LOCAL_CONNECT_FAILURE:
            cluster.stats.upstream_cx_connect_local_fail.inc()
        else:
            self._tried.append(endpoint)
        attempts = self.info.attempts
        if attempts < self._listener.max_connect_attempts and len(self._tried) < len(cluster.endpoints):
            self._connect()
            return
        flags: tuple[str, ...] = (reason.flag,)
        if attempts >= self._listener.max_connect_attempts:
            cluster.stats.upstream_cx_connect_attempts_exceeded.inc()
            flags += ("URX",)  # Envoy: "maximum connect attempts (TCP) was reached"
        self._end(f"{reason.details[:-1]}|{error.replace(' ', '_')}}}", *flags)

    def on_connected(self, sock: socket.socket, secure: TlsLoop | None = None) -> None:
        self._attempt = None
        self._tried.clear()
        assert self._endpoint is not None
        info, runtime = self.info, self._runtime
        info.upstream_connect_s = runtime.clock.now_s()
        info.upstream_remote = self._endpoint.name
        info.upstream_local = _local_text(sock)
        loop = runtime.loop if secure is None else secure
        up = Connection(sock, self._up, loop, runtime.wheel, runtime.buffered)
        down = self._down.connection
        assert down is not None
        self._up.connection = up
        self.state = PIPING
        if self._early:
            data = bytes(self._early)
            self._drop_early()
            up.write(data)
        if down.read_closed:
            up.shutdown_write()
        if self._early_disabled:
            self._early_disabled = False
            down.read_enable()
        up.start()
        self._progress()

    # -- piping -------------------------------------------------------------------------------------------------

    def pass_on(self, leg: Leg, data: bytes) -> None:
        other = leg.other
        assert other is not None
        if other.connection is not None:
            info = self.info
            if leg.is_upstream and info.upstream_first_byte_s == 0.0:
                info.upstream_first_byte_s = self._runtime.clock.now_s()
            other.connection.write(data)
            if len(data) >= LARGE_BYTES:
                leg.large_reads += 1
                if leg.large_reads >= BULK_READS and leg.splice is None:
                    self._splice(leg)
            elif leg.large_reads:
                leg.large_reads -= 1  # the rest of what was sent at once
        else:
            self._early += data
            self._runtime.buffered.add(len(data))
            if len(self._early) >= EARLY_BYTES and not self._early_disabled:
                self._early_disabled = True
                assert leg.connection is not None
                leg.connection.read_disable()
            if self._hello is not None:  # its deadline stays as it is
                self._count()
                self._look()
                return
        self._progress()

    def _splice(self, leg: Leg) -> None:
        """It sends in bulk, and nobody looks at it."""
        other, loop = leg.other, self._runtime.loop
        assert leg.connection is not None and other is not None and other.connection is not None
        if leg.connection.runs_in(loop) and other.connection.runs_in(loop):
            runtime = self._runtime
            leg.splice = Splice(leg.connection, other.connection, runtime.pipes, runtime.buffered, self)

    def on_spliced(self) -> None:
        self._progress()

    def pass_eof_on(self, leg: Leg) -> None:
        other = leg.other
        assert other is not None
        if other.connection is None:  # told once it is connected
            if self._hello is not None:
                self._choose_by_name()
            return
        other.connection.shutdown_write()
        self._progress()
        if other.connection.read_closed:
            self._end("")

    def lose(self, leg: Leg) -> None:
        """One side was reset. What it had sent still goes to the other, and then a reset too: whoever reads to the end
        must not take a part for the whole. Unless it had said before that this was all."""
        assert leg.connection is not None
        proper = leg.connection.read_closed
        if not leg.is_upstream:
            self._end(DOWNSTREAM_DISCONNECT.details, DOWNSTREAM_DISCONNECT.flag, proper=proper)
        elif self.info.upstream_first_byte_s == 0.0:
            self._end("upstream_reset_before_response_started{connection_termination}", "UC", proper=proper)
        else:
            self._end(_RESET_DETAILS, "UC", proper=proper)

    def _progress(self) -> None:
        self._count()
        self._arm_idle()

    def _arm_idle(self) -> None:
        self._moved = self._bytes_moved()
        self._runtime.wheel.arm(self._idle, self._listener.idle_timeout_s)

    def _count(self) -> None:
        self._meter.count(self._down.connection, self._up.connection)

    def _bytes_moved(self) -> int:
        return bytes_moved(self._down.connection, self._up.connection)

    def on_timeout(self, timer: Timer) -> None:
        if self._hello is not None:
            self._listener.listener_stats.downstream_pre_cx_timeout.inc()
            self._cut("listener_filters_timeout")
            return
        if self._bytes_moved() != self._moved:  # a slow reader took something of what waits for it
            self._arm_idle()
            return
        self._listener.stats.idle_timeout.inc()
        self._cut(_IDLE_DETAILS)

    # -- ending -------------------------------------------------------------------------------------------------

    def drain(self) -> None:
        """Goes on until its end or the deadline: nobody can tell where in its bytes it could stop."""

    def close(self, reason: Reason) -> None:
        if self._frozen:
            self._postponed = reason
            return
        if reason is DRAIN_DEADLINE and self.state != DONE:
            self._listener.stats.downstream_cx_drain_close.inc()
        self._cut(reason.details, reason.flag)

    def _note(self, details: str, flags: tuple[str, ...]) -> None:
        """Why it ended; the first cause counts."""
        info = self.info
        if not info.details:
            info.details = details
            info.flags = tuple(flag for flag in flags if flag != "-")

    def _end(self, details: str, *flags: str, proper: bool = True) -> None:
        """Gracefully: send what is pending both ways, linger, then finish. Not `proper`: reset instead of linger."""
        if self.state >= CLOSING:
            return
        self._note(details, flags)
        self._stop_connecting()
        self._up.settle()
        self._down.settle()
        self.state = CLOSING
        self._idle.drop()
        open_legs = [leg.connection for leg in (self._up, self._down) if leg.connection is not None]
        self._open_legs = len(open_legs)
        for connection in open_legs:
            connection.finish(self._on_leg_closed, proper)

    def _on_leg_closed(self) -> None:
        self._open_legs -= 1
        if self._open_legs == 0 and self.state == CLOSING:
            self._finish()

    def _cut(self, details: str, *flags: str) -> None:
        """At once, pending or not: a side that has not had its end yet must not take this for it."""
        if self.state == DONE:
            return
        self._note(details, flags)
        self._stop_connecting()
        carried, self.state = self.state >= PIPING, DONE
        for leg in (self._up, self._down):
            connection = leg.connection
            if connection is not None and carried and not connection.write_closed:
                connection.reset()
            elif connection is not None:
                connection.close()
        self._finish()

    def _stop_connecting(self) -> None:
        attempt, self._attempt = self._attempt, None
        if attempt is not None:
            attempt.cancel()
        self._drop_early()

    def _drop_early(self) -> None:
        if self._early:
            self._runtime.buffered.add(-len(self._early))
            self._early = bytearray()

    def _finish(self) -> None:
        """Exactly once, as the last thing: counts, gauges, access log, owner."""
        owner, self._owner = self._owner, None
        assert owner is not None, "a connection ended twice"
        self.state = DONE
        self._count()
        info = self.info
        info.rx_bytes, info.tx_bytes = self._meter.counted[:2]
        info.end_s = self._runtime.clock.now_s()
        self._leave_endpoint()
        self._let_go()
        if self._listener.access_log is not None:
            self._listener.access_log.log(info)
        owner.on_connection_closed(self)

    def _let_go(self) -> None:
        self._idle.drop()
        self._down.drop()
        self._up.drop()

    # -- handoff: see tcp_moving --------------------------------------------------------------------------------

    def freeze(self) -> bool:
        return tcp_moving.freeze(self)

    def socks(self) -> list[socket.socket]:
        return tcp_moving.socks(self)

    def dump(self) -> dict[str, object]:
        return tcp_moving.dump(self)

    def thaw(self) -> None:
        tcp_moving.thaw(self)

    def release(self) -> None:
        tcp_moving.release(self)

    def discard(self) -> None:
        tcp_moving.release(self)

    @classmethod
    def load(
        cls,
        state: dict[str, object],
        socks: Sequence[socket.socket],
        listener: TcpListener,
        owner: DownstreamOwner,
        runtime: Runtime,
    ) -> TcpProxy:
        return tcp_moving.load(cls, state, socks, listener, owner, runtime)


def _local_text(sock: socket.socket) -> str:
    try:
        return address_text(sock.getsockname())
    except OSError:  # reset already
        return ""
