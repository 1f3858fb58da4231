"""A playbook's connections on their way from one process to another, step by step, with everything checked at each.

    freeze -> dump -> load -> commit: release, start        roll back: discard, thaw

What is true at each step: nothing is on the wire, no descriptor is watched by whoever is not allowed to, no counter
moves, and the gauges of both sides together are what they were.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgpack

from hotproxy.proxy.filter_chain import DownstreamConnection
from hotproxy.proxy.http_terminal import HttpTerminal

if TYPE_CHECKING:
    from hotproxy.upstream.moving import IdleUpstream
    from tests.kit.playbook import Playbook, Worker

# What a connect that is under way counts: it ends here, and is begun anew there.
CONNECTING = ("cluster.api.upstream_cx_active", "cluster.api.upstream_rq_pending_active", "active")


class Handoff:
    """Frozen as soon as it is made: the client's connection, with what hangs on it, and the idle ones of the pool."""

    def __init__(self, play: Playbook) -> None:
        self.play = play
        self.old = play.worker
        self.before = self.old.gauges()
        self.counters = self.old.counters()
        self.said = list(play.received)
        assert play.manager.freeze(), "it cannot move now"
        assert not play.manager.freeze(), "it is frozen already"
        self.idle = self.old.pools.freeze_idle(1000)
        assert self.old.pools.idle_count == 0
        self._check_nothing_happened()
        self.state, self.idle_states = self._dump()
        # What was sent since the last time is counted now.
        for name, value in self.old.counters().items():
            assert value == self.counters.get(name, 0) or name.endswith("tx_bytes_total"), name
        self.counters = self.old.counters()

    def _dump(self) -> tuple[dict[str, Any], list[Any]]:
        return _packed(self.play.manager.dump()), [_packed(upstream.dump()) for upstream in self.idle]

    def _check_nothing_happened(self) -> None:
        self.old.loop.run()
        self.old.wheel.advance()
        assert not self.old.loop.readers and not self.old.loop.writers, "a frozen descriptor is watched"
        assert self.old.gauges() == self.before
        assert self.old.counters() == self.counters
        assert self.play.received == self.said

    def load(self) -> tuple[Worker, DownstreamConnection, list[IdleUpstream]]:
        """Into a new process, which has its own descriptors."""
        play, new = self.play, self.play.new_worker()
        socks: Any = play.dup(play.manager.socks())  # type: ignore[arg-type]
        try:
            manager = HttpTerminal().load(self.state, socks, new.listener, play, new.runtime)
        except ValueError:
            for sock in socks:
                sock.close()
            raise
        idle = self.load_idle(new)
        assert not manager.freeze(), "it is not started yet"
        new.loop.run()
        assert not new.loop.readers and not new.loop.writers, "a loaded descriptor is watched before it is started"
        assert new.counters() == {}
        connecting = dict.fromkeys(CONNECTING, self.connecting) if self.connecting else {}
        assert add(new.gauges(), connecting) == self.before
        self._check_nothing_happened()
        return new, manager, idle

    def load_idle(self, new: Worker) -> list[IdleUpstream]:
        """The connections of the pool into that of another process."""
        loaded = []
        for upstream, state in zip(self.idle, self.idle_states, strict=True):
            (sock,) = self.play.dup(upstream.socks())  # type: ignore[arg-type]
            loaded.append(new.pools.load_idle(state, sock, new.runtime))  # type: ignore[arg-type]
        return loaded

    @property
    def connecting(self) -> int:
        """How many streams wait for a connection."""
        streams = [lane["stream"] for lane in self.state["lanes"]] if "lanes" in self.state else [self.state["stream"]]
        return len([stream for stream in streams if stream and stream["router"]["upstream"] is None])

    def commit(self) -> None:
        new, manager, idle = self.load()
        old_manager = self.play.manager
        for upstream in self.idle:
            upstream.release()
        old_manager.release()
        assert self.play.moved.pop() is old_manager and not self.play.moved
        assert self.old.gauges() == {}
        ended = {"cluster.api.upstream_cx_destroy": self.connecting} if self.connecting else {}
        assert self.old.counters() == add(self.counters, ended)
        assert self.play.received == self.said
        self.play.move_to(new, manager)  # type: ignore[arg-type]
        for upstream in idle:
            upstream.start()
        manager.start()
        assert new.gauges() == self.before
        assert self.play.received == self.said

    def roll_back(self) -> None:
        new, manager, idle = self.load()
        for upstream in idle:
            upstream.discard()
        manager.discard()
        assert self.play.moved.pop() is manager and not self.play.moved
        assert new.gauges() == {} and new.counters() == {}
        self._check_nothing_happened()
        for fd, sock in list(self.play.sockets.items()):
            if sock.closed and sock.peer.copies:
                del self.play.sockets[fd]
        for upstream in self.idle:
            upstream.thaw()
        self.play.manager.thaw()
        if self.play.closed:  # by whoever wanted that meanwhile
            return
        assert self.old.gauges() == self.before
        assert self.old.counters() == self.counters
        assert self.play.received == self.said
        assert self._dump() == (self.state, self.idle_states)


def add(one: dict[str, int], other: dict[str, int]) -> dict[str, int]:
    return {name: one.get(name, 0) + other.get(name, 0) for name in one.keys() | other.keys()}


def _packed(state: dict[str, object]) -> Any:
    return msgpack.unpackb(msgpack.packb(state))
