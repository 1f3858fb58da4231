"""What is heard at one end of a handoff's channel: everything, in order, until it is closed; and silence."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from hotproxy.clock import TimerWheel
from hotproxy.restarter.frames import Channel, Message
from hotproxy.worker.channel_end import ChannelEnd
from tests.kit.clock import FakeClock, pass_time
from tests.kit.loop import FakeLoop


class Partner:
    """Writes down what it hears; closes the end at what is in `enough`."""

    def __init__(self, channel: Channel) -> None:
        self.clock = FakeClock()
        self.wheel = TimerWheel(self.clock)
        self.loop = FakeLoop()
        self.heard: list[str] = []
        self.enough = {"gone"}
        self.end = ChannelEnd(channel, self, self.loop, self.wheel)
        self.end.begin()

    def on_message(self, message: Message) -> None:
        self.hear(message.kind)

    def on_nonsense(self, why: str) -> None:
        self.hear("nonsense")

    def on_gone(self) -> None:
        self.hear("gone")

    def on_silence(self) -> None:
        self.hear("silence")

    def hear(self, what: str) -> None:
        self.heard.append(what)
        if what in self.enough:
            self.end.close()


@pytest.fixture
def pair() -> Iterator[tuple[Partner, Channel]]:
    ours, theirs = Channel.pair()
    partner = Partner(ours)
    yield partner, theirs
    assert not (partner.end.open and "gone" in partner.heard)
    if partner.end.open:
        partner.end.close()
    assert not partner.loop.readers
    theirs.close()


def test_everything_is_heard_up_to_the_end_behind_it(pair: tuple[Partner, Channel]) -> None:
    partner, other = pair
    other.send("TAKEN", {"wave": 1})
    other.sock.send(b"nonsense")
    other.send("COMMITTED", {"wave": 1})
    other.close()
    partner.loop.turn()
    assert partner.heard == ["TAKEN", "nonsense", "COMMITTED", "gone"]


def test_nothing_is_heard_behind_a_close(pair: tuple[Partner, Channel]) -> None:
    partner, other = pair
    partner.enough.add("nonsense")
    other.sock.send(b"nonsense")
    other.send("TAKEN", {"wave": 1})
    partner.loop.turn()
    assert partner.heard == ["nonsense"]


def test_descriptors_that_nobody_wants_are_closed(pair: tuple[Partner, Channel]) -> None:
    partner, other = pair
    before = len(os.listdir("/proc/self/fd"))
    other.send("TAKEN", {"wave": 1}, [other.fileno()] * 3)
    partner.loop.turn()
    assert len(os.listdir("/proc/self/fd")) == before


def test_silence_is_heard_once_and_in_time(pair: tuple[Partner, Channel]) -> None:
    partner, _ = pair
    partner.end.wait(8.0)
    pass_time(partner.clock, partner.wheel, 7.8)
    assert partner.heard == []
    pass_time(partner.clock, partner.wheel, 0.2)
    pass_time(partner.clock, partner.wheel, 20.0)
    assert partner.heard == ["silence"]


def test_who_has_slept_waits_a_quarter_of_the_time_when_it_wakes(pair: tuple[Partner, Channel]) -> None:
    partner, other = pair
    partner.end.wait(8.0)
    partner.clock.advance(3600.0)
    partner.wheel.advance()
    pass_time(partner.clock, partner.wheel, 1.8)
    assert partner.heard == []
    other.send("TAKEN", {"wave": 1})
    partner.loop.turn()
    pass_time(partner.clock, partner.wheel, 0.2)
    assert partner.heard == ["TAKEN", "silence"], "an answer that is not waited for changes no deadline"


def test_an_answer_that_has_come_is_no_silence(pair: tuple[Partner, Channel]) -> None:
    partner, other = pair
    partner.enough.add("TAKEN")
    partner.end.wait_until(partner.clock.now_s() + 1.0)
    other.send("TAKEN", {"wave": 1})
    pass_time(partner.clock, partner.wheel, 5.0)
    assert partner.heard == ["TAKEN"]


def test_an_order_s_deadline_has_one_part(pair: tuple[Partner, Channel]) -> None:
    partner, _ = pair
    partner.end.wait(8.0)
    partner.end.wait_until(partner.clock.now_s() + 1.0)
    partner.clock.advance(3600.0)
    partner.wheel.advance()
    assert partner.heard == ["silence"]
