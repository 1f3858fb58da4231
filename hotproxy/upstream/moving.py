"""Idle connections to endpoints that move to another process: out of one pool, into another.

    old side   idle --Pools.freeze_idle()--> frozen, in no pool --dump(), socks()--> sent --release()--> gone
                ^------------------------- thaw() ---------------------------------/
    new side   Pools.load_idle() --> loaded, in no pool --start()--> idle
                                                         \\--discard()--> gone

The same names as of a `DownstreamConnection`, so that whoever moves connections need not tell them apart.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from typing import Final, Protocol

from hotproxy.saved import saved_text, saved_version
from hotproxy.upstream.cluster import Cluster
from hotproxy.upstream.upstream_connection import Keeper, PoolRuntime, UpstreamConnection, read_upstream

KIND: Final = "http1_idle"
DUMP_VERSION: Final = 2
_KEYS: Final = frozenset(("kind", "version", "cluster", "upstream"))
# The upstream connection has a version of its own; that of this record says which one an older reader would find.
_SHAPES: Final = {1: _KEYS, DUMP_VERSION: _KEYS}


class Clusters(Protocol):
    """What is needed of a `Snapshot`."""

    @property
    def clusters(self) -> Mapping[str, Cluster]: ...


class IdleRuntime(PoolRuntime, Protocol):
    """What is needed of the worker's `Runtime`."""

    @property
    def snapshot(self) -> Clusters: ...


class IdleUpstream:
    """One idle connection between two pools. Reading is off: what the endpoint does meanwhile is seen afterwards."""

    __slots__ = ("_keeper", "_upstream")

    kind: Final = "http1_idle"

    def __init__(self, upstream: UpstreamConnection, keeper: Keeper) -> None:
        self._upstream = upstream
        self._keeper = keeper

    def freeze(self) -> bool:
        """It is, since `Pools.freeze_idle`."""
        return True

    def dump(self) -> dict[str, object]:
        """As msgpack values, without the descriptor."""
        return {
            "kind": KIND,
            "version": DUMP_VERSION,
            "cluster": self._upstream.cluster.name,
            "upstream": self._upstream.dump(),
        }

    def socks(self) -> list[socket.socket]:
        return [self._upstream.connection.sock]

    def thaw(self) -> None:
        """Into the pool, with the idle timeout of before; closed if its worker keeps nothing any more."""
        if not self._keeper.keep(self._upstream):
            self._upstream.close()
            return
        self._upstream.thaw()

    def start(self) -> None:
        """As `thaw`, for one that was loaded."""
        self._upstream.endpoint.options.apply_again(self._upstream.connection.sock)
        self.thaw()

    def release(self) -> None:
        """The move is committed: it lives on in another process."""
        self._upstream.leave()

    def discard(self) -> None:
        """Undo `load_idle`, before `start`."""
        self._upstream.leave()


def load_idle(state: object, sock: socket.socket, keeper: Keeper, runtime: IdleRuntime) -> IdleUpstream:
    """See `Pools.load_idle`."""
    record = saved_version(state, KIND, _SHAPES)
    name = saved_text(record, "cluster")
    cluster = runtime.snapshot.clusters.get(name)
    if cluster is None:
        raise ValueError(f"the cluster {name} is no longer there")
    upstream = read_upstream(record["upstream"], cluster)
    if upstream.endpoint not in cluster.endpoints:
        raise ValueError(f"the cluster {name} no longer has the endpoint {upstream.endpoint.name}")
    connection = upstream.connection
    at_rest = upstream.codec.between_messages and upstream.codec.reusable and upstream.reused
    if not at_rest or upstream.raw or upstream.responded or connection["read_closed"] or connection["write_closed"]:
        raise ValueError("a connection that is not idle")
    if connection["pending"] or upstream.sent_before != connection["tx"]:
        raise ValueError("an idle connection with bytes to send")
    return IdleUpstream(UpstreamConnection.load(upstream, sock, cluster, None, keeper, runtime), keeper)
