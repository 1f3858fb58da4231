"""When workers have crashed too often: on a clock of the test's, and then in a supervisor over stand-ins."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from hotproxy.restarter.crash_signals import CRASH_SIGNALS, CRASHES, WINDOW_S, CrashSignals
from tests.kit.plane import Plane, Refused, plane

ONE = {"a": ["127.0.0.1:0"]}


@pytest.fixture
def it(tmp_path: Path) -> Iterator[Plane]:
    with plane(tmp_path) as made:
        yield made


@pytest.mark.parametrize("number", sorted(CRASH_SIGNALS))
def test_three_crashes_in_a_minute_are_too_many(number: signal.Signals) -> None:
    crashes = CrashSignals()
    assert not crashes.count(number, 100.0)
    assert not crashes.count(number, 100.0)
    assert crashes.why == ""
    assert crashes.count(number, 100.0 + WINDOW_S)
    assert crashes.why == f"3 workers crashed within 60 s, the last one by {number.name}"


def test_crashes_that_are_far_apart_are_not() -> None:
    crashes = CrashSignals()
    assert not any(crashes.count(signal.SIGSEGV, second * (WINDOW_S / 2 + 1)) for second in range(100))
    assert crashes.why == ""


CORE_DUMPED = 0x80  # wait(2)
NO_CRASH = [0, 1 << 8, 70 << 8, int(signal.SIGKILL), int(signal.SIGTERM), 2**40, -1]


@pytest.mark.parametrize("status", NO_CRASH)
def test_other_ends_do_not_count(status: int) -> None:
    crashes = CrashSignals()
    assert not any(crashes.count(status, 1.0) for _ in range(10))
    assert crashes.why == ""


def test_a_core_dump_makes_no_difference() -> None:
    crashes = CrashSignals()
    assert [crashes.count(signal.SIGABRT | CORE_DUMPED, 1.0) for _ in range(CRASHES)] == [False, False, True]


def crash(it: Plane, number: signal.Signals = signal.SIGSEGV) -> None:
    """A worker; returns when that is known."""
    before = it.stats()["server.worker_crashes"]
    it.eventually(lambda: bool(it.slots()))
    os.kill(it.slots()[0], number)
    it.eventually(lambda: it.stats()["server.worker_crashes"] == before + 1)


def replaced(it: Plane, epoch: int) -> bool:
    return it.status()["epoch"] == epoch and len(it.status()["generations"]) == 1


def test_a_generation_that_crashes_too_often_is_started_afresh_as_pure(it: Plane) -> None:
    it.start(listeners=ONE)
    crash(it)
    crash(it, signal.SIGABRT)
    assert it.status()["pure_kernel"] == "" and it.stats()["server.pure_kernel"] == 0
    crash(it)
    it.eventually(lambda: replaced(it, 2))
    assert it.status()["pure_kernel"].startswith("3 workers crashed within")
    assert it.stats()["server.pure_kernel"] == 1
    assert it.dial().echoes()
    assert "is started afresh without compiled code" in it.log


def test_a_reload_tries_compiled_code_again_and_a_replacement_does_not(it: Plane) -> None:
    it.start(listeners=ONE)
    for _ in range(CRASHES):
        crash(it)
    it.eventually(lambda: replaced(it, 2))
    with pytest.raises(Refused):
        it.reload(listeners=ONE, fault="import error")
    assert it.stats()["server.pure_kernel"] == 1, "the one that was refused did not serve"
    it.wish(listeners=ONE)
    os.kill(it.serving()["pid"], signal.SIGKILL)  # its zygote: the same generation afresh
    it.eventually(lambda: replaced(it, 4))
    assert it.status()["pure_kernel"].startswith("3 workers crashed within")
    it.reload(listeners=ONE)
    assert it.status()["pure_kernel"] == "" and it.stats()["server.pure_kernel"] == 0


def test_a_pure_generation_that_crashes_stays(it: Plane) -> None:
    """There is nothing left to take away from it."""
    it.start(listeners=ONE)
    for _ in range(CRASHES):
        crash(it)
    it.eventually(lambda: replaced(it, 2))
    for _ in range(CRASHES):
        crash(it)
    assert it.status()["epoch"] == 2
    assert it.log.count("is started afresh without compiled code") == 1


def test_killed_workers_are_no_reason(it: Plane) -> None:
    it.start(listeners=ONE)
    for _ in range(CRASHES):
        crash(it, signal.SIGKILL)
    it.eventually(lambda: all(slot["state"] == "accepting" for slot in it.serving()["slots"]))
    assert it.status()["epoch"] == 1 and "started afresh" not in it.log


def test_a_replacement_that_is_refused_is_tried_again_at_the_next_crash(it: Plane) -> None:
    it.start(listeners=ONE)
    it.wish(fault="bad config")
    for _ in range(CRASHES):
        crash(it)
    it.eventually(lambda: "restart refused" in it.log)
    it.wish(listeners=ONE)
    crash(it)
    it.eventually(lambda: it.status()["pure_kernel"] != "")
