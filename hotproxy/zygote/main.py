"""The zygote's life: HELLO, sockets, fork, and then whatever supervisor and children say, until nobody is left.

Its states are in `phases`. While serving, who dies is forked again (its queue waits meanwhile); a neighbour accepts for
one that keeps dying. Without a supervisor there is no shared memory for a new process: then a neighbour accepts, until
another supervisor is there (`orphan`). If none comes within `orphan_timeout`, all drain.
"""

from __future__ import annotations

import gc
import os
import selectors
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

from hotproxy.restarter.faults import FAULTS_HERE
from hotproxy.restarter.frames import Channel, FrameError, Message
from hotproxy.restarter.hello import NO_LIMIT_S
from hotproxy.restarter.kernel import set_process_name
from hotproxy.restarter.log import ERROR, INFO, NOTICE, WARNING, log, name_process
from hotproxy.restarter.loop import Alarm, Loop
from hotproxy.restarter.outbox import Outbox
from hotproxy.restarter.spawn import describe_exit
from hotproxy.restarter.systemd import STORED
from hotproxy.shm.cells import Slab, SlabPlace
from hotproxy.shm.layout import ShmError
from hotproxy.shm.schema import Schema
from hotproxy.zygote import messages
from hotproxy.zygote.child import CONTROL, WORKER, Child, fork
from hotproxy.zygote.orphan import Supervision, introduce
from hotproxy.zygote.phases import KNOWN_AS, Phase
from hotproxy.zygote.program import Birth, Program
from hotproxy.zygote.seats import Seat, Seats
from hotproxy.zygote.tickets import Tickets

# A child ends itself at the deadline it was given; after this it is killed.
GRACE_S: Final = 1.0
# How long one that has stopped accepting waits for another supervisor: it is to leave anyway.
YIELDED_S: Final = 3.0
# /dev/shm was full, or processes were too many: somebody has to make room.
FORK_RETRY_S: Final = 1.0


class Zygote:
    """Owns the channel, the sockets and the children of one generation."""

    def __init__(self, channel: Channel, program: Program, segment_name: str, supervisor_path: Path) -> None:
        """`supervisor_path`: where the next supervisor will listen, should this one die."""
        self._program = program
        self._segment_name = segment_name
        # poll and not epoll: an epoll descriptor is shared with every child that is forked.
        self._loop = Loop(selectors.PollSelector())
        self._supervisor = Supervision(
            channel, supervisor_path, self._loop, self._on_message, self._on_bad_frame, self._on_orphaned,
            self._introduce,
        )  # fmt: skip
        self._leaving: Alarm | None = None  # when no supervisor has come
        self._deadline_s = 0.0  # CLOCK_MONOTONIC, once it drains
        self._phase = Phase.ASKING
        self._seats = Seats(program.hello.slots, program.is_control)
        self._schema: Schema | None = None  # as it was at the last fork
        self._answer = ""  # ACCEPT_STOPPED or SHUT_DONE, which is due when all of these serials have said it
        self._waiting_for: set[int] = set()
        self._soft_drain = False
        self._served = False  # the supervisor has said so
        self._tickets = Tickets(self._loop)
        self._exit_code = 0

    def run(self) -> int:
        """Until the last child is gone; the exit code."""
        self._supervisor.post("HELLO", self._program.hello.to_wire())
        self._loop.run()
        return self._exit_code

    # --- the supervisor speaks ---

    def _on_message(self, message: Message) -> None:
        try:
            messages.check(message)
            self._obey(message)
        except FrameError as error:
            self._refuse(message.kind, error)
        finally:
            message.close_fds()

    def _obey(self, message: Message) -> None:
        kind, fields = message.kind, message.fields
        if kind == "SOCKETS":
            self._take(message)
            self._tickets.take(fields.get("tickets"))
            if fields["last"] and self._phase is Phase.ASKING:
                self._phase = Phase.WARMING
                for seat in self._seats:
                    self._ask_slab(seat)
        elif kind == "SLAB_IS":
            self._on_slab(fields)
        elif kind == "ACCEPT_ON":
            if self._phase is not Phase.READY:
                raise FrameError(f"it is out of turn: this zygote is {self._phase.name.lower()}")
            self._phase = Phase.OPENING
            self._seats.tell_all("ACCEPT_ON")
        elif kind == "SERVES":
            self._served = True
            self._seats.tell_control(kind)
        elif kind == "ACCEPT_OFF":
            self._phase = Phase.YIELDED
            self._seats.stay_empty()
            accepting = [child for child in self._seats.children.values() if child.state == "accepting"]
            self._seats.tell_all("ACCEPT_OFF")
            self._collect("ACCEPT_STOPPED", {child.serial for child in accepting if not child.leaving})
        elif kind == "ADOPT":
            self._take(message)
            self._seats.rebalance()
        elif kind == "SHUT":
            self._collect("SHUT_DONE", self._seats.shut(fields["sockets"]))
        elif kind == "DRAIN" and fields["deadline_s"] == 0.0:
            self._drain_softly(True)
        elif kind == "DRAIN":
            self._drain(fields["deadline_s"])
        elif kind == "UNDRAIN":
            self._drain_softly(False)
        elif kind == "SLOTS":
            self._set_slots(fields["slots"])
        elif kind in ("GIVE", "TAKE"):  # to one who is gone: its channel ends here
            child = self._seats.children.get(fields["serial"])
            if child is not None:
                _pass_on(child.outbox, kind, fields, message.fds)
        elif kind == "RECYCLE":
            self._recycle(fields["slot"])
        elif kind == "DISMISS":
            child = self._seats.children.get(fields["serial"])
            if child is not None and child.leaving:
                self._dismiss(child)
        elif kind == "REOPEN_LOGS":
            self._seats.tell_all(kind)
        elif kind == "ATTACHED":
            if self._supervisor.on_attached(fields["ok"], fields["why"]):
                self._on_attached()
        elif kind == "PING":
            pass
        elif kind == "UNKNOWN":
            self._on_refused(fields)
        else:
            self._supervisor.post("UNKNOWN", {"kind": kind, "why": "not for a zygote"})

    def _on_bad_frame(self, error: FrameError) -> None:
        self._refuse("?", error)

    def _refuse(self, kind: str, error: FrameError) -> None:
        log(WARNING, f"a message of the supervisor was refused: {error}")
        self._supervisor.post("UNKNOWN", {"kind": kind, "why": str(error)})

    def _on_refused(self, fields: dict[str, Any]) -> None:
        log(WARNING, f"the supervisor refused {fields['kind']}: {fields['why']}")
        if fields["kind"] == "SLAB":
            for seat in self._seats:
                if seat.asked:
                    seat.asked = False
                    self._seat_later(seat, FORK_RETRY_S)
            self._seats.rebalance()  # meanwhile a neighbour accepts

    def _on_orphaned(self) -> bool:
        """True: another supervisor may go on with us."""
        if self._phase is Phase.OPENING:
            self._phase = Phase.SERVING  # everybody was told to accept, and may hold connections
        if self._phase < Phase.SERVING:
            self._fail("")
        if self._phase is Phase.FAILED:
            return False
        if self._phase < Phase.DRAINING:
            for seat in self._seats:
                if seat.child is None:
                    self._leave_empty(seat)
            self._seats.rebalance()
            if self._leaving is None:  # else it is another supervisor that died
                deadlines = self._program.hello.deadlines
                wait_s = deadlines.orphan_s if self._phase is Phase.SERVING else min(deadlines.orphan_s, YIELDED_S)
                until_s = self._loop.now_s() + wait_s + (deadlines.drain_s or NO_LIMIT_S)
                self._leaving = self._loop.after(wait_s, lambda: self._leave(until_s))
        return True

    def _introduce(self, outbox: Outbox) -> None:
        fields = {"state": KNOWN_AS[self._phase], "soft_drain": self._soft_drain, "deadline_s": self._deadline_s}
        introduce(outbox, self._program.hello, fields, self._seats, self._supervisor.untold)

    def _on_attached(self) -> None:
        if self._leaving is not None:
            self._leaving.cancel()
            self._leaving = None
        if self._phase is Phase.SERVING:
            for seat in self._seats:
                if seat.child is None:
                    self._ask_slab(seat)

    def _leave(self, deadline_s: float) -> None:
        """Nobody else holds our sockets: what waits in their queues is taken before they are closed. But systemd, where
        it stores them, passes them to the next supervisor."""
        log(WARNING, "no other supervisor has come: draining")
        self._leaving = None
        if self._phase is Phase.SERVING and not STORED:
            self._seats.shut([held.wire() for held in self._seats.sockets])
        self._drain(deadline_s)
        self._supervisor.introduce_again()  # one that has not answered yet was told that we serve

    def _take(self, message: Message) -> None:
        try:
            messages.check_sockets(message)
        except FrameError as error:
            self._fail(str(error))
            return
        fds, message.fds = message.fds, []
        self._seats.take(message.fields["sockets"], fds, message.fields.get("inodes", ()))

    # --- forking ---

    def _ask_slab(self, seat: Seat) -> None:
        seat.down, seat.asked, seat.alarm = False, True, None
        self._supervisor.post("SLAB", {"role": seat.role, "slot": seat.slot})

    def _on_slab(self, fields: dict[str, Any]) -> None:
        role, slot, serial = fields["role"], fields["slot"], fields["serial"]
        seat = self._seats.waiting(role, slot)
        if seat is not None and self._phase <= Phase.SERVING:
            seat.asked = False
            try:
                slab = Slab.open(self._segment_name, SlabPlace.from_wire(fields["place"]), self._schema)
                self._remember(slab.schema)
                self._fork(seat, serial, slab)
                return
            except (ShmError, OSError) as error:  # EAGAIN: too many processes, ENOMEM
                self._fail(f"{seat} can't be forked: {error}")
                if self._phase is Phase.SERVING:
                    self._seat_later(seat, FORK_RETRY_S)
                    self._seats.rebalance()
        # "Died" before it was born, so that its slab is free again.
        self._supervisor.post("DIED", {"serial": serial, "slot": slot, "role": role, "pid": 0, "status": 0})

    def _remember(self, schema: Schema) -> None:
        """A thousand clusters have 90,000 statistics: they are read once, and like all that lives as long as the
        generation they are frozen, so that no collection in a child copies their pages."""
        if schema is not self._schema:
            self._schema = schema
            gc.freeze()

    def _fork(self, seat: Seat, serial: int, slab: Slab) -> None:
        sockets = self._seats.sockets_of(seat)
        epoch = self._program.hello.epoch
        keep = set(map(id, sockets))
        others: list[Any] = [
            self._supervisor.channel,
            *self._supervisor.waiting_fds,
            *(each.sock for each in self._seats.sockets if id(each) not in keep),
        ]
        for child in self._seats.children.values():
            others += [child.outbox.channel, child.pidfd, *child.outbox.waiting_fds]

        def live(channel: Channel) -> int:
            name_process(f"worker {epoch}/{seat.slot}" if seat.role == WORKER else f"control {epoch}")
            set_process_name(f"hotproxy-w{seat.slot}" if seat.role == WORKER else "hotproxy-ctl")
            FAULTS_HERE.role = seat.role
            slab.claim()
            birth = Birth(seat.slot, channel, slab, sockets, self._tickets.chain)
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
        self._seats.children[serial] = born
        self._loop.watch(pidfd, lambda: self._on_death(born))
        forked = {"serial": serial, "slot": seat.slot, "role": seat.role, "pid": pid}
        self._supervisor.post("FORKED", forked, [channel.fileno(), pidfd])

    def _on_death(self, child: Child) -> None:
        child.outbox.read()
        self._loop.unwatch(child.pidfd)
        _, status = os.waitpid(child.pid, 0)
        child.close()
        del self._seats.children[child.serial]
        died = {"serial": child.serial, "slot": child.slot, "role": child.role, "pid": child.pid, "status": status}
        self._supervisor.untold.deaths.append(died)
        self._supervisor.post("DIED", died)
        if self._waiting_for:
            self._waiting_for.discard(child.serial)
            self._collected()
        seat = self._seats.of(child)
        if seat is None:
            pass  # it left because there are fewer slots now
        elif self._phase < Phase.SERVING:
            seat.child = None
            self._fail(f"{child} died before it served: {describe_exit(status)}")
        elif self._phase is Phase.SERVING:
            seat.child = None
            self._seat_again(seat, child, status)
        # One that serves keeps its queues for the next supervisor, which lets it fork again.
        if not self._seats.children and (
            self._phase >= Phase.DRAINING or not (self._supervisor.attached or self._phase is Phase.SERVING)
        ):
            self._loop.stop()

    def _seat_again(self, seat: Seat, child: Child, status: int) -> None:
        wait_s = seat.back_off.after_death(self._loop.now_s() - child.born_s)
        after = f", forked again in {wait_s:g} s" if wait_s else ""
        log(ERROR, f"{child} (pid {child.pid}) died: {describe_exit(status)}{after}")
        if not self._supervisor.attached:
            self._leave_empty(seat)
            self._seats.rebalance()
        elif wait_s > 0.0:
            self._seat_later(seat, wait_s)
            self._seats.rebalance()
        else:
            self._ask_slab(seat)

    @staticmethod
    def _leave_empty(seat: Seat) -> None:
        """Nobody can give it shared memory. A neighbour accepts for it."""
        seat.stay_empty()
        seat.down = True

    def _seat_later(self, seat: Seat, wait_s: float) -> None:
        seat.down = True
        seat.alarm = self._loop.after(wait_s, lambda: self._ask_slab(seat))

    # --- the children speak ---

    def _on_child_message(self, child: Child, message: Message) -> None:
        message.close_fds()
        if message.kind == "MOVED" and not self._supervisor.attached:
            self._supervisor.untold.add_move(message.fields)
        elif message.kind in ("MOVED", "STUCK"):
            try:
                _pass_on(self._supervisor, message.kind, {**message.fields, "serial": child.serial})
            except FrameError as error:
                log(WARNING, f"a message of {child} was refused: {error}")
        elif message.kind in ("READY", "ACCEPTING") and child.leaving:
            pass  # there are fewer slots again
        elif message.kind == "READY":
            self._on_ready(child)
        elif message.kind == "ACCEPTING":
            self._on_accepting(child)
        elif message.kind in ("ACCEPT_STOPPED", "SHUT_DONE"):
            if message.kind == "ACCEPT_STOPPED" and child.state == "accepting":
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
        elif self._phase is Phase.WARMING and self._seats.all_are("ready"):
            self._phase = Phase.READY
            self._supervisor.post("READY")

    def _on_accepting(self, child: Child) -> None:
        self._set_state(child, "accepting")
        if self._soft_drain:
            child.outbox.post("DRAIN", {"deadline_s": 0.0})
        if self._served and child.role == CONTROL:
            child.outbox.post("SERVES")  # the one that was told so may have died of it
        if self._phase is Phase.OPENING and self._seats.all_are("accepting"):
            self._phase = Phase.SERVING
            self._supervisor.post("ACCEPTING")
        if self._phase is Phase.SERVING:
            seat = self._seats.of(child)
            if seat is not None and seat.predecessor is not None:
                if seat.predecessor.serial in self._seats.children:
                    self._let_leave(seat.predecessor)
                seat.predecessor = None
            self._seats.rebalance()

    def _set_state(self, child: Child, state: str) -> None:
        child.state = state
        self._supervisor.post("SLOT", {"serial": child.serial, "state": state})

    def _set_slots(self, slots: int) -> None:
        if self._phase is not Phase.SERVING:
            return
        log(NOTICE, f"{slots} slots instead of {self._seats.slots}")
        new, leaving = self._seats.resize(slots)
        for seat in new:
            self._ask_slab(seat)
        self._seats.rebalance()
        for seat in leaving:
            for child in seat.sitting:
                self._let_leave(child)

    def _recycle(self, slot: int) -> None:
        """Another process for a slot. The one that is there accepts until the other does."""
        seat = next((each for each in self._seats if each.role == WORKER and each.slot == slot), None)
        if self._phase is not Phase.SERVING or seat is None or seat.child is None or seat.predecessor is not None:
            return  # it died this moment, and is replaced anyway; the supervisor does not wait for ever
        seat.predecessor, seat.child = seat.child, None
        self._ask_slab(seat)

    def _let_leave(self, child: Child) -> None:
        """It accepts nothing more. The supervisor sees to it that its connections move, and dismisses it then."""
        child.leaving = True
        child.outbox.post("ACCEPT_OFF")
        self._set_state(child, "leaving")
        deadlines = self._program.hello.deadlines
        patience_s = deadlines.move_s + 3 * deadlines.handoff_s if self._supervisor.attached else 0.0
        self._loop.after(patience_s, partial(self._dismiss, child))

    def _dismiss(self, child: Child) -> None:
        if child.serial not in self._seats.children or child.state == "draining":
            return
        drain_s = self._program.hello.deadlines.drain_s
        self._set_state(child, "draining")
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

    def _drain(self, deadline_s: float) -> None:
        self._deadline_s = deadline_s
        self._phase = max(self._phase, Phase.DRAINING)
        self._seats.stay_empty()
        for child in self._seats.children.values():
            self._set_state(child, "draining")
        self._seats.tell_all("DRAIN", {"deadline_s": deadline_s})
        self._seats.close_sockets()
        self._loop.at(deadline_s + GRACE_S, self._seats.kill_all)
        if not self._seats.children:
            self._loop.stop()

    def _drain_softly(self, drain: bool) -> None:
        """Everybody only says so: the slots in their answers, the control process in its readiness."""
        self._soft_drain = drain
        self._seats.tell_all(*(("DRAIN", {"deadline_s": 0.0}) if drain else ("UNDRAIN",)))

    def _fail(self, why: str) -> None:
        """Before anybody accepts, all end. In `opening` the supervisor says what becomes of connections; later it is
        only said."""
        if self._phase is Phase.FAILED:
            return
        if why:
            log(ERROR, why)
            if self._phase < Phase.SERVING:
                self._supervisor.post("FAILED", {"why": why})
        if self._phase is Phase.SERVING:
            return
        if self._phase is Phase.OPENING and self._supervisor.attached:
            self._phase = Phase.YIELDED
            return
        self._phase = Phase.FAILED
        self._exit_code = 1
        self._seats.stay_empty()
        self._seats.kill_all()
        if not self._seats.children:
            self._loop.stop()

    def _kill_if_there(self, child: Child) -> None:
        if child.serial in self._seats.children:
            log(INFO, f"{child} is past its deadline: killed")
            child.kill()


def _pass_on(outbox: Outbox | Supervision, kind: str, fields: Mapping[str, Any], fds: Sequence[int] = ()) -> None:
    """What somebody else has said, fields that this code does not know included. Raises FrameError."""
    try:
        outbox.post(kind, fields, fds)
    except ValueError as error:  # msgpack reads deeper than it writes
        raise FrameError(f"it can't be passed on: {error}") from None
