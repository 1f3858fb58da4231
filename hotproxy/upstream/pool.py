"""Keep-alive connections to the endpoints, by cluster and endpoint, of one worker.

Idle connections are a stack: the one used last is the least likely to have been closed by the origin meanwhile, and
those that a burst has opened sink to the bottom and time out. They are watched while they are idle, so that most dead
ones are gone before anybody takes them.

A connection that began with a PROXY header is its client's for ever: `preface` is that header, b"" for all others. Such
connections are taken by the same client only, and closed when it leaves (Envoy has a pool for each client's address).
"""

from __future__ import annotations

import socket
from typing import Protocol

from hotproxy.errors import CONNECT_TIMEOUT, LOCAL_CONNECT_FAILURE, Reason
from hotproxy.net.tls_loop import TlsLoop
from hotproxy.upstream.cluster import Cluster
from hotproxy.upstream.connect import ConnectAttempt, ConnectOwner
from hotproxy.upstream.endpoint import Endpoint
from hotproxy.upstream.moving import IdleRuntime, IdleUpstream, load_idle
from hotproxy.upstream.tls_connect import Connecting, Connector, TlsConnect
from hotproxy.upstream.upstream_connection import PoolRuntime, UpstreamConnection, UpstreamUser


class PoolUser(UpstreamUser, Protocol):
    """Whoever wants a connection, and then has it."""

    def on_pool_ready(self, upstream: UpstreamConnection) -> None:
        """The connect has come about; `upstream.user` is set."""

    def on_pool_failure(self, reason: Reason, error: str) -> None:
        """It has not; counted already."""


class PoolConnect:
    """One connection on its way into being, for one user."""

    __slots__ = ("_attempt", "_cluster", "_endpoint", "_pools", "_preface", "_runtime", "_user")

    def __init__(
        self, cluster: Cluster, endpoint: Endpoint, user: PoolUser, pools: Pools, runtime: PoolRuntime, preface: bytes
    ) -> None:
        self._cluster = cluster
        self._endpoint = endpoint
        self._user: PoolUser | None = user
        self._pools = pools
        self._runtime = runtime
        self._preface = preface
        self._attempt = pools.attempt(cluster, endpoint, self, runtime, preface)

    def start(self) -> None:
        stats = self._cluster.stats
        stats.upstream_cx_total.inc()
        stats.upstream_cx_active.add(1)
        stats.upstream_rq_pending_total.inc()
        stats.upstream_rq_pending_active.add(1)
        self._attempt.start()

    def cancel(self) -> None:
        """The user no longer wants it and hears nothing more."""
        if self._user is not None:
            self._attempt.cancel()
            self._over()
            self._cluster.stats.upstream_cx_active.add(-1)
            self._cluster.stats.upstream_cx_destroy.inc()

    def freeze(self) -> None:
        self._attempt.freeze()

    def thaw(self) -> None:
        self._attempt.thaw()

    def on_connected(self, sock: socket.socket, secure: TlsLoop | None = None) -> None:
        user = self._over()
        upstream = UpstreamConnection(sock, self._cluster, self._endpoint, user, self._pools, self._runtime, secure)
        upstream.connection.start()
        upstream.preface = self._preface
        try:
            user.on_pool_ready(upstream)
        except Exception:
            user.on_internal_error()
            raise

    def on_connect_failed(self, reason: Reason, error: str) -> None:
        user = self._over()
        stats = self._cluster.stats
        stats.upstream_cx_active.add(-1)
        stats.upstream_cx_destroy.inc()
        stats.upstream_cx_connect_fail.inc()
        if reason is CONNECT_TIMEOUT:  # Envoy counts a timeout as both
            stats.upstream_cx_connect_timeout.inc()
        elif reason is LOCAL_CONNECT_FAILURE:
            stats.upstream_cx_connect_local_fail.inc()
        try:
            user.on_pool_failure(reason, error)
        except Exception:
            user.on_internal_error()
            raise

    def _over(self) -> PoolUser:
        user, self._user = self._user, None
        assert user is not None, "a connect attempt reported twice"
        self._cluster.stats.upstream_rq_pending_active.add(-1)
        return user


class Pools:
    """All keep-alive connections of a worker. They outlive a snapshot: clusters and endpoints are found by name."""

    __slots__ = ("_announcing", "_clients", "_draining", "_idle", "connector")

    def __init__(self, connector: Connector = ConnectAttempt) -> None:
        self.connector = connector
        self._idle: dict[tuple[str, str, bytes], list[UpstreamConnection]] = {}
        self._clients: dict[bytes, set[tuple[str, str, bytes]]] = {}  # by preface: where there are idle ones
        self._announcing: dict[str, Cluster] = {}  # those of which there are such, or were
        self._draining = False

    def take(
        self, cluster: Cluster, endpoint: Endpoint, user: PoolUser, preface: bytes = b""
    ) -> UpstreamConnection | None:
        """An idle connection, or None: connect.

        Each is looked at once more (one system call): what the loop has not told us yet may be its end, or bytes that
        nobody has asked for, which would be taken for the answer to this request.
        """
        idle = self._idle.get((cluster.name, endpoint.name, preface))
        while idle:
            upstream = idle.pop()
            if not upstream.connection.is_quiet:
                upstream.close()
                continue
            upstream.cluster = cluster  # of the snapshot that the user has
            upstream.endpoint = endpoint
            upstream.taken(user)
            return upstream
        return None

    def attempt(
        self, cluster: Cluster, endpoint: Endpoint, owner: ConnectOwner, runtime: PoolRuntime, preface: bytes = b""
    ) -> Connecting:
        """A connect, with its handshake if the cluster has TLS. `preface` comes before all else, in plain text."""
        timeout_s = cluster.connect_timeout_s
        if cluster.tls is None:
            return self.connector(endpoint, timeout_s, owner, runtime, preface)
        return TlsConnect(cluster.tls, endpoint, timeout_s, owner, runtime, self.connector, preface)

    def connect(
        self, cluster: Cluster, endpoint: Endpoint, user: PoolUser, runtime: PoolRuntime, preface: bytes = b""
    ) -> PoolConnect:
        """A new connection; `start()` it. The user is called later, never from inside."""
        return PoolConnect(cluster, endpoint, user, self, runtime, preface)

    def keep(self, upstream: UpstreamConnection) -> bool:
        """Put it on top of its stack; False: this worker leaves and keeps nothing any more."""
        if self._draining:
            return False
        key = (upstream.cluster.name, upstream.endpoint.name, upstream.preface)
        self._idle.setdefault(key, []).append(upstream)
        if upstream.preface:
            self._clients.setdefault(upstream.preface, set()).add(key)
            self._announcing[upstream.cluster.name] = upstream.cluster
        return True

    def forget(self, upstream: UpstreamConnection) -> None:
        """It is closed; it may or may not have been idle."""
        idle = self._idle.get((upstream.cluster.name, upstream.endpoint.name, upstream.preface))
        if idle is not None and upstream in idle:
            idle.remove(upstream)

    @property
    def has_clients(self) -> bool:
        """Does anything idle belong to one client alone?"""
        return bool(self._clients)

    def leave(self, remote: str, local: str, tlvs: bytes) -> None:
        """The client with these ends, of whom a proxy has said this, is gone: close what was its own."""
        for cluster in self._announcing.values():
            for key in self._clients.pop(cluster.preface(remote, local, tlvs), ()):
                for upstream in self._idle.pop(key):
                    upstream.close()

    def drain(self) -> None:
        """Close what is idle, and everything else when its exchange is over."""
        self._draining = True
        for idle in list(self._idle.values()):
            while idle:
                idle.pop().close()
        self._clients.clear()

    # -- handoff

    def freeze_idle(self, limit: int) -> list[IdleUpstream]:
        """Take up to `limit` idle connections out, frozen: each must be thawed or released.

        The ones used last first, of each endpoint. In the order in which `load_idle` and `start` must see them, so that
        the stacks over there are in the same order.
        """
        taken: list[IdleUpstream] = []
        for idle in self._idle.values():
            room = limit - len(taken)
            if room <= 0:
                break
            moving, idle[-room:] = idle[-room:], []
            for upstream in moving:
                if upstream.freeze():
                    taken.append(IdleUpstream(upstream, self))
                else:  # broken in this very turn
                    idle.append(upstream)
        return taken

    def load_idle(self, state: object, sock: socket.socket, runtime: IdleRuntime) -> IdleUpstream:
        """A connection that another process has dumped: counted as active, in no stack before it is started.

        ValueError for a version or shape that this code does not know, and for an endpoint that the config no longer
        has; nothing is counted then, and the descriptor is the caller's.
        """
        return load_idle(state, sock, self, runtime)

    @property
    def idle_count(self) -> int:
        return sum(len(idle) for idle in self._idle.values())
