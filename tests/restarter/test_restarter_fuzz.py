"""C15: forged frames at the supervisor, from a zygote that has just begun, that serves, and that is on trial."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit import forging_zygote
from tests.kit.plane import Plane, Refused, plane

ONE = {"a": ["127.0.0.1:0"]}
# So that a generation whose zygote has forgotten how to leave is gone soon.
SOON = {"stop_accepting_s": 0.2, "shut_s": 0.2, "drain_s": 1, "move_s": 0.5, "handoff_s": 0.1}


@pytest.fixture
def it(tmp_path: Path) -> Iterator[Plane]:
    with plane(tmp_path, zygote=Path(forging_zygote.__file__)) as made:
        made.start(listeners=ONE, **SOON)
        yield made


def open_files(it: Plane) -> int:
    """Without those of shared memory: it grows by what a zygote asks for, and is kept."""
    assert it.process is not None
    directory = Path(f"/proc/{it.process.pid}/fd")
    found = 0
    for entry in directory.iterdir():
        with contextlib.suppress(FileNotFoundError):  # a caller's, that was just closed
            found += not str(entry.readlink()).startswith("/dev/shm/")
    return found


def alone(it: Plane) -> bool:
    generations = it.status()["generations"]
    return len(generations) == 1 and all(slot["state"] == "accepting" for slot in generations[0]["slots"])


def settled(it: Plane) -> int:
    """Its descriptors, once one sound generation is alone."""
    it.reload(listeners=ONE, **SOON)
    it.eventually(lambda: alone(it))
    return open_files(it)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("rounds", [1, pytest.param(34, marks=pytest.mark.slow)])
def test_a_supervisor_serves_on_whatever_a_zygote_says(it: Plane, rounds: int) -> None:
    before = min(settled(it) for _ in range(3))  # a caller that was answered is closed a moment later
    for number in range(1, rounds + 1):
        it.reload(listeners=ONE, **SOON, forge={"at": "ACCEPTING", "seed": number, "count": 3000})
        it.eventually(lambda number=number: it.log.count("forged 3000 frames") >= number)
        assert it.dial().echoes()
    it.eventually(lambda: settled(it) <= before)
    assert it.dial().echoes()
    assert "Traceback" not in it.log


@pytest.mark.timeout(900)
@pytest.mark.parametrize("rounds", [2, pytest.param(100, marks=pytest.mark.slow)])
@pytest.mark.parametrize("at", ["HELLO", "SOCKETS", "ACCEPT_ON"])
def test_a_generation_on_trial_that_forges_changes_nothing(it: Plane, at: str, rounds: int) -> None:
    before, old = min(settled(it) for _ in range(3)), it.dial()
    for seed in range(rounds):
        try:
            it.reload(listeners=ONE, **SOON, forge={"at": at, "seed": seed, "count": 20})
        except Refused as refused:
            assert str(refused)
        assert it.dial().echoes()
        if at != "ACCEPT_ON":  # there it may have said that it accepts, and then the old one leaves
            assert old.echoes()
    old.close()
    it.eventually(lambda: settled(it) <= before)
    assert "Traceback" not in it.log
