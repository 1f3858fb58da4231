"""`worker recycle`: one slot gets a new process, and everybody who asks gets an answer."""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from hotproxy.restarter.frames import Channel
from tests.kit.plane import PATIENCE_S, Plane, Refused, plane, receive

ONE = {"a": ["127.0.0.1:0"]}


@pytest.fixture
def it(tmp_path: Path) -> Iterator[Plane]:
    with plane(tmp_path) as made:
        yield made


def ask_later(it: Plane, slot: object) -> Channel:
    channel = it.connect()
    channel.send("COMMAND", {"verb": "recycle", "arguments": {"slot": slot}})
    return channel


def kill(pid: int) -> None:
    pidfd = os.pidfd_open(pid)
    os.kill(pid, signal.SIGKILL)
    assert select.select([pidfd], [], [], PATIENCE_S)[0]
    os.close(pidfd)


def slots_of(it: Plane) -> dict[int, int]:
    """slot -> pid, of those that accept."""
    return {slot["slot"]: slot["pid"] for slot in it.serving()["slots"] if slot["state"] == "accepting"}


def test_another_process_takes_the_slot_and_the_old_one_drains(it: Plane) -> None:
    """These slots can't hand anything over: what they hold, they keep until it ends."""
    it.start(listeners=ONE, slots=2)
    before = slots_of(it)
    held = next(made for made in iter(it.dial, None) if made.slot == 1)
    answer = it.ask("recycle", slot=1)
    after = slots_of(it)
    assert after[0] == before[0] and after[1] != before[1]
    assert answer["reason"].startswith(f"worker 1: pid {before[1]} -> {after[1]} in ")
    assert held.echoes() and held.pid == before[1]
    it.eventually(lambda: [slot["state"] for slot in it.serving()["slots"]].count("draining") == 1)
    assert {made.pid for made in (it.dial() for _ in range(40))} <= set(after.values())
    held.close()
    it.eventually(lambda: len(it.serving()["slots"]) == 2)
    assert it.stats()["server.worker_crashes"] == 0


@pytest.mark.parametrize(
    ("slot", "why"),
    [(7, "there is no worker 7 that serves; these do: 0, 1"), (-1, "there is no worker -1"), (True, "not the number"),
     ("1", "not the number"), (None, "not the number"), (1.5, "not the number")],
)  # fmt: skip
def test_what_can_not_be_recycled(it: Plane, slot: object, why: str) -> None:
    it.start(listeners=ONE, slots=2)
    with pytest.raises(Refused, match=why):
        it.ask("recycle", slot=slot)
    assert it.dial().echoes()


def test_one_at_a_time_and_not_during_a_restart(it: Plane) -> None:
    it.start(listeners=ONE, slots=1)
    zygote = it.serving()["pid"]
    os.kill(zygote, signal.SIGSTOP)
    first = ask_later(it, 0)
    with pytest.raises(Refused, match="is being recycled already"):
        it.ask("recycle", slot=0)
    os.kill(zygote, signal.SIGCONT)
    assert receive(first).fields["ok"]
    it.wish(listeners=ONE, fault="hang on accept 0", accept_s=60)
    reload = it.connect()
    reload.send("COMMAND", {"verb": "reload", "arguments": {}})
    it.eventually(lambda: len(it.status()["generations"]) == 2)
    with pytest.raises(Refused, match="during a restart"):
        it.ask("recycle", slot=0)
    for channel in (first, reload):
        channel.close()


def test_a_worker_that_dies_before_it_is_replaced(it: Plane) -> None:
    it.start(listeners=ONE, slots=2)
    zygote, pid = it.serving()["pid"], slots_of(it)[1]
    os.kill(zygote, signal.SIGSTOP)
    channel = ask_later(it, 1)
    assert it.ask("ping")
    kill(pid)
    os.kill(zygote, signal.SIGCONT)
    answer = receive(channel).fields
    assert not answer["ok"] and "died before it could be replaced" in answer["reason"]
    it.eventually(lambda: len(slots_of(it)) == 2 and slots_of(it)[1] != pid)
    assert {made.slot for made in (it.dial() for _ in range(40))} == {0, 1}
    channel.close()


def test_a_slot_that_is_taken_away_while_it_is_recycled(it: Plane) -> None:
    """Its old process was in no seat any more, was never told to leave, and stayed until the next reload."""
    it.start(listeners=ONE, slots=2)
    zygote = it.serving()["pid"]
    os.kill(zygote, signal.SIGSTOP)
    channel = ask_later(it, 1)
    assert it.ask("ping")
    it.signal(signal.SIGTTOU)
    it.eventually(lambda: "SIGTTOU received" in it.log)
    os.kill(zygote, signal.SIGCONT)
    answer = receive(channel).fields
    assert not answer["ok"] and "there are fewer workers now" in answer["reason"]
    it.eventually(lambda: [slot["slot"] for slot in it.serving()["slots"]] == [0])
    assert {it.dial().slot for _ in range(40)} == {0}
    channel.close()


def test_who_waits_for_it_hears_that_all_is_over(it: Plane) -> None:
    it.start(listeners=ONE, slots=1)
    zygote = it.serving()["pid"]
    os.kill(zygote, signal.SIGSTOP)
    channel = ask_later(it, 0)
    assert it.ask("ping")
    it.signal(signal.SIGTERM)
    answer = receive(channel).fields
    assert not answer["ok"] and "the supervisor is stopping" in answer["reason"]
    os.kill(zygote, signal.SIGCONT)
    assert it.wait() == 0
    channel.close()
