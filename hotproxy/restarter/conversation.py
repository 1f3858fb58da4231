"""What zygotes and slots say to the supervisor, and what their deaths mean."""

from __future__ import annotations

import signal
import socket
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from hotproxy.restarter.frames import PROTOCOL_VERSION, Channel, FrameError, Message
from hotproxy.restarter.generation import ON_TRIAL, Event, State
from hotproxy.restarter.hello import MAX_SLOTS, HelloError, parse
from hotproxy.restarter.live import LEAVING, Ears, LiveGeneration, Member
from hotproxy.restarter.log import ERROR, WARNING, log
from hotproxy.restarter.spawn import UNKNOWN, describe_exit, exit_status
from hotproxy.shm.layout import LAYOUT_VERSION, ROLES, ShmError

if TYPE_CHECKING:
    from hotproxy.restarter.supervisor import Supervisor

_STEPS: Final = {"READY": Event.READY, "ACCEPTING": Event.ACCEPTING, "ACCEPT_STOPPED": Event.ACCEPT_STOPPED,
                 "SHUT_DONE": Event.SHUT_DONE}  # fmt: skip
# All mistakes of a config at once; a reason beyond that explains nothing.
MAX_WHY: Final = 64 * 1024


class Conversation:
    """Hears all generations."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._ledger = supervisor.ledger
        self.ears = Ears(self._on_message, self._on_bad_frame, self._on_member_message)

    def _on_message(self, live: LiveGeneration, message: Message) -> None:
        try:
            if message.kind == "HELLO":
                self._on_hello(live, message)
            elif message.kind in _STEPS:
                self._supervisor.handle(live, _STEPS[message.kind])
            elif message.kind == "SLAB":
                self._on_slab(live, message)
            elif message.kind == "FORKED":
                self._on_forked(live, message)
            elif message.kind == "DIED":
                self._on_died(live, message)
            elif message.kind == "SLOT":
                member = live.members.get(message.fields["serial"])
                if member is not None:
                    self._on_state(live, member, message.fields["state"][:20])
            elif message.kind in ("MOVED", "STUCK"):
                self._on_move(message)
            elif message.kind == "FAILED":
                live.why = live.why or message.fields["why"][:MAX_WHY]  # as it is: file:line:column come first
                self._supervisor.handle(live, Event.BROKEN)
            elif message.kind == "UNKNOWN":
                fields = message.fields
                log(WARNING, f"generation {live.epoch} does not understand {fields['kind']}: {fields['why']}")
            else:
                self._refuse(live, message.kind, "not for the supervisor")
        finally:
            message.close_fds()

    def _on_bad_frame(self, live: LiveGeneration, error: FrameError) -> None:
        self._refuse(live, "?", str(error))

    def _refuse(self, live: LiveGeneration, kind: str, why: str) -> None:
        log(WARNING, f"a message of generation {live.epoch} was refused: {why}")
        live.outbox.post("UNKNOWN", {"kind": kind, "why": why})
        if live.state in ON_TRIAL:
            self._supervisor.blame(live, f"it breaks the protocol: {why}")
            self._supervisor.handle(live, Event.BROKEN)

    def _on_hello(self, live: LiveGeneration, message: Message) -> None:
        if live.state is State.STARTING:
            try:
                hello = parse(message.fields)
                if hello.epoch != live.epoch:
                    raise HelloError(f"it says it is generation {hello.epoch}")
                if hello.protocol != PROTOCOL_VERSION:
                    raise HelloError(f"it speaks protocol {hello.protocol}, the supervisor {PROTOCOL_VERSION}")
                if hello.layout != LAYOUT_VERSION:
                    raise HelloError(f"its shared-memory layout is {hello.layout}, the supervisor's {LAYOUT_VERSION}")
            except HelloError as error:
                self._refuse(live, "HELLO", str(error))
                return
            live.hello = hello
        self._supervisor.handle(live, Event.HELLO)

    def _on_slab(self, live: LiveGeneration, message: Message) -> None:
        role, slot = message.fields["role"], message.fields["slot"]
        if live.hello is None or len(live.promised) > MAX_SLOTS or role not in ROLES or not 0 <= slot < 1 << 31:
            self._refuse(live, "SLAB", f"no slab for {role[:20]!r} {slot}")
            return
        try:
            serial, place = self._ledger.allocate(live.epoch, role, slot)
        except ShmError as error:
            log(WARNING, f"no slab for {role} {slot} of generation {live.epoch}: {error}")
            self._refuse(live, "SLAB", str(error))
            return
        live.promised.add(serial)
        live.outbox.post("SLAB_IS", {"role": role, "slot": slot, "serial": serial, "place": place})

    def _on_forked(self, live: LiveGeneration, message: Message) -> None:
        fields = message.fields
        if len(message.fds) != 2 or fields["serial"] not in live.promised:
            self._refuse(live, "FORKED", "it must name a slab that was given, and carry a channel and a pidfd")
            return
        if not 0 < fields["pid"] < 1 << 31:
            self._refuse(live, "FORKED", f"{fields['pid']} is no pid")
            return
        channel_fd, pidfd = message.fds
        try:
            signal.pidfd_send_signal(pidfd, 0)
        except ProcessLookupError:
            pass  # dead already: DIED follows
        except OSError as error:
            self._refuse(live, "FORKED", f"it carries no pidfd: {error.strerror}")
            return
        try:
            channel = Channel(socket.socket(fileno=channel_fd))
        except OSError as error:
            self._refuse(live, "FORKED", f"it carries no channel: {error.strerror}")
            return
        message.fds = []
        live.promised.discard(fields["serial"])
        member = Member(fields["serial"], fields["role"], fields["slot"], fields["pid"], channel, pidfd)
        live.members[member.serial] = member
        self._ledger.activate(member.serial, member.pid)
        if live.state is State.FAILED:
            member.kill()  # its generation was killed while it was being forked

    def _on_state(self, live: LiveGeneration, member: Member, state: str) -> None:
        before, member.state = member.state, state
        if state == "leaving" != before:
            self._supervisor.actions.empty_slot(live, member)
        elif state == "accepting" and live.state is State.ACTIVE and member.slot in live.added:
            self._supervisor.actions.fill_slot(live, member)

    def _on_move(self, message: Message) -> None:
        fields = message.fields
        if message.kind == "STUCK":
            self._supervisor.moves.on_stuck(fields["serial"], fields["pair"], fields["committed"])
        else:
            self._supervisor.moves.on_moved(
                fields["serial"], fields["pair"], fields["moved"], fields["refused"], fields["why"]
            )

    def _on_died(self, live: LiveGeneration, message: Message) -> None:
        member = live.members.get(message.fields["serial"])
        if member is not None:
            self._bury(live, member, message.fields["status"])
        elif message.fields["serial"] in live.promised:  # it was never forked
            live.promised.discard(message.fields["serial"])
            self._ledger.fold(message.fields["serial"])

    def on_untold_death(self, live: LiveGeneration, died: dict[str, Any]) -> None:
        """A generation of an earlier supervisor says who of it is dead. Some of that was heard before: what is still in
        the shared memory was not."""
        if died["serial"] not in live.promised:
            return
        live.promised.discard(died["serial"])
        if died["status"] != 0 and died["role"] == "worker":
            self._count_crash(live, died["serial"], died["slot"], died["pid"], died["status"])
        self._ledger.fold(died["serial"])

    def _count_crash(self, live: LiveGeneration, serial: int, slot: int, pid: int, status: int) -> None:
        self._ledger.count_crash(serial)
        log(ERROR, f"worker {slot} (pid {pid}) of generation {live.epoch} crashed: {describe_exit(status)}")
        if live.crash_signals.count(status, self._supervisor.loop.now_s()):
            self._supervisor.doubt_compiled(live)

    def _bury(self, live: LiveGeneration, member: Member, status: int) -> None:
        if live.members.pop(member.serial, None) is None:
            return  # its end was seen in two ways
        self._supervisor.loop.unwatch(member.pidfd)
        member.close()
        crashed = (status not in (0, UNKNOWN) or member.state == "accepting") and live.state is not State.FAILED
        if crashed and member.role == "worker":
            self._count_crash(live, member.serial, member.slot, member.pid, status)
        self._ledger.fold(member.serial)
        self._supervisor.moves.on_death(member.serial)
        self._supervisor.recycling.on_death(member)
        if not live.zygote_alive:
            if live.state is State.ORPHANED:
                live.cover()
            self._answered(live, member)
            if live.empty:
                self._supervisor.handle(live, Event.EMPTY)

    def _on_member_message(self, live: LiveGeneration, member: Member, message: Message) -> None:
        """A slot whose zygote is dead answers us."""
        message.close_fds()
        if message.kind == "ACCEPTING" and member.state not in LEAVING:
            member.state = "accepting"
        elif message.kind in ("MOVED", "STUCK"):
            self._on_move(message)
        # One that answers what it was told twice must not be taken to answer the next thing.
        elif message.kind == {State.YIELDING: "ACCEPT_STOPPED", State.SHUTTING: "SHUT_DONE"}.get(live.state):
            self._answered(live, member)

    def _answered(self, live: LiveGeneration, member: Member) -> None:
        if member.serial in live.awaiting:
            live.awaiting.discard(member.serial)
            if not live.awaiting:
                answer = {State.YIELDING: Event.ACCEPT_STOPPED, State.SHUTTING: Event.SHUT_DONE}.get(live.state)
                if answer is not None:
                    self._supervisor.handle(live, answer)

    def on_death(self, pid: int, status: int) -> None:
        """Somebody has ended: a zygote, somebody whom a dead zygote left, or a rehearsal."""
        if self._supervisor.renewal.on_death(pid, status):
            return
        for live in self._supervisor.live_generations():
            if live.zygote_alive and live.pid == pid:
                self._on_zygote_death(live, status)
                return
            for member in list(live.members.values()):
                if member.pid == pid and not live.zygote_alive:
                    self._bury(live, member, status)
                    return

    def _on_zygote_death(self, live: LiveGeneration, status: int) -> None:
        live.zygote_reaped = True
        live.outbox.read()  # what it said before it died comes first
        live.hear_stderr()
        for member in list(live.members.values()):
            if member.dead:
                self._bury_unreaped(live, member)
        live.zygote_alive = False
        self._supervisor.blame(live, _epitaph(live, status))
        live.take_over()
        for member in live.members.values():  # who reaps them now depends on who started their zygote
            self._supervisor.loop.watch(member.pidfd, partial(self._on_orphan_end, live, member))
        self._supervisor.moves.on_zygote_death(live)
        self._supervisor.handle(live, Event.ZYGOTE_DIED)
        if live.state is State.ORPHANED:
            live.cover()
        if live.empty:
            self._supervisor.handle(live, Event.EMPTY)

    def _on_orphan_end(self, live: LiveGeneration, member: Member) -> None:
        if member.serial in live.members:
            self._bury(live, member, exit_status(member.pid))

    def _bury_unreaped(self, live: LiveGeneration, member: Member) -> None:
        """Reaped by its zygote, which died before it could say so; or a zombie that is ours now, or somebody else's."""
        self._bury(live, member, exit_status(member.pid))


def _epitaph(live: LiveGeneration, status: int) -> str:
    words = live.last_words.decode(errors="replace").strip().splitlines()
    how = describe_exit(status)
    if live.hello is None:
        return f"it died before it was ready: {how}" + (f": {words[-1]}" if words else "")
    return f"its zygote died: {how}"
