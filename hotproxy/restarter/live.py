"""The processes of one generation, as the supervisor knows them: its zygote, its slots, its control process.

While the zygote lives, everything goes through it. When it is dead the supervisor takes its place on the channels to
the slots, of which it got copies in FORKED: no slot sees an end of its channel, and none needs another way to be told
that a successor accepts. Only when supervisor *and* zygote are gone do the slots meet EOF, and are orphans.
"""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from hotproxy.restarter.crash_signals import CrashSignals
from hotproxy.restarter.frames import Channel, FrameError, Message
from hotproxy.restarter.generation import State
from hotproxy.restarter.hello import Hello
from hotproxy.restarter.log import write_raw
from hotproxy.restarter.loop import Alarm, Loop
from hotproxy.restarter.outbox import Outbox
from hotproxy.restarter.sockets import Lease, OwnedSocket
from hotproxy.restarter.spawn import TAIL_BYTES, Spawned

if TYPE_CHECKING:
    from hotproxy.restarter.moves import Move

# Orders that a slot must not miss, whoever passes them on.
_ORDERS: Final = ("ACCEPT_ON", "ACCEPT_OFF", "SHUT", "DRAIN")
# A zygote answers within milliseconds. One that is stopped or hangs is worse than none: slots that die are not forked
# again, and the old generation accepts on for as long as nobody tells its slots to stop.
DEAF_TICKS: Final = 5
# A slot that gives its connections away, and then waits for the rest of them to end.
LEAVING: Final = ("leaving", "draining")


@dataclass(slots=True, eq=False)
class Member:
    """A slot or the control process. `outbox` is there once its zygote is dead."""

    serial: int
    role: str
    slot: int
    pid: int
    channel: Channel
    pidfd: int
    state: str = "starting"
    outbox: Outbox | None = None

    def kill(self) -> None:
        try:
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
        except ProcessLookupError:
            pass  # dead, and reaped by its zygote, which says so

    @property
    def dead(self) -> bool:
        poll = select.poll()
        poll.register(self.pidfd, select.POLLIN)
        return bool(poll.poll(0))

    def close(self) -> None:
        if self.outbox is not None:
            self.outbox.close()
        self.channel.close()
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1


@dataclass(slots=True)
class Ears:
    """Who hears what the processes of a generation say."""

    on_message: Callable[[LiveGeneration, Message], None]
    on_bad_frame: Callable[[LiveGeneration, FrameError], None]
    on_member_message: Callable[[LiveGeneration, Member, Message], None]


@dataclass(slots=True, eq=False)
class LiveGeneration:
    """One generation. `members` by serial; `holders`: which slot accepts on which socket, once the zygote is dead."""

    epoch: int
    pid: int
    outbox: Outbox
    loop: Loop
    ears: Ears
    stderr: int
    started_s: float
    state: State = State.STARTING
    serial: int = 0  # of the zygote's entry in the shared memory
    zygote_pidfd: int = -1  # of one that an earlier supervisor has started
    yielded: bool = False  # it came back from an earlier supervisor, and accepts no more
    zygote_alive: bool = True  # we talk to it, and not to its slots; true until all that it said was heard
    zygote_reaped: bool = False  # its pid may be somebody else's by now
    hello: Hello | None = None
    lease: Lease = field(default_factory=Lease)
    slots: int = 0
    added: set[int] = field(default_factory=set)  # slots of TTIN that have not got their share of connections yet
    members: dict[int, Member] = field(default_factory=dict)
    promised: set[int] = field(default_factory=set)  # serials of slabs for processes that are not forked yet
    drains_since_s: float = 0.0
    removed: list[OwnedSocket] = field(default_factory=list)
    move: Move | None = None  # of its connections, to its successor
    why: str = ""
    last_words: bytes = b""
    alarm: Alarm | None = None
    crash_signals: CrashSignals = field(default_factory=CrashSignals)
    awaiting: set[int] = field(default_factory=set)
    holders: dict[int, int] = field(default_factory=dict)
    told: list[tuple[str, Mapping[str, Any]]] = field(default_factory=list)  # what every slot must have heard, in order
    deaf_ticks: int = 0  # how often its zygote was found not to have read or noticed something

    @classmethod
    def adopt(cls, epoch: int, spawned: Spawned, loop: Loop, ears: Ears) -> LiveGeneration:
        """The generation of a zygote that was just started."""
        live: LiveGeneration
        outbox = Outbox(
            spawned.channel,
            loop,
            lambda message: ears.on_message(live, message),
            lambda error: ears.on_bad_frame(live, error),
            lambda: None,  # its death is seen where it is reaped
        )
        live = cls(epoch, spawned.pid, outbox, loop, ears, spawned.stderr, loop.now_s())
        loop.watch(spawned.stderr, live.hear_stderr)
        return live

    def hear_stderr(self) -> None:
        """What the interpreter itself says, passed on and remembered."""
        while self.stderr >= 0:
            try:
                data = os.read(self.stderr, 65536)
            except BlockingIOError:
                return
            if not data:
                self._close_stderr()
                return
            self.last_words = (self.last_words + data)[-TAIL_BYTES:]
            write_raw(data)

    @property
    def slot_members(self) -> list[Member]:
        return [member for member in self.members.values() if member.role == "worker"]

    @property
    def serving_slots(self) -> list[Member]:
        """Those that take a socket: not who leaves because there are fewer slots now, or another one has its slot."""
        return [member for member in self.slot_members if member.state not in LEAVING]

    @property
    def empty(self) -> bool:
        return not self.zygote_alive and not self.members

    def tell(self, kind: str, fields: Mapping[str, Any] | None = None) -> None:
        """The zygote, or all whom it leaves behind."""
        fields = fields or {}
        if kind in _ORDERS and fields.get("deadline_s") != 0.0:  # a soft drain is no order to leave
            self.told.append((kind, fields))
        if self.zygote_alive:
            self.outbox.post(kind, fields)
        else:
            self._tell_members(kind, fields)

    def tell_member(self, member: Member, kind: str, fields: Mapping[str, Any], fds: Sequence[int] = ()) -> None:
        """One slot, by way of its zygote where there is one; `fields` name its serial."""
        if self.zygote_alive:
            self.outbox.post(kind, fields, fds)
        elif member.outbox is not None:
            member.outbox.post(kind, fields, fds)

    def _tell_members(self, kind: str, fields: Mapping[str, Any]) -> None:
        for member in self.members.values():
            if member.outbox is None or (kind == "ACCEPT_ON" and member.state in ("accepting", *LEAVING)):
                continue
            member.outbox.post(kind, fields)
            if kind == "DRAIN" and fields["deadline_s"]:
                member.state = "draining"

    def ask_slots(self) -> None:
        """The next answer is complete when every slot has given it (without a zygote that adds them up)."""
        self.awaiting = set() if self.zygote_alive else {member.serial for member in self.slot_members}

    def take_over(self) -> None:
        """The zygote is dead: from now on the channels to its children are ours.

        It may have died with anything unread or not passed on. So the slots hear all of it again: twice is as good as
        once to them.
        """
        for member in self.members.values():
            self._listen_to(member)
        self.holders = {id(owned): owned.slot % max(self.slots, 1) for owned in self.lease.sockets if not owned.shared}
        for kind, fields in self.told:
            self._tell_members(kind, fields)
        self.ask_slots()

    def cover(self) -> None:
        """Without a zygote nobody is forked again: others accept on the sockets of slots that are not there."""
        present = {member.slot for member in self.serving_slots}
        self.share([owned for owned in self.lease.sockets if self.holders.get(id(owned), -1) not in {-1, *present}])

    def share(self, sockets: Sequence[OwnedSocket]) -> None:
        """Among the slots that serve, each its part."""
        members = self.serving_slots
        for number, owned in enumerate(sockets if members else ()):
            member = members[number % len(members)]
            self.holders[id(owned)] = member.slot
            if member.outbox is not None:
                member.outbox.post("ADOPT", {"sockets": [self.lease.wire(owned)]}, [owned.sock.fileno()])

    def ping(self) -> None:
        """Something that a zygote which hangs does not read, though it had read all that it was told: see `is_deaf`."""
        if self.zygote_alive and not self.outbox.unread:
            self.outbox.post("PING")

    def is_deaf(self, ticks: int = DEAF_TICKS) -> bool:
        """Called once a tick: True when the zygote has not read or noticed something for so many of them."""
        if not self.zygote_alive or self.zygote_reaped or self.state is State.STARTING:
            return False
        deaf = self.outbox.unread or any(member.dead for member in self.members.values())
        self.deaf_ticks = self.deaf_ticks + 1 if deaf else 0
        return self.deaf_ticks >= ticks

    def kill_zygote(self) -> None:
        if not self.zygote_alive or self.zygote_reaped:
            return
        try:
            if self.zygote_pidfd >= 0:
                signal.pidfd_send_signal(self.zygote_pidfd, signal.SIGKILL)
            else:
                os.kill(self.pid, signal.SIGKILL)  # our child: its pid is its own until we reap it
        except ProcessLookupError:
            pass  # dead, and reaped by somebody else

    def kill(self) -> None:
        """Every process, at once."""
        self.kill_zygote()
        for member in self.members.values():
            member.kill()

    def close(self) -> None:
        if self.alarm is not None:
            self.alarm.cancel()
        self.outbox.close()
        self._close_stderr()
        if self.zygote_pidfd >= 0:
            os.close(self.zygote_pidfd)
            self.zygote_pidfd = -1
        for member in self.members.values():
            self.loop.unwatch(member.pidfd)
            member.close()
        self.members.clear()

    def _listen_to(self, member: Member) -> None:
        member.outbox = Outbox(
            member.channel,
            self.loop,
            lambda message: self.ears.on_member_message(self, member, message),
            lambda error: self.ears.on_bad_frame(self, error),
            lambda: None,
        )

    def _close_stderr(self) -> None:
        if self.stderr >= 0:
            self.loop.unwatch(self.stderr)
            os.close(self.stderr)
            self.stderr = -1
