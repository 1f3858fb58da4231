r"""The zygote's life: HELLO, sockets, fork, and then whatever supervisor and children say, until nobody is left.

    asking --sockets are here--> warming --all READY--> ready --ACCEPT_ON--> opening --all ACCEPTING--> serving
                                    |                     |                     |                  ACCEPT_OFF |
                                    \--a child died-------+--> failed           \--a child died---------> yielded
                                                                                           draining <--DRAIN--/

While serving, who dies is forked again (its queue waits meanwhile); a neighbour accepts for one that keeps dying.
Without a supervisor there is no shared memory for a new process: then a neighbour accepts for good, and 60 s later all
drain.
"""

from __future__ import annotations

import enum
import os
import selectors
import socket
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from hotproxy.restarter.frames import Channel, FrameError, Message
from hotproxy.restarter.hello import NO_LIMIT_S
from hotproxy.restarter.log import ERROR, INFO, NOTICE, WARNING, log, name_process
from hotproxy.restarter.loop import Alarm, Loop
from hotproxy.restarter.outbox import Outbox
from hotproxy.restarter.spawn import describe_exit
from hotproxy.shm.cells import Slab, SlabPlace
from hotproxy.shm.layout import ShmError
from hotproxy.zygote.child import CONTROL, WORKER, Child, fork
from hotproxy.zygote.program import Birth, HeldSocket, Program
from hotproxy.zygote.slots import BackOff, acceptor

# How long a generation without a supervisor serves on: time for systemd to start a new one, several times over.
ORPHAN_S: Final = 60.0
# A child ends itself at the deadline it was given; after this it is killed.
GRACE_S: Final = 1.0
# /dev/shm was full when a slab was wanted: somebody has to make room.
SLAB_RETRY_S: Final = 1.0


class Phase(enum.IntEnum):
    ASKING = 0
    WARMING = 1
    READY = 2
    OPENING = 3
    SERVING = 4
    YIELDED = 5
    DRAINING = 6
    FAILED = 7


@dataclass(slots=True, eq=False)
class Seat:
    """A slot, or the control process, whether somebody sits there or not."""

    role: str
    slot: int
    child: Child | None = None
    down: bool = False  # waits before it is forked again; a neighbour accepts for it
    asked: bool = False  # for shared memory
    back_off: BackOff = field(default_factory=BackOff)
    alarm: Alarm | None = None


class Zygote:
    """Owns the channel, the sockets and the children of one generation."""

    def __init__(self, channel: Channel, program: Program, segment_name: str, orphan_s: float = ORPHAN_S) -> None:
        self._program = program
        self._segment_name = segment_name
        self._orphan_s = orphan_s
        # poll and not epoll: an epoll descriptor is shared with every child that is forked.
        self._loop = Loop(selectors.PollSelector())
        self._supervisor = Outbox(channel, self._loop, self._on_message, self._on_bad_frame, self._on_orphaned)
        self._phase = Phase.ASKING
        self._sockets: list[HeldSocket] = []
        self._seats = [Seat(CONTROL, 0), *(Seat(WORKER, slot) for slot in range(program.hello.slots))]
        self._children: dict[int, Child] = {}  # by serial; also those that leave
        self._answer = ""  # ACCEPT_STOPPED or SHUT_DONE, which is due when all of these serials have said it
        self._waiting_for: set[int] = set()
        self._soft_drain = False
        self._exit_code = 0

    def run(self) -> int:
        """Until the last child is gone; the exit code."""
        self._supervisor.post("HELLO", self._program.hello.to_wire())
        self._loop.run()
        return self._exit_code

    # --- the supervisor speaks ---

    def _on_message(self, message: Message) -> None:
        try:
            self._obey(message)
        finally:
            message.close_fds()

    def _obey(self, message: Message) -> None:
        kind, fields = message.kind, message.fields
        if kind == "SOCKETS":
            self._take(message)
            if fields["last"] and self._phase is Phase.ASKING:
                self._phase = Phase.WARMING
                for seat in self._seats:
                    self._ask_slab(seat)
        elif kind == "SLAB_IS":
            self._on_slab(fields)
        elif kind == "ACCEPT_ON":
            self._phase = Phase.OPENING
            self._tell_all("ACCEPT_ON")
        elif kind == "ACCEPT_OFF":
            self._phase = Phase.YIELDED
            self._stop_forking()
            accepting = [child for child in self._children.values() if child.state == "accepting"]
            self._tell_all("ACCEPT_OFF")
            self._collect("ACCEPT_STOPPED", {child.serial for child in accepting if not child.leaving})
        elif kind == "ADOPT":
            self._take(message)
            self._rebalance()
        elif kind == "SHUT":
            self._shut(fields["sockets"])
        elif kind == "DRAIN" and fields["deadline_s"] == 0.0:
            self._drain_softly(True)
        elif kind == "DRAIN":
            self._drain(fields["deadline_s"])
        elif kind == "UNDRAIN":
            self._drain_softly(False)
        elif kind == "SLOTS":
            self._set_slots(fields["slots"])
        elif kind == "REOPEN_LOGS":
            self._tell_all(kind)
        elif kind == "KILL":
            self._fail("")
        elif kind == "UNKNOWN":
            self._on_refused(fields)
        else:
            self._supervisor.post("UNKNOWN", {"kind": kind, "why": "not for a zygote"})

    def _on_bad_frame(self, error: FrameError) -> None:
        log(WARNING, f"a message of the supervisor was refused: {error}")
        self._supervisor.post("UNKNOWN", {"kind": "?", "why": str(error)})

    def _on_refused(self, fields: dict[str, Any]) -> None:
        log(WARNING, f"the supervisor refused {fields['kind']}: {fields['why']}")
        if fields["kind"] == "SLAB":
            for seat in self._seats:
                if seat.asked:
                    seat.asked = False
                    self._seat_later(seat, SLAB_RETRY_S)

    def _on_orphaned(self) -> None:
        if self._phase < Phase.SERVING:
            self._fail("")
        elif self._phase is not Phase.DRAINING:
            log(WARNING, f"the supervisor is gone: serving on for {self._orphan_s:g} s")
            deadline_s = self._loop.now_s() + self._orphan_s
            drain_s = self._program.hello.deadlines.drain_s or self._orphan_s
            self._loop.at(deadline_s, lambda: self._drain(deadline_s + drain_s))

    def _take(self, message: Message) -> None:
        wires = message.fields["sockets"]
        if len(wires) != len(message.fds):
            self._fail(f"{len(message.fds)} descriptors came for {len(wires)} sockets")
            return
        for (listener, index, slot, _, shared), fd in zip(wires, message.fds, strict=True):
            self._sockets.append(HeldSocket(listener, index, slot, shared, socket.socket(fileno=fd)))
        message.fds = []

    # --- forking ---

    def _ask_slab(self, seat: Seat) -> None:
        seat.down, seat.asked, seat.alarm = False, True, None
        self._supervisor.post("SLAB", {"role": seat.role, "slot": seat.slot})

    def _on_slab(self, fields: dict[str, Any]) -> None:
        role, slot, serial = fields["role"], fields["slot"], fields["serial"]
        seat = next((each for each in self._seats if each.role == role and each.slot == slot and each.asked), None)
        if seat is None or self._phase > Phase.SERVING:
            # Not wanted any more; "died" before it was born, so that its slab is free again.
            died = {"serial": serial, "slot": slot, "role": role, "pid": 0, "status": 0}
            self._supervisor.post("DIED", died)
            return
        seat.asked = False
        try:
            slab = Slab.open(self._segment_name, SlabPlace.from_wire(fields["place"]))
        except ShmError as error:
            self._fail(f"no shared memory for {role} {slot}: {error}")
            return
        self._fork(seat, serial, slab)

    def _fork(self, seat: Seat, serial: int, slab: Slab) -> None:
        sockets = self._sockets_of(seat)
        epoch = self._program.hello.epoch
        keep = set(map(id, sockets))
        others: list[Any] = [self._supervisor.channel, *(each.sock for each in self._sockets if id(each) not in keep)]
        for child in self._children.values():
            others += [child.outbox.channel, child.pidfd]

        def live(channel: Channel) -> int:
            name_process(f"worker {epoch}/{seat.slot}" if seat.role == WORKER else f"control {epoch}")
            slab.claim()
            birth = Birth(seat.slot, channel, slab, sockets)
            return self._program.work(birth) if seat.role == WORKER else self._program.control(birth)

        pid, pidfd, channel = fork(live, others)
        slab.close()
        born: Child
        outbox = Outbox(
            channel,
            self._loop,
            lambda message: self._on_child_message(born, message),
            lambda error: log(WARNING, f"a message of {born} was refused: {error}"),
            lambda: None,  # its death is told by its pidfd
        )
        born = Child(seat.role, seat.slot, serial, pid, pidfd, outbox, self._loop.now_s(), sockets=sockets)
        seat.child = born
        self._children[serial] = born
        self._loop.watch(pidfd, lambda: self._on_death(born))
        forked = {"serial": serial, "slot": seat.slot, "role": seat.role, "pid": pid}
        self._supervisor.post("FORKED", forked, [channel.fileno(), pidfd])

    def _sockets_of(self, seat: Seat) -> list[HeldSocket]:
        """What this seat accepts on when nobody is down but those who are, itself excepted."""
        if seat.role == CONTROL:
            return [each for each in self._sockets if self._program.is_control(each.listener)]
        down = self._down() - {seat.slot}
        return [
            each
            for each in self._sockets
            if not self._program.is_control(each.listener)
            and (each.shared or acceptor(each.slot, self._slots, down) == seat.slot)
        ]

    def _on_death(self, child: Child) -> None:
        child.outbox.read()
        self._loop.unwatch(child.pidfd)
        _, status = os.waitpid(child.pid, 0)
        child.close()
        del self._children[child.serial]
        died = {"serial": child.serial, "slot": child.slot, "role": child.role, "pid": child.pid, "status": status}
        self._supervisor.post("DIED", died)
        if self._waiting_for:
            self._waiting_for.discard(child.serial)
            self._collected()
        seat = next((each for each in self._seats if each.child is child), None)
        if seat is None:
            pass  # it left because there are fewer slots now
        elif self._phase < Phase.SERVING:
            seat.child = None
            self._fail(f"{child} died before it served: {describe_exit(status)}")
        elif self._phase is Phase.SERVING:
            seat.child = None
            self._seat_again(seat, child, status)
        if self._phase >= Phase.DRAINING and not self._children:
            self._loop.stop()

    def _seat_again(self, seat: Seat, child: Child, status: int) -> None:
        wait_s = seat.back_off.after_death(self._loop.now_s() - child.born_s)
        after = f", forked again in {wait_s:g} s" if wait_s else ""
        log(ERROR, f"{child} (pid {child.pid}) died: {describe_exit(status)}{after}")
        if not self._supervisor.open:
            seat.down = True  # for good: nobody can give it shared memory
            self._rebalance()
        elif wait_s > 0.0:
            self._seat_later(seat, wait_s)
            self._rebalance()
        else:
            self._ask_slab(seat)

    def _seat_later(self, seat: Seat, wait_s: float) -> None:
        seat.down = True
        seat.alarm = self._loop.after(wait_s, lambda: self._ask_slab(seat))

    # --- the children speak ---

    def _on_child_message(self, child: Child, message: Message) -> None:
        message.close_fds()
        if message.kind == "READY":
            self._on_ready(child)
        elif message.kind == "ACCEPTING":
            self._on_accepting(child)
        elif message.kind in ("ACCEPT_STOPPED", "SHUT_DONE"):
            if message.kind == "ACCEPT_STOPPED":
                self._set_state(child, "stopped")
            if message.kind == self._answer:
                self._waiting_for.discard(child.serial)
                self._collected()
        elif message.kind == "FAILED":
            if self._phase < Phase.SERVING:
                self._fail(f"{child}: {message.fields['why']}")
            else:
                log(ERROR, f"{child} failed: {message.fields['why']}")
        elif message.kind == "UNKNOWN":
            log(WARNING, f"{child} does not understand {message.fields['kind']}: {message.fields['why']}")
        else:
            child.outbox.post("UNKNOWN", {"kind": message.kind, "why": "not for a zygote"})

    def _on_ready(self, child: Child) -> None:
        self._set_state(child, "ready")
        if self._phase in (Phase.OPENING, Phase.SERVING):
            child.outbox.post("ACCEPT_ON")
        elif self._phase is Phase.WARMING and self._all("ready"):
            self._phase = Phase.READY
            self._supervisor.post("READY")

    def _on_accepting(self, child: Child) -> None:
        self._set_state(child, "accepting")
        if self._soft_drain and child.role == WORKER:
            child.outbox.post("DRAIN", {"deadline_s": 0.0})
        if self._phase is Phase.OPENING and self._all("accepting"):
            self._phase = Phase.SERVING
            self._supervisor.post("ACCEPTING")
        if self._phase is Phase.SERVING:
            self._rebalance()

    def _set_state(self, child: Child, state: str) -> None:
        child.state = state
        self._supervisor.post("SLOT", {"serial": child.serial, "state": state})

    def _all(self, state: str) -> bool:
        return all(seat.child is not None and seat.child.state == state for seat in self._seats)

    # --- who accepts where ---

    @property
    def _slots(self) -> int:
        return sum(seat.role == WORKER for seat in self._seats)

    def _down(self) -> set[int]:
        return {seat.slot for seat in self._seats if seat.role == WORKER and seat.down}

    def _rebalance(self) -> None:
        """Every socket to the slot whose it is: ADOPT first, then RELEASE, so that it is never nobody's."""
        down, slots = self._down(), self._slots
        by_slot = {seat.slot: seat.child for seat in self._seats if seat.role == WORKER and seat.child is not None}
        for held in self._sockets:
            if held.shared or self._program.is_control(held.listener):
                continue
            slot = acceptor(held.slot, slots, down)
            owner = by_slot.get(slot) if slot is not None else None
            if owner is None or owner.state != "accepting":
                continue  # it gets it when it is forked; until it accepts, whoever has it keeps it
            if held not in owner.sockets:
                owner.sockets.append(held)
                owner.outbox.post("ADOPT", {"sockets": [held.wire()]}, [held.sock.fileno()])
            for other in self._children.values():
                if other is not owner and held in other.sockets and not other.leaving:
                    other.sockets.remove(held)
                    other.outbox.post("RELEASE", {"sockets": [held.wire()]})

    def _set_slots(self, slots: int) -> None:
        if self._phase is not Phase.SERVING:
            return
        log(NOTICE, f"{slots} slots instead of {self._slots}")
        for slot in range(self._slots, slots):
            seat = Seat(WORKER, slot)
            self._seats.append(seat)
            self._ask_slab(seat)
        leaving = [seat for seat in self._seats if seat.role == WORKER and seat.slot >= slots]
        self._seats = [seat for seat in self._seats if seat not in leaving]
        for seat in leaving:
            if seat.alarm is not None:
                seat.alarm.cancel()
            if seat.child is not None:
                seat.child.leaving = True
        self._rebalance()
        drain_s = self._program.hello.deadlines.drain_s
        for seat in leaving:
            if (child := seat.child) is not None:
                self._set_state(child, "draining")
                child.outbox.post("ACCEPT_OFF")
                child.outbox.post("DRAIN", {"deadline_s": self._loop.now_s() + (drain_s or NO_LIMIT_S)})
                if drain_s:
                    self._loop.after(drain_s + GRACE_S, partial(self._kill_if_there, child))

    # --- the end ---

    def _collect(self, answer: str, serials: set[int]) -> None:
        """The supervisor gets `answer` when all these children have given it, or are dead."""
        self._answer, self._waiting_for = answer, serials
        self._collected()

    def _collected(self) -> None:
        if self._answer and not self._waiting_for:
            answer, self._answer = self._answer, ""
            self._supervisor.post(answer)

    def _shut(self, wires: list[Any]) -> None:
        named = [held for held in self._sockets if held.named_in(wires)]
        asked = set()
        for child in self._children.values():
            mine = [held.wire() for held in child.sockets if held in named]
            if mine and child.role == WORKER:
                asked.add(child.serial)
                child.outbox.post("SHUT", {"sockets": mine})
        for held in named:  # our copy would keep it alive
            self._sockets.remove(held)
            held.sock.close()
        self._collect("SHUT_DONE", asked)

    def _drain(self, deadline_s: float) -> None:
        self._phase = max(self._phase, Phase.DRAINING)
        self._stop_forking()
        for child in self._children.values():
            self._set_state(child, "draining")
            child.outbox.post("DRAIN", {"deadline_s": deadline_s})
        for held in self._sockets:
            held.sock.close()
        self._sockets.clear()
        self._loop.at(deadline_s + GRACE_S, self._kill_all)
        if not self._children:
            self._loop.stop()

    def _drain_softly(self, drain: bool) -> None:
        """Slots only; the control process has no connections to end."""
        self._soft_drain = drain
        for child in self._children.values():
            if child.role == WORKER:
                child.outbox.post(*(("DRAIN", {"deadline_s": 0.0}) if drain else ("UNDRAIN",)))

    def _stop_forking(self) -> None:
        for seat in self._seats:
            if seat.alarm is not None:
                seat.alarm.cancel()
            seat.asked = False

    def _fail(self, why: str) -> None:
        """Not to be. Before anybody accepted, all end; afterwards the supervisor says what becomes of connections."""
        if self._phase is Phase.FAILED:
            return
        if why:
            log(ERROR, why)
            self._supervisor.post("FAILED", {"why": why})
        if self._phase in (Phase.OPENING, Phase.SERVING) and self._supervisor.open:
            self._phase = Phase.YIELDED
            return
        self._phase = Phase.FAILED
        self._exit_code = 1
        self._stop_forking()
        self._kill_all()
        if not self._children:
            self._loop.stop()

    def _kill_all(self) -> None:
        for child in self._children.values():
            child.kill()

    def _kill_if_there(self, child: Child) -> None:
        if child.serial in self._children:
            log(INFO, f"{child} is past its deadline: killed")
            child.kill()

    def _tell_all(self, kind: str) -> None:
        for child in self._children.values():
            child.outbox.post(kind)
