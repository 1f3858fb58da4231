r"""What an earlier supervisor left, killed or replaced by its next version: its generations come back by themselves.

    nobody lives --> a start like any other
    zygotes live --> nothing is bound or started until all are back, or for WAIT_S
                     ATTACH ... INTRODUCED (`zygote.orphan`) --> one of our generations, as it was --> ATTACHED
    settled      --> the newest that accepts is active, others retire; none accepts: a start, beside those that drain

A zygote that comes later retires at once: another generation has bound its addresses meanwhile, and both accept. It
gives its connections away as at any restart; sockets that it alone knows are shut when their queues are empty.
"""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from hotproxy.restarter.frames import PROTOCOL_VERSION, Channel, FrameError, Message, check
from hotproxy.restarter.generation import Event, State
from hotproxy.restarter.hello import MAX_COUNT, MAX_SLOTS, NO_LIMIT_S, HelloError, parse
from hotproxy.restarter.live import LEAVING, LiveGeneration
from hotproxy.restarter.log import NOTICE, WARNING, log
from hotproxy.restarter.outbox import Outbox
from hotproxy.restarter.spawn import exit_status
from hotproxy.shm.layout import LAYOUT_VERSION
from hotproxy.shm.liveness import start_time

if TYPE_CHECKING:
    from hotproxy.restarter.supervisor import Supervisor

# They look for us every 100 ms, and say all within milliseconds. One that is stopped is not waited for longer: nobody
# can start anything meanwhile.
WAIT_S: Final = 2.0
# A zygote ends itself at its deadline; one that has not done so this much later is killed (`actions.GRACE_S`).
GRACE_S: Final = 2.0


@dataclass(slots=True, eq=False)
class _Arrival:
    """A zygote in the middle of its introduction."""

    live: LiveGeneration
    state: str
    deadline_s: float
    found: list[tuple[Any, socket.socket, tuple[int, int]]] = field(default_factory=list)

    def close(self) -> None:
        for _, sock, _ in self.found:
            sock.close()
        self.live.close()


class Survivors:
    """`begin` at the start, before anything is bound."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._loop = supervisor.loop
        self._epochs: dict[int, int] = {}  # of zygotes that live: pid -> epoch
        self._pidfds: dict[int, int] = {}
        self._awaited: set[int] = set()  # pids
        self._arrivals: dict[LiveGeneration, _Arrival] = {}
        self.waiting = False
        self.outcome = ""  # "re-attached to generation 3 (pid 7)"

    @property
    def busy(self) -> bool:
        """Somebody is awaited, or in the middle of an introduction."""
        return self.waiting or bool(self._arrivals)

    def begin(self) -> bool:
        """True when somebody is awaited; then `settle` follows. Raises ShmError."""
        for pid, epoch in self._supervisor.ledger.resume().items():
            self._watch(pid, epoch)
        if not self._epochs:
            return False
        self._awaited = set(self._epochs)
        self.waiting = True
        self._supervisor.restarts.hold()
        log(NOTICE, f"generations of an earlier supervisor serve: waiting for {self._named(self._awaited)}")
        self._loop.after(WAIT_S, self._settle)
        return True

    def _watch(self, pid: int, epoch: int) -> None:
        """They need not be our children: the kernel tells of their end all the same."""
        try:
            began = start_time(pid)
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            return
        if began is None or start_time(pid) != began:
            os.close(pidfd)
            return
        self._epochs[pid] = epoch
        self._pidfds[pid] = pidfd
        self._loop.watch(pidfd, partial(self._on_end, pid))

    def _on_end(self, pid: int) -> None:
        pidfd = self._pidfds.pop(pid)
        self._loop.unwatch(pidfd)
        os.close(pidfd)
        del self._epochs[pid]
        self._supervisor.conversation.on_death(pid, exit_status(pid))
        self._no_longer_awaited(pid)

    # --- introductions ---

    def welcome(self, channel: Channel, pid: int, message: Message) -> None:
        """ATTACH came on `supervisor.sock`, from a process of our user; owns the channel."""
        fields = message.fields
        message.close_fds()
        live: LiveGeneration

        def say(each: Message) -> None:
            arrival = self._arrivals.get(live)
            if arrival is None:
                self._supervisor.conversation.ears.on_message(live, each)
            else:
                self._on_message(arrival, each)

        outbox = Outbox(
            channel, self._loop, say, lambda error: self._on_bad_frame(live, error), lambda: self._on_closed(live)
        )
        live = LiveGeneration(
            self._epochs.get(pid, 0),
            pid,
            outbox,
            self._loop,
            self._supervisor.conversation.ears,
            -1,
            self._loop.now_s(),
        )
        live.state = State.ACTIVE  # whatever it says wrong, nobody who serves is on trial
        arrival = _Arrival(live, fields["state"], fields["deadline_s"])
        self._arrivals[live] = arrival
        try:
            live.hello = self._checked(pid, fields)
            live.zygote_pidfd = os.dup(self._pidfds[pid])
        except (HelloError, FrameError, OSError) as error:
            self._refuse(arrival, str(error))
            return
        live.slots = fields["slots"]
        live.serial, live.promised = self._supervisor.ledger.of_epoch(live.epoch)
        self._supervisor.ledger.count_moved(fields["moved"], fields["refused"])
        self._supervisor.soft_drain |= fields["soft_drain"]

    def _checked(self, pid: int, fields: dict[str, Any]) -> Any:
        """What it says of itself, if it is one of those that are known. Raises HelloError, FrameError."""
        if pid not in self._epochs:
            raise HelloError(f"pid {pid} is no zygote of this instance")
        if any(live.pid == pid and live.zygote_alive for live in self._supervisor.live_generations()):
            raise HelloError(f"pid {pid} is here already")
        check("HELLO", fields["hello"])
        hello = parse(fields["hello"])
        if (hello.protocol, hello.layout) != (PROTOCOL_VERSION, LAYOUT_VERSION):
            raise HelloError(f"it speaks protocol {hello.protocol}, and its shared-memory layout is {hello.layout}")
        if hello.epoch != self._epochs[pid] or not 0 < fields["slots"] <= MAX_SLOTS:
            raise HelloError(f"it says it is generation {hello.epoch} with {fields['slots']} slots")
        if not (0 <= fields["moved"] <= MAX_COUNT and 0 <= fields["refused"] <= MAX_COUNT):
            raise HelloError("what it has moved is no number of connections")
        if not 0.0 <= fields["deadline_s"] <= 10 * NO_LIMIT_S:
            raise HelloError(f"{fields['deadline_s']} is no deadline")
        return hello

    def _on_message(self, arrival: _Arrival, message: Message) -> None:
        kind, fields, live = message.kind, message.fields, arrival.live
        try:
            if kind == "SOCKETS":
                self._take(arrival, message)
            elif kind == "FORKED" and fields["serial"] in live.promised:  # else dead, and folded already
                self._supervisor.conversation.ears.on_message(live, message)
            elif kind == "SLOT":
                member = live.members.get(fields["serial"])
                if member is not None:
                    member.state = fields["state"][:20]
            elif kind == "DIED":
                self._supervisor.conversation.on_untold_death(live, fields)
            elif kind == "INTRODUCED":
                self._arrived(arrival)
            elif kind != "FORKED":
                raise HelloError(f"{kind} is no part of an introduction")
        except (HelloError, OSError) as error:
            self._refuse(arrival, str(error))
        finally:
            message.close_fds()

    def _take(self, arrival: _Arrival, message: Message) -> None:
        wires, fds, inodes = message.fields["sockets"], message.fds, message.fields.get("inodes", [])
        if len(wires) != len(fds) or len(inodes) != len(wires):
            raise HelloError(f"{len(fds)} descriptors came for {len(wires)} sockets")
        for wire, inode in zip(wires, inodes, strict=True):
            if [type(each) for each in wire] != [str, int, int, bool, bool] or [type(each) for each in inode] != [
                int
            ] * 2:
                raise HelloError("it does not say which sockets it holds")
        for wire, inode in zip(wires, inodes, strict=True):
            arrival.found.append((wire, socket.socket(fileno=message.fds[0]), (inode[0], inode[1])))
            del message.fds[0]

    def _arrived(self, arrival: _Arrival) -> None:
        supervisor, live = self._supervisor, arrival.live
        assert live.hello is not None
        live.lease = supervisor.sockets.readopt(live.hello, arrival.found)
        del self._arrivals[live]
        # What is left over was never forked, or died unheard.
        supervisor.ledger.fold_unborn(live.promised)
        live.promised.clear()
        if arrival.state == "draining":
            live.state = State.DRAINING
            live.drains_since_s = self._loop.now_s()
            live.told.append(("DRAIN", {"deadline_s": arrival.deadline_s}))
            supervisor.set_alarm(live, max(arrival.deadline_s - self._loop.now_s(), 0.0) + GRACE_S)
        else:
            live.yielded = arrival.state == "yielded"
            live.told.append(("ACCEPT_ON", {}))
        supervisor.ledger.adopted({live.pid, *(member.pid for member in live.members.values())})
        supervisor.add(live)
        live.outbox.post("ATTACHED", {"ok": True, "why": ""})
        log(NOTICE, f"generation {live.epoch} (pid {live.pid}) is back: {arrival.state}, {len(live.members)} processes")
        if not self.waiting:
            self._late(live)
        for member in live.slot_members:
            if member.state == LEAVING[0]:
                supervisor.actions.empty_slot(live, member)
        self._no_longer_awaited(live.pid)

    def _late(self, live: LiveGeneration) -> None:
        heir = self._supervisor.predecessor(live)
        if live.state is State.ACTIVE and (heir is not None or self._supervisor.stopping):
            self._retire(live, heir)

    def _refuse(self, arrival: _Arrival, why: str) -> None:
        log(WARNING, f"a zygote (pid {arrival.live.pid}) is not taken over: {why}")
        arrival.live.outbox.post("ATTACHED", {"ok": False, "why": why})
        self._drop(arrival)

    def _on_bad_frame(self, live: LiveGeneration, error: FrameError) -> None:
        arrival = self._arrivals.get(live)
        if arrival is None:
            self._supervisor.conversation.ears.on_bad_frame(live, error)
        else:
            self._refuse(arrival, str(error))

    def _on_closed(self, live: LiveGeneration) -> None:
        """Its death is seen by its pidfd. In the middle of an introduction it may also have run out of patience."""
        if live in self._arrivals:
            self._drop(self._arrivals[live])

    def _drop(self, arrival: _Arrival) -> None:
        del self._arrivals[arrival.live]
        arrival.close()

    # --- all are back ---

    def _no_longer_awaited(self, pid: int) -> None:
        self._awaited.discard(pid)
        if self.waiting and not self._awaited:
            self._settle()

    def _settle(self) -> None:
        if not self.waiting:
            return
        self.waiting = False
        supervisor = self._supervisor
        if self._awaited:
            log(WARNING, f"not back after {WAIT_S:g} s: {self._named(self._awaited)}; others are started beside them")
        lives = supervisor.live_generations()
        arriving = [arrival.live for arrival in self._arrivals.values()]
        supervisor.ledger.settle({serial for live in (*lives, *arriving) for serial in (*live.members, *live.promised)})
        back = [live for live in lives if live.state in (State.ACTIVE, State.ORPHANED)]
        supervisor.served |= bool(lives)  # what they hold is worth more than a config that is right
        if supervisor.stopping:
            for live in back:
                self._retire(live, None)
            return
        heir = next((live for live in reversed(back) if not live.yielded), None)
        if heir is not None:
            for owned in supervisor.sockets.without(heir.lease):
                if owned.kept:
                    log(
                        WARNING, f"systemd listens on {owned.identity}, and generation {heir.epoch} does not know of it"
                    )
                elif not any(owned in live.lease.sockets for live in lives):  # handed over, and its generation is gone
                    supervisor.sockets.shut(owned)
            self.outcome = f"re-attached to generation {heir.epoch} (pid {heir.pid})"
            log(NOTICE, self.outcome)
            supervisor.reattached(heir, self.outcome)
            for live in back:
                if live is not heir:
                    self._retire(live, heir)
        supervisor.restarts.release(heir is not None)

    def _retire(self, live: LiveGeneration, heir: LiveGeneration | None) -> None:
        given = set(map(id, heir.lease.sockets)) if heir is not None else set()
        live.removed = [owned for owned in live.lease.sockets if id(owned) not in given]
        self._supervisor.handle(live, Event.RETIRE)

    def _named(self, pids: set[int]) -> str:
        return ", ".join(f"generation {self._epochs[pid]} (pid {pid})" for pid in sorted(pids) if pid in self._epochs)
