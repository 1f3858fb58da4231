"""A zygote's search for another supervisor: when it looks, and what becomes of what nobody has heard."""

from __future__ import annotations

import selectors
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from hotproxy.restarter.frames import Channel, Message
from hotproxy.restarter.hello import MAX_COUNT
from hotproxy.restarter.loop import Loop
from hotproxy.restarter.outbox import Outbox
from hotproxy.zygote.orphan import REFUSED_S, Supervision


class Orphan:
    """`Supervision` in a loop of which the test is the clock."""

    def __init__(self, path: Path) -> None:
        self.now_s = 100.0
        self.path = path
        self.loop = Loop(selectors.DefaultSelector(), lambda: self.now_s)
        self.heard: list[str] = []
        self.introductions = 0
        self.may_go_on = True
        ours, self.first = Channel.pair()
        self.supervision = Supervision(
            ours, path, self.loop, self.on_message, lambda error: None, lambda: self.may_go_on, self.introduce
        )

    def on_message(self, message: Message) -> None:
        self.heard.append(message.kind)

    def introduce(self, outbox: Outbox) -> None:
        self.introductions += 1
        outbox.post("INTRODUCED")

    def lose(self) -> None:
        self.first.close()
        self.loop.turn()

    def retries(self, count: int) -> list[float]:
        """After how long each of the next looks comes."""
        found = []
        for _ in range(count):
            wait_s = self.loop._timeout_s()
            assert wait_s is not None
            found.append(round(wait_s, 3))
            self.now_s += wait_s
            self.loop.turn()
        return found


@pytest.fixture
def orphan(short_path: Path) -> Iterator[Orphan]:
    made = Orphan(short_path / "s")
    yield made
    made.supervision.channel.close()
    made.loop.close()


@pytest.fixture
def supervisor(short_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.bind(str(short_path / "s"))
        yield sock


def test_one_that_listens_already_is_found_at_once(orphan: Orphan, supervisor: socket.socket) -> None:
    supervisor.listen()
    orphan.lose()
    assert orphan.introductions == 1 and not orphan.supervision.attached
    channel = Channel(supervisor.accept()[0])
    message = channel.receive()
    assert message is not None and message.kind == "INTRODUCED"
    channel.send("ATTACHED", {"ok": True, "why": ""})
    orphan.loop.turn()
    assert orphan.heard == ["ATTACHED"]
    assert orphan.supervision.on_attached(True, "") and orphan.supervision.attached
    channel.close()


def test_it_looks_ever_more_patiently(orphan: Orphan, supervisor: socket.socket) -> None:
    orphan.lose()
    assert orphan.retries(6) == [0.01, 0.02, 0.04, 0.08, 0.1, 0.1]
    supervisor.listen()
    assert orphan.introductions == 0
    orphan.retries(1)
    assert orphan.introductions == 1


def test_one_that_says_no_is_asked_again_later(orphan: Orphan, supervisor: socket.socket) -> None:
    """It was asked again at once, and said no again, as fast as both could."""
    supervisor.listen()
    orphan.lose()
    for number in (1, 2):
        assert not orphan.supervision.on_attached(False, "another protocol")
        assert orphan.introductions == number and not orphan.supervision.attached
        assert orphan.retries(1) == [REFUSED_S]
        assert orphan.introductions == number + 1


def test_another_one_that_dies_before_it_answers_is_looked_for_again(orphan: Orphan, supervisor: socket.socket) -> None:
    supervisor.listen()
    orphan.lose()
    supervisor.accept()[0].close()
    orphan.loop.turn()
    assert orphan.introductions == 2


def test_who_may_not_go_on_looks_for_nobody(orphan: Orphan, supervisor: socket.socket) -> None:
    supervisor.listen()
    orphan.may_go_on = False
    orphan.lose()
    assert orphan.introductions == 0
    assert orphan.loop._timeout_s() is None


def test_sums_of_what_moved_unheard_are_told_once(orphan: Orphan) -> None:
    untold = orphan.supervision.untold
    untold.add_move({"moved": 3, "refused": 1})
    untold.add_move({"moved": 4, "refused": 0})
    untold.add_move({"moved": -1, "refused": 1 << 40})
    untold.add_move({"moved": MAX_COUNT, "refused": 0})
    assert (untold.moved, untold.refused) == (MAX_COUNT, 1)
    untold.deaths.append({"serial": 1})
    untold.told()
    assert (untold.moved, untold.refused, len(untold.deaths)) == (0, 0, 1)
