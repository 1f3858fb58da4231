"""The timer wheel against its one sentence: at most one tick late, never early, whatever was re-armed meanwhile."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hotproxy.clock import BUCKETS, TICK_S, Timer, TimerWheel
from tests.kit.clock import FakeClock


class Recorder:
    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.fired: list[tuple[str, float]] = []

    def on_timeout(self, timer: Timer) -> None:
        self.fired.append((timer.kind, self.clock.now_s()))


def turn(clock: FakeClock, wheel: TimerWheel, seconds: float) -> None:
    for _ in range(round(seconds / TICK_S)):
        clock.advance(TICK_S)
        wheel.advance()


def test_a_timer_fires_once_within_a_tick_of_its_deadline() -> None:
    clock = FakeClock()
    wheel, owner = TimerWheel(clock), Recorder(clock)
    began_s = clock.now_s()
    wheel.arm(Timer(owner, "idle"), 1.0)
    turn(clock, wheel, 3)
    assert len(owner.fired) == 1
    kind, at_s = owner.fired[0]
    assert kind == "idle"
    assert 1.0 <= at_s - began_s <= 1.0 + 2 * TICK_S


def test_rearming_later_costs_no_early_fire_and_rearming_sooner_is_kept() -> None:
    clock = FakeClock()
    wheel, owner = TimerWheel(clock), Recorder(clock)
    began_s = clock.now_s()
    later, sooner = Timer(owner, "later"), Timer(owner, "sooner")
    wheel.arm(later, 1.0)
    wheel.arm(sooner, 60.0)
    turn(clock, wheel, 0.5)
    wheel.arm(later, 2.0)
    wheel.arm(sooner, 0.2)
    turn(clock, wheel, 80)
    assert [kind for kind, _ in owner.fired] == ["sooner", "later"]
    assert 0.7 <= owner.fired[0][1] - began_s <= 0.7 + 3 * TICK_S
    assert 2.5 <= owner.fired[1][1] - began_s <= 2.5 + 3 * TICK_S


def test_zero_means_no_limit_and_disarmed_or_dropped_timers_are_silent() -> None:
    clock = FakeClock()
    wheel, owner = TimerWheel(clock), Recorder(clock)
    timers = [Timer(owner, kind) for kind in ("zero", "disarmed", "dropped")]
    for timer in timers:
        wheel.arm(timer, 1.0)
    wheel.arm(timers[0], 0.0)
    timers[1].disarm()
    timers[2].drop()
    turn(clock, wheel, 60)
    assert owner.fired == []


def test_a_pause_longer_than_a_turn_of_the_wheel_fires_everything_that_is_due() -> None:
    clock = FakeClock()
    wheel, owner = TimerWheel(clock), Recorder(clock)
    for number in range(100):
        wheel.arm(Timer(owner, str(number)), 0.1 + number)
    clock.advance(3 * BUCKETS * TICK_S + 100)
    wheel.advance()
    assert {kind for kind, _ in owner.fired} == {str(number) for number in range(100)}


@given(st.lists(st.tuples(st.integers(0, 4), st.floats(0.0, 70.0), st.floats(0.0, 20.0)), max_size=40))
def test_whatever_is_armed_and_rearmed_fires_on_time(script: list[tuple[int, float, float]]) -> None:
    """Each step: (re-)arm timer i with a delay, then let time pass. The oracle is the last deadline of each timer."""
    clock = FakeClock()
    wheel, owner = TimerWheel(clock), Recorder(clock)
    timers = [Timer(owner, str(number)) for number in range(5)]
    deadlines: dict[str, float] = {}
    for number, delay_s, pause_s in script:
        wheel.arm(timers[number], delay_s)
        deadlines[str(number)] = clock.now_s() + delay_s if delay_s > 0 else 0.0
        for _ in range(round(pause_s / TICK_S)):
            clock.advance(TICK_S)
            wheel.advance()
            for kind, at_s in owner.fired:
                assert 0.0 < deadlines[kind] <= at_s <= deadlines[kind] + 2 * TICK_S + 1e-6
                deadlines[kind] = 0.0
            owner.fired.clear()
            assert all(not at_s or at_s > clock.now_s() - 2 * TICK_S - 1e-6 for at_s in deadlines.values())


def test_an_owner_that_raises_takes_no_other_timer_with_it() -> None:
    """One bug in one on_timeout emptied the bucket: hundreds of idle timeouts never came."""
    clock = FakeClock()
    wheel = TimerWheel(clock)
    fired: list[str] = []

    class Owner:
        def on_timeout(self, timer: Timer) -> None:
            fired.append(timer.kind)
            if timer.kind == "bug":
                raise RuntimeError

    for kind in ("one", "bug", "two"):
        wheel.arm(Timer(Owner(), kind), 1.0)
    clock.advance(1.2)
    with pytest.raises(RuntimeError):
        wheel.advance()
    for _ in range(2 * BUCKETS):
        clock.advance(TICK_S)
        wheel.advance()
    assert fired == ["one", "bug", "two"]


@pytest.mark.parametrize("pause_s", [0.5, 5.0, 3 * BUCKETS * TICK_S])
def test_a_suspended_timer_keeps_its_deadline(pause_s: float) -> None:
    clock = FakeClock()
    wheel, owner = TimerWheel(clock), Recorder(clock)
    began_s = clock.now_s()
    timer, unarmed = Timer(owner, "suspended"), Timer(owner, "unarmed")
    wheel.arm(timer, 2.0)
    for each in (timer, unarmed):
        each.suspend()
    turn(clock, wheel, pause_s)
    assert owner.fired == [] and timer.deadline_s == began_s + 2.0
    resumed_s = clock.now_s()
    for each in (timer, unarmed):
        wheel.resume(each, owner)
    turn(clock, wheel, 5)
    ((kind, at_s),) = owner.fired
    due_s = max(began_s + 2.0, resumed_s)
    assert kind == "suspended" and due_s <= at_s <= due_s + 2 * TICK_S
