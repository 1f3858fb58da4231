"""Files that change while a worker serves: when they are looked at, and what is said."""

from __future__ import annotations

from hotproxy.config.certificate import CertificateError, Identity
from hotproxy.worker.certificates import LOOK_S, Certificates
from tests.kit.clock import FakeClock


class Side:
    def __init__(self) -> None:
        self.loaded = self.now = 1
        self.broken = False
        self.loads = self.uses = 0

    @property
    def changed(self) -> bool:
        return self.now != self.loaded

    def identities(self) -> list[Identity | None]:
        return [(self.now, 0, 0, 0)]

    def reload(self) -> None:
        self.loaded = self.now
        if self.broken:
            raise CertificateError("'a.key' is not the key of 'a.pem'")
        self.loads += 1

    def use_tickets(self) -> None:
        self.uses += 1


class Keys:
    turns = False

    def advance(self, wall_s: float) -> bool:
        return self.turns


class Bench:
    def __init__(self) -> None:
        self.clock = FakeClock()
        self.web, self.api = Side(), Side()
        self.said: list[str] = []
        self.complained: list[str] = []
        self.keys = Keys()
        sides = [("listener 'web'", self.web), ("cluster 'api'", self.api)]
        self.certificates = Certificates(
            sides, self.clock, self.said.append, self.complained.append, self.keys, [self.web]
        )

    def look(self, times: int = 1) -> None:
        for _ in range(times):
            self.clock.advance(LOOK_S)
            self.certificates.tick()


def test_a_change_that_stays_is_loaded() -> None:
    bench = Bench()
    bench.web.now = 2
    bench.look()
    assert bench.web.loads == 0  # its key may be on its way
    bench.look()
    assert (bench.web.loads, bench.api.loads) == (1, 0)
    assert bench.said == ["listener 'web': certificates were loaded anew"]
    bench.look(5)
    assert bench.web.loads == 1


def test_what_still_changes_is_waited_for() -> None:
    bench = Bench()
    for now in range(2, 6):
        bench.web.now = now
        bench.look()
    assert bench.web.loads == 0
    bench.look()
    assert bench.web.loads == 1


def test_a_change_that_was_undone_is_none() -> None:
    bench = Bench()
    bench.web.now = 2
    bench.look()
    bench.web.now = 1
    bench.look(3)
    assert bench.web.loads == 0


def test_what_is_broken_is_told_once() -> None:
    bench = Bench()
    bench.api.broken, bench.api.now = True, 2
    bench.look(5)
    assert bench.complained == [
        "cluster 'api': 'a.key' is not the key of 'a.pem'; the certificates of before stay in use"
    ]
    bench.api.broken, bench.api.now = False, 3
    bench.look(2)
    assert bench.said == ["cluster 'api': certificates were loaded anew"]


def test_between_two_looks_nothing_is_done() -> None:
    bench = Bench()
    bench.web.now = 2
    for _ in range(19):
        bench.clock.advance(LOOK_S / 20)
        bench.certificates.tick()
    assert bench.web.loads == 0


def test_ticket_keys_are_turned() -> None:
    bench = Bench()
    bench.look()
    assert bench.web.uses == 0
    bench.keys.turns = True
    bench.look()
    assert (bench.web.uses, bench.api.uses) == (1, 0)


def test_who_is_forked_late_catches_up_at_once() -> None:
    bench = Bench()
    bench.web.now = 2
    bench.certificates.catch_up()
    assert (bench.web.loads, bench.api.loads) == (1, 0)
    bench.web.now, bench.web.broken = 3, True
    bench.certificates.catch_up()
    assert bench.complained == [
        "listener 'web': 'a.key' is not the key of 'a.pem'; the certificates of before stay in use"
    ]
    bench.look(3)
    assert len(bench.complained) == 1
