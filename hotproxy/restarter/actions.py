"""What the supervisor does for each action of the generations' table."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from hotproxy.restarter.bind import BindRefused
from hotproxy.restarter.frames import MAX_FDS
from hotproxy.restarter.generation import Action, Event, State
from hotproxy.restarter.hello import NO_LIMIT_S
from hotproxy.restarter.live import LiveGeneration, Member
from hotproxy.restarter.log import NOTICE, WARNING, log
from hotproxy.restarter.moves import Move, Slot, may_move, what_moved
from hotproxy.restarter.sockets import OwnedSocket
from hotproxy.shm.layout import ShmError

if TYPE_CHECKING:
    from hotproxy.restarter.supervisor import Supervisor

# A generation ends itself at its deadline; one that has not done so this much later is killed.
GRACE_S: Final = 2.0


class Actions:
    """`do` them in the table's order."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._loop = supervisor.loop
        self._sockets = supervisor.sockets
        self._ledger = supervisor.ledger
        self._table: dict[Action, Callable[[LiveGeneration, Event], None]] = {
            Action.GIVE_SOCKETS: self._give_sockets,
            Action.ACCEPT_ON: lambda live, _: live.tell("ACCEPT_ON"),
            Action.SUCCEED: self._succeed,
            Action.FAIL: self._fail,
            Action.GIVE_BACK: self._give_back,
            Action.ACCEPT_OFF: self._accept_off,
            Action.SHUT: self._shut,
            Action.DROP_REMOVED: self._drop_removed,
            Action.MOVE: self._move,
            Action.YIELDED: lambda live, _: supervisor.restarts.yielded(live.epoch, live.move),
            Action.DRAIN: self._drain,
            Action.DRAIN_NOW: self._drain_now,
            Action.KILL: lambda live, _: live.kill(),
            Action.REPLACE: self._replace,
            Action.COMPLAIN: self._complain,
            Action.FORGET: lambda live, _: supervisor.forget(live),
        }

    def do(self, action: Action, live: LiveGeneration, event: Event) -> None:
        self._table[action](live, event)

    def change_slots(self, live: LiveGeneration, slots: int) -> None:
        """More or fewer until the next restart. Raises BindRefused."""
        assert live.hello is not None
        if slots > live.slots:
            new = self._sockets.grow(live.lease, live.hello, slots)
            live.lease.created.clear()
            self._send_sockets(live, new)
        live.added = {slot for slot in live.added | set(range(live.slots, slots)) if slot < slots}
        live.slots = slots
        live.tell("SLOTS", {"slots": slots})
        self._ledger.serving(live.epoch, slots, live.hello.version)

    def empty_slot(self, live: LiveGeneration, member: Member) -> None:
        """One that leaves its generation gives its connections to those that stay: to its successor, if it has one."""

        def takers() -> list[Slot]:
            stay = _accepting(live)
            return [slot for slot in stay if slot[1].slot == member.slot] or stay

        def dismiss(move: Move) -> None:
            drain_s = live.hello.deadlines.drain_s if live.hello is not None else 0.0
            until_s = self._loop.now_s() + (drain_s or NO_LIMIT_S)
            if live.zygote_alive:
                live.outbox.post("DISMISS", {"serial": member.serial})
            else:
                live.tell_member(member, "DRAIN", {"deadline_s": until_s})
                member.state = "draining"
            self._supervisor.recycling.emptied(member, move)

        givers = [(live, member)] if may_move(live, live) else []
        self._supervisor.moves.begin(givers, takers, self._until_s(live), dismiss)

    def fill_slot(self, live: LiveGeneration, member: Member) -> None:
        """One that was added serves: its share of the connections that the others have."""
        live.added.discard(member.slot)
        others = [slot for slot in _accepting(live) if slot[1] is not member]

        def done(move: Move) -> None:
            what = what_moved(move.moved, 0, move.ms)
            log(NOTICE, f"worker {live.epoch}/{member.slot} serves{what}")

        if may_move(live, live):
            self._supervisor.moves.share(others, (live, member), self._until_s(live), done)

    def say_soft_drain(self, live: LiveGeneration) -> None:
        """`hotproxy drain` and its undoing: no deadline, nobody leaves."""
        if self._supervisor.soft_drain:
            live.tell("DRAIN", {"deadline_s": 0.0})
        else:
            live.tell("UNDRAIN")

    def _give_sockets(self, live: LiveGeneration, event: Event) -> None:
        hello = live.hello
        assert hello is not None
        try:
            self._ledger.admit(hello.stats, hello.version)
            live.serial = self._ledger.enlist(live.epoch, live.pid)
            live.lease = self._sockets.acquire(hello)
        except (BindRefused, ShmError) as refused:
            self._supervisor.blame(live, str(refused))
            self._supervisor.handle(live, Event.BROKEN)
            return
        live.slots = hello.slots
        self._send_sockets(live, live.lease.sockets)

    def _send_sockets(self, live: LiveGeneration, sockets: list[OwnedSocket]) -> None:
        batches = [sockets[at : at + MAX_FDS] for at in range(0, len(sockets), MAX_FDS)] or [[]]
        for batch in batches:
            fields = {
                "sockets": [live.lease.wire(owned) for owned in batch],
                "inodes": [owned.inode for owned in batch],
                "last": batch is batches[-1],
                "tickets": self._supervisor.tickets.to_wire(),
            }
            live.outbox.post("SOCKETS", fields, [owned.sock.fileno() for owned in batch])

    def _succeed(self, live: LiveGeneration, event: Event) -> None:
        assert live.hello is not None
        removed = self._sockets.commit(live.lease)
        predecessor = self._supervisor.predecessor(live)
        if predecessor is not None:
            predecessor.removed = removed
        else:
            for owned in removed:  # of a generation that is dead: nobody is left to take what waits
                self._sockets.shut(owned)
        self._ledger.serving(live.epoch, live.slots, live.hello.version)
        self._supervisor.serves(live)

    def _fail(self, live: LiveGeneration, event: Event) -> None:
        self._supervisor.blame(live, f"it said {event.value} out of turn" if event.name == event.value else event.value)
        self._supervisor.failed(live)

    def _give_back(self, live: LiveGeneration, event: Event) -> None:
        """What it brought that may already listen is its predecessor's, where that knows the listener."""
        heir = self._supervisor.predecessor(live)
        opened = live.state is State.DRAINING
        adopted = self._sockets.discard(live.lease, heir.lease.names if heir is not None and opened else ())
        if heir is None or not adopted:
            return
        heir.lease.sockets += adopted
        if heir.zygote_alive:
            for at in range(0, len(adopted), MAX_FDS):
                batch = adopted[at : at + MAX_FDS]
                wires = [heir.lease.wire(owned) for owned in batch]
                fields = {"sockets": wires, "inodes": [owned.inode for owned in batch]}
                heir.outbox.post("ADOPT", fields, [owned.sock.fileno() for owned in batch])
        else:
            heir.share(adopted)

    def _accept_off(self, live: LiveGeneration, event: Event) -> None:
        live.ask_slots()
        live.tell("ACCEPT_OFF")

    def _shut(self, live: LiveGeneration, event: Event) -> None:
        if self._supervisor.stopping:
            stays = self._supervisor.store.keeps
            live.removed = [each for each in self._sockets.all() if not (each.kept or (each.stored and stays))]
        known = set(map(id, live.removed))
        live.removed += [owned for owned in self._sockets.strays(live.lease) if id(owned) not in known]
        wires = [live.lease.wire(owned) for owned in live.removed if owned.identity in live.lease.names]
        if not wires:
            self._supervisor.handle(live, Event.SHUT_DONE)
            return
        live.ask_slots()
        live.tell("SHUT", {"sockets": wires})

    def _drop_removed(self, live: LiveGeneration, event: Event) -> None:
        for owned in live.removed:
            self._sockets.shut(owned)
        live.removed = []

    def _move(self, live: LiveGeneration, event: Event) -> None:
        """Its connections to its successor; without one (the supervisor stops) they drain where they are."""
        heir = self._supervisor.predecessor(live)
        givers: list[Slot] = []
        if heir is not None and not self._supervisor.stopping and may_move(live, heir):
            givers = [(live, member) for member in live.serving_slots]

        def done(move: Move) -> None:
            live.move = move
            self._supervisor.handle(live, Event.MOVED)

        live.move = self._supervisor.moves.begin(givers, lambda: _accepting(heir), self._until_s(live), done)

    def _until_s(self, live: LiveGeneration) -> float:
        return self._loop.now_s() + (live.hello.deadlines.move_s if live.hello is not None else 0.0)

    def _drain(self, live: LiveGeneration, event: Event) -> None:
        patience_s = (live.hello.deadlines.drain_s if live.hello is not None else 0.0) or NO_LIMIT_S
        deadline_s = self._loop.now_s() + patience_s
        if self._supervisor.stop_by_s:
            deadline_s = min(deadline_s, max(self._supervisor.stop_by_s, self._loop.now_s()))
        live.drains_since_s = self._loop.now_s()
        live.tell("DRAIN", {"deadline_s": deadline_s})
        self._supervisor.set_alarm(live, deadline_s - self._loop.now_s() + GRACE_S)

    def _drain_now(self, live: LiveGeneration, event: Event) -> None:
        live.tell("DRAIN", {"deadline_s": self._loop.now_s()})
        self._supervisor.set_alarm(live, GRACE_S)

    def _replace(self, live: LiveGeneration, event: Event) -> None:
        log(WARNING, f"the zygote of generation {live.epoch} is dead; its slots serve on, it is started afresh")
        self._supervisor.restarts.replace()

    def _complain(self, live: LiveGeneration, event: Event) -> None:
        log(WARNING, f"generation {live.epoch} said {event.value} while {live.state.value}: ignored")


def _accepting(live: LiveGeneration | None) -> list[Slot]:
    return [(live, each) for each in live.slot_members if each.state == "accepting"] if live is not None else []
