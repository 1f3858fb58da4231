"""Connections that move, for tests of a handoff: they know whose they are, and fail the test when it is nobody's."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator

from hotproxy.clock import TimerWheel
from hotproxy.restarter.frames import Channel
from hotproxy.worker.departures import Departures
from hotproxy.worker.giver import Giver
from hotproxy.worker.taker import Taker
from tests.kit.clock import FakeClock, pass_time
from tests.kit.loop import FakeLoop


class FakeMovable:
    """A connection of the old side. `state`: running, frozen, released, or ended."""

    kind = "http1"

    def __init__(self, name: str, size: int = 10, socks: int = 1, pinned: int = 0) -> None:
        self.name = name
        self.size = size
        self.state = "running"
        self.pinned = pinned  # how often it says that it can't move now
        self.pool: FakePools | None = None
        pairs = [socket.socketpair() for _ in range(socks)]
        self.ours = [pair[0] for pair in pairs]
        self.peers = [pair[1] for pair in pairs]
        for sock in self.ours:
            sock.setblocking(False)

    def freeze(self) -> bool:
        assert self.state == "running"
        if self.pinned:
            self.pinned -= 1
            return False
        self.state = "frozen"
        return True

    def dump(self) -> dict[str, object]:
        assert self.state == "frozen"
        return {"kind": self.kind, "version": 1, "name": self.name, "unsent": b"x" * self.size}

    def socks(self) -> list[socket.socket]:
        return self.ours

    def thaw(self) -> None:
        assert self.state == "frozen"
        self.state = "running"
        if self.pool is not None:
            self.pool.idle.append(self)

    def release(self) -> None:
        assert self.state == "frozen"
        self.state = "released"
        self.close()

    def close(self) -> None:
        for sock in self.ours:
            sock.close()


class FakeListener:
    """Forgets a connection that was released, as the real one does."""

    def __init__(self, movables: list[FakeMovable]) -> None:
        self.all = movables

    @property
    def connections(self) -> set[FakeMovable]:
        return {each for each in self.all if each.state in ("running", "frozen")}


class FakePools:
    """A stack: what thaws is on top again, as in the real one."""

    def __init__(self, movables: list[FakeMovable]) -> None:
        self.idle = list(movables)
        for movable in movables:
            movable.pool = self

    def freeze_idle(self, limit: int) -> list[FakeMovable]:
        taken = [self.idle.pop() for _ in range(min(limit, len(self.idle)))]
        return [each for each in taken if each.freeze()]

    @property
    def idle_count(self) -> int:
        return len(self.idle)


class FakeLoaded:
    """A connection of the new side. `state`: loaded, started, discarded."""

    def __init__(self, kind: str, listener: str, state: dict[str, object], socks: list[socket.socket]) -> None:
        self.kind, self.listener, self.socks = kind, listener, socks
        self.name = str(state["name"])
        self.state = "loaded"

    def start(self) -> None:
        assert self.state == "loaded"
        self.state = "started"

    def discard(self) -> None:
        assert self.state == "loaded"
        self.state = "discarded"
        self.close()

    def close(self) -> None:
        for sock in self.socks:
            sock.close()


class FakeArrivals:
    """`refuse`: names that it can't load."""

    def __init__(self, refuse: set[str] | None = None) -> None:
        self.refuse = refuse or set()
        self.loaded: list[FakeLoaded] = []

    def load(self, kind: str, listener: str, state: dict[str, object], socks: list[socket.socket]) -> FakeLoaded:
        if "name" not in state or state["name"] in self.refuse:
            raise ValueError("another version")
        made = FakeLoaded(kind, listener, state, socks)
        self.loaded.append(made)
        return made


class FakeOwner:
    def __init__(self) -> None:
        self.given: list[Giver] = []
        self.taken: list[Taker] = []
        self.stuck: list[Giver] = []
        self.bugs: list[tuple[str, Exception]] = []

    def on_stuck(self, giver: Giver, committed: bool) -> None:
        if committed:
            self.stuck.append(giver)

    def on_given(self, giver: Giver) -> None:
        self.given.append(giver)

    def on_taken(self, taker: Taker) -> None:
        self.taken.append(taker)

    def on_bug(self, what: str, error: Exception) -> None:
        self.bugs.append((what, error))


class TwoWorkers:
    """Giver and taker on a real channel, a loop for each, one clock. Things happen in `run` and `pass_time` only."""

    STEP_S = 5.0

    def __init__(
        self,
        movables: list[FakeMovable],
        idle: list[FakeMovable] | None = None,
        refuse: set[str] | None = None,
        share: int = 1 << 60,
    ) -> None:
        self.clock = FakeClock()
        self.wheel = TimerWheel(self.clock)
        self.old_loop, self.new_loop = FakeLoop(), FakeLoop()
        self.owner = FakeOwner()
        self.movables, self.idle = movables, idle or []
        self.departures = Departures({"web": FakeListener(movables)}, FakePools(self.idle), set(), self.owner.on_bug)  # type: ignore
        self.arrivals = FakeArrivals(refuse)
        self.old_end, self.new_end = Channel.pair()
        until_s = self.clock.now_s() + 30.0
        self.giver = Giver(
            self.old_end, 7, self.departures, share, len(self.idle), False, self.owner, self.old_loop, self.wheel,
            self.STEP_S, until_s,
        )  # fmt: skip
        self.taker = Taker(
            self.new_end, 7, self.arrivals, self.owner, self.new_loop, self.wheel, self.STEP_S, until_s + self.STEP_S
        )

    def begin(self) -> None:
        self.taker.begin()
        self.giver.begin()

    def run(self) -> None:
        """Until neither has anything to do."""
        while self.old_loop.run() + self.new_loop.run():
            pass

    def pass_time(self, seconds: float) -> None:
        pass_time(self.clock, self.wheel, seconds)

    def states(self) -> list[str]:
        return [each.state for each in (*self.movables, *self.idle)]

    def arrived(self) -> list[str]:
        return [f"{each.name} {each.state}" for each in self.arrivals.loaded]

    def close(self) -> None:
        for channel in (self.old_end, self.new_end):
            channel.close()
        for each in (*self.movables, *self.idle):
            each.close()
            for sock in each.peers:
                sock.close()
        for loaded in self.arrivals.loaded:
            loaded.close()


@contextlib.contextmanager
def two_workers(*movables: FakeMovable, **options: object) -> Iterator[TwoWorkers]:
    """Checks at the end that no descriptor was lost."""
    theirs = (*movables, *options.get("idle", ()))  # type: ignore[misc]
    before = len(os.listdir("/proc/self/fd")) - sum(len(each.ours) + len(each.peers) for each in theirs)
    made = TwoWorkers(list(movables), **options)  # type: ignore[arg-type]
    try:
        yield made
    finally:
        made.close()
    assert len(os.listdir("/proc/self/fd")) == before, "descriptors were left open"
