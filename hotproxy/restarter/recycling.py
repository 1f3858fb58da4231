"""`hotproxy worker recycle N`: a new process for one slot, which goes on with the old one's connections.

request --RECYCLE--> the zygote forks a second process for the slot; it accepts --SLOT leaving--> the old one's
connections move to it --DISMISS--> the old one drains what stayed, and is gone. Then the caller hears.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hotproxy.restarter.commands import Caller
from hotproxy.restarter.generation import State
from hotproxy.restarter.live import LiveGeneration, Member
from hotproxy.restarter.log import NOTICE, log
from hotproxy.restarter.loop import Alarm
from hotproxy.restarter.moves import Move, what_moved

if TYPE_CHECKING:
    from hotproxy.restarter.supervisor import Supervisor


@dataclass(slots=True, eq=False)
class _Asked:
    caller: Caller
    live: LiveGeneration
    member: Member
    began_s: float
    alarm: Alarm


class Recycling:
    """Each caller gets one answer: what moved, or why the old process is still there."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._asked: dict[int, _Asked] = {}  # by the old process's serial

    @property
    def busy(self) -> bool:
        return bool(self._asked)

    def request(self, caller: Caller, slot: object) -> None:
        supervisor = self._supervisor
        live = next((each for each in supervisor.live_generations() if each.state is State.ACTIVE), None)
        if isinstance(slot, bool) or not isinstance(slot, int):
            caller.answer(False, f"slot is {slot!r}, not the number of a worker")
            return
        if live is None or live.hello is None or supervisor.restarts.running:
            caller.answer(False, "a worker can't be recycled during a restart, which replaces all of them")
            return
        member = next((each for each in live.slot_members if each.slot == slot and each.state == "accepting"), None)
        if member is None:
            slots = ", ".join(str(each.slot) for each in live.slot_members if each.state == "accepting")
            caller.answer(False, f"there is no worker {slot} that serves; these do: {slots or 'none'}")
            return
        if member.serial in self._asked:
            caller.answer(False, f"worker {slot} is being recycled already")
            return
        deadlines = live.hello.deadlines
        patience_s = deadlines.ready_s + deadlines.accept_s + deadlines.move_s + 3 * deadlines.handoff_s
        alarm = supervisor.loop.after(patience_s, lambda: self._fail(member, f"not within {patience_s:g} s"))
        self._asked[member.serial] = _Asked(caller, live, member, supervisor.loop.now_s(), alarm)
        live.outbox.post("RECYCLE", {"slot": slot})

    def emptied(self, member: Member, move: Move) -> None:
        """It has given away what it could, and drains; or it died in the middle of that."""
        asked = self._asked.get(member.serial)
        if asked is None:
            return
        new = next((each.pid for each in asked.live.serving_slots if each.slot == member.slot), 0)
        what = what_moved(move.moved, move.refused, move.ms)
        if member.serial not in asked.live.members:
            self._fail(member, f"pid {member.pid} died while its connections moved{what}")
            return
        if not new:
            self._fail(member, f"there are fewer workers now; pid {member.pid} leaves{what}")
            return
        del self._asked[member.serial]
        asked.alarm.cancel()
        ms = round((self._supervisor.loop.now_s() - asked.began_s) * 1000)
        text = f"worker {member.slot}: pid {member.pid} -> {new} in {ms} ms{what}"
        log(NOTICE, f"recycled {text}")
        asked.caller.answer(True, text, {"moved": move.moved, "refused": move.refused, "ms": ms})

    def on_death(self, member: Member) -> None:
        self._fail(member, f"pid {member.pid} died before it could be replaced")

    def close(self) -> None:
        """The supervisor stops."""
        for asked in list(self._asked.values()):
            self._fail(asked.member, "the supervisor is stopping")

    def _fail(self, member: Member, why: str) -> None:
        asked = self._asked.pop(member.serial, None)
        if asked is not None:
            asked.alarm.cancel()
            asked.caller.answer(False, f"worker {member.slot}: {why}")
