"""The end of a worker: who is told what, and when it is over."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from hotproxy.config.model import DEFAULT_ORPHAN_TIMEOUT_S
from hotproxy.errors import DRAIN_DEADLINE
from hotproxy.worker.drain import Drain
from tests.kit.clock import FakeClock


class Parts:
    """As `build.Parts`, with one listener that holds `open` connections and writes down what it is asked."""

    def __init__(self, open_: int) -> None:
        self.asked: list[object] = []
        self.watched = 1  # the channel
        self.admission = SimpleNamespace(open=open_)
        pools = SimpleNamespace(drain=lambda: self.asked.append("pools"))
        self.runtime = SimpleNamespace(draining=False, snapshot=SimpleNamespace(pools=pools))
        self.listeners = {"web": self}

    def shut_all(self, stored: bool) -> None:
        self.asked.append("shut")

    def leave(self) -> None:
        self.asked.append("leave")

    def drain(self) -> None:
        self.asked.append("drain")

    def close_connections(self, reason: object) -> None:
        self.asked.append(reason)
        self.admission.open = 0


@pytest.fixture
def clock():
    return FakeClock()


def test_the_last_connection_ends_it(clock):
    parts = Parts(1)
    drain = Drain(parts, parts, clock, 30.0)
    assert not drain.over
    drain.begin(clock.now_s() + 10)
    assert parts.runtime.draining
    assert parts.asked == ["leave", "pools", "drain"]
    drain.tick()
    assert not drain.over
    parts.admission.open = 0
    assert drain.over


def test_a_worker_without_connections_is_over_at_once(clock):
    parts = Parts(0)
    drain = Drain(parts, parts, clock, 30.0)
    assert not drain.over
    drain.begin(clock.now_s() + 10)
    assert drain.over


def test_what_is_flushed_or_lingers_is_waited_for_until_the_deadline(clock):
    """The last answers of a generation were cut off: their connections had left the listener, and it exited."""
    for until_deadline in (False, True):
        parts = Parts(0)
        parts.watched = 3
        drain = Drain(parts, parts, clock, 30.0)
        drain.begin(clock.now_s() + 10)
        drain.tick()
        assert not drain.over
        if until_deadline:
            clock.advance(10)
            drain.tick()
        else:
            parts.watched = 1
        assert drain.over


def test_an_orphan_waits_for_its_last_lingering_connection(clock):
    """It has no channel any more, and took the one descriptor still watched for it: the last answer was cut off."""
    parts = Parts(0)
    drain = Drain(parts, parts, clock, 30.0)
    drain.begin(clock.now_s() + 10)
    drain.orphaned()
    parts.watched = 1
    assert not drain.over
    parts.watched = 0
    assert drain.over


@pytest.mark.parametrize("again_s", [None, 20.0, 10.0])
def test_the_earliest_deadline_cuts_the_rest(clock, again_s):
    parts = Parts(3)
    drain = Drain(parts, parts, clock, 30.0)
    start_s = clock.now_s()
    drain.begin(start_s + 10)
    if again_s is not None:
        drain.begin(start_s + again_s)
    clock.advance(9.9)
    drain.tick()
    assert not drain.over
    clock.advance(0.2)
    drain.tick()
    drain.tick()
    assert parts.asked == ["leave", "pools", "drain", DRAIN_DEADLINE]
    assert drain.over


def test_a_soft_drain_is_only_said_and_can_be_undone(clock):
    parts = Parts(3)
    drain = Drain(parts, parts, clock, 30.0)
    drain.soft()
    assert parts.runtime.draining
    drain.undo()
    assert not parts.runtime.draining
    assert parts.asked == []
    drain.begin(clock.now_s() + 10)
    drain.undo()
    assert parts.runtime.draining


def test_an_orphan_serves_for_a_minute_then_drains(clock):
    parts = Parts(3)
    drain = Drain(parts, parts, clock, 30.0)
    drain.orphaned()
    clock.advance(DEFAULT_ORPHAN_TIMEOUT_S - 0.1)
    drain.tick()
    assert parts.asked == []
    clock.advance(0.1)
    drain.tick()
    assert parts.asked == ["shut", "leave", "pools", "drain"]  # nobody else holds its sockets: their queues come first
    clock.advance(30.0)
    drain.tick()
    assert drain.over


def test_an_orphan_with_no_limit_waits_for_its_last_connection(clock):
    parts = Parts(1)
    drain = Drain(parts, parts, clock, 0.0)
    drain.orphaned()
    parts.watched = 0  # the channel is gone
    clock.advance(DEFAULT_ORPHAN_TIMEOUT_S)
    drain.tick()
    clock.advance(1e6)
    drain.tick()
    assert not drain.over
    parts.admission.open = 0
    assert drain.over
