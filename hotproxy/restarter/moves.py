r"""Connections on their way from one slot to another. Here are the channels, the sums and the deaths.

    begin   slots that leave give all that they have to those that stay
    share   slots that stay give one that is new as much as each of them keeps

    supervisor:  a socketpair for each pair    TAKE one end to who takes, GIVE the other to who gives
    the slots:   OFFER, PREPARED, COMMIT, COMMITTED among themselves; their records are nobody else's business
    back here:   MOVED when a pair is over     STUCK when who takes does not answer COMMIT: it is killed

A slot that dies ends its pairs: who takes finds an end of the channel and forgets what was not committed; who gives
finds one and keeps what was not. So nobody waits for the dead, and nothing has two owners.

A slot gives when nothing more comes to it: what came after its last wave would stay there, and drain.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from hotproxy.restarter.frames import HANDOFF, MAX_FDS
from hotproxy.restarter.hello import MAX_COUNT
from hotproxy.restarter.live import LEAVING, LiveGeneration, Member
from hotproxy.restarter.log import ERROR, WARNING, log
from hotproxy.restarter.loop import Alarm, Loop

Slot = tuple[LiveGeneration, Member]

# A giver's channels travel in one message; beyond that many takers nobody notices an uneven load.
MAX_PAIRS: Final = MAX_FDS
# How often givers are looked at that have not said yet how it went.
LOOK_S: Final = 1.0
# What a zygote that died had in its hands is lost; those of its slots that were told say within this how it went.
LAST_WORDS_S: Final = 2.0
# A worker that dies is forked again, and accepts, within some 10 ms.
AGAIN_S: Final = 0.5
# Heartbeats are looked at once a second, and stand still for three of these looks before anybody is said to hang.
SUSPICIOUS_LOOKS: Final = 6


@dataclass(slots=True, eq=False)
class Move:
    """One leaving slot's, one leaving generation's, or one new slot's share. `done` is called once, when its last pair
    is over."""

    givers: Sequence[Slot]
    takers: Callable[[], Sequence[Slot]]  # who could take at this moment
    done: Callable[[Move], None]
    began_s: float
    until_s: float  # no wave begins later
    stays: bool = False  # who gives keeps the rest, and goes on accepting
    pairs: set[int] = field(default_factory=set)
    moved: int = 0
    refused: int = 0
    ms: int = 0
    whys: list[str] = field(default_factory=list)  # what went wrong, one line for each pair where something did
    failed: set[int] = field(default_factory=set)  # takers with whom it did
    again: bool = True  # there may be a second attempt
    over_s: float = 0.0  # nobody is waited for any longer
    alarm: Alarm | None = None


@dataclass(slots=True, eq=False)
class _Pair:
    move: Move
    giver: Slot
    taker: Slot


class Moves:
    """All that are under way. `count(moved, refused)` is called with what is to be added."""

    def __init__(
        self,
        loop: Loop,
        connections: Callable[[int], int],
        hangs: Callable[[int], bool],
        count: Callable[[int, int], None],
    ) -> None:
        """`connections(serial)`: how many a slot holds, more or less. `hangs(serial)`: it has no heartbeat."""
        self._loop = loop
        self._connections = connections
        self._hangs = hangs
        self._count = count
        self._pairs: dict[int, _Pair] = {}
        self._given_up: dict[int, _Pair] = {}  # their givers may still say how it went, or that they are stuck
        self._waiting: list[Move] = []  # for what still comes to one of their givers
        # Pairs of an earlier supervisor may still be under way, and must not be taken for one of ours.
        self._last = time.monotonic_ns()

    @property
    def busy(self) -> bool:
        return bool(self._pairs or self._waiting)

    def begin(
        self,
        givers: Sequence[Slot],
        takers: Callable[[], Sequence[Slot]],
        until_s: float,
        done: Callable[[Move], None],
    ) -> Move:
        """All that these givers have. `done` may be called from inside, when there is nobody to connect."""
        return self._begin(Move(givers, takers, done, self._loop.now_s(), until_s))

    def share(self, givers: Sequence[Slot], taker: Slot, until_s: float, done: Callable[[Move], None]) -> Move:
        """As `begin`; but the givers stay, and each of them gives as little as makes the taker their equal."""
        return self._begin(Move(givers, lambda: [taker], done, self._loop.now_s(), until_s, stays=True))

    def _begin(self, move: Move) -> Move:
        givers = [slot for slot in move.givers if _is_there(slot)]
        if self._take_in(givers):
            self._waiting.append(move)
            return move
        takers = [slot for slot in move.takers() if _is_there(slot) and slot[1].state not in LEAVING]
        takers = [slot for slot in takers if slot[1].serial not in move.failed]
        taken = [self._connections(member.serial) for _, member in takers]
        loads = [self._connections(member.serial) for _, member in givers]
        shares: list[list[tuple[int, int]]] = []
        if takers and move.stays:
            shares = [[(0, share)] if share else [] for share in skim(loads, taken[0])]
        elif takers:
            # One more than there are: a slot whose cell is a tick old may hold connections that nobody knows of yet.
            shares = spread([load + 1 for load in loads], taken)
        for giver, parts in zip(givers, shares, strict=bool(shares)):
            self._connect(move, giver, [(takers[index], share) for index, share in parts])
        if move.pairs:
            move.refused = 0  # what was, is tried again
            # Long after the slots' own deadlines: for a zygote that died with GIVE or MOVED in its hands.
            move.over_s = move.until_s + 2 * max(_step_s(taker) for taker in takers)
            self._look_later(move)
        else:
            self._end(move)
        return move

    def _take_in(self, givers: Sequence[Slot]) -> bool:
        """Whether something still comes to one of them."""
        serials = {member.serial for _, member in givers}
        return any(pair.taker[1].serial in serials for pair in self._pairs.values())

    def _begin_waiting(self) -> None:
        waiting, self._waiting = self._waiting, []
        for move in waiting:
            self._begin(move)

    def on_moved(self, serial: int, pair: int, moved: int, refused: int, why: str) -> None:
        """A giver says that a pair is over."""
        known = self._of(serial, pair)
        if known is None or not (0 <= moved <= MAX_COUNT and 0 <= refused <= MAX_COUNT):
            log(WARNING, f"slot with serial {serial} says that pair {pair} is over, which it has no part in: ignored")
            return
        if self._given_up.pop(pair, None) is not None:
            self._count(moved, refused)
            return
        move = known.move
        move.moved += moved
        move.refused += refused
        self._count(moved, 0)  # what stays is counted when it stays for good
        if why:
            move.whys.append(why[:200])
            move.failed.add(known.taker[1].serial)
            keeps = "the rest of its" if move.stays else str(refused)
            log(
                WARNING,
                f"{_name(known.giver)} keeps {keeps} connections, {moved} moved to {_name(known.taker)}: {why[:200]}",
            )
        self._close(pair)

    def on_stuck(self, serial: int, pair: int, committed: bool) -> None:
        """A taker does not answer. After COMMIT its giver does not know whose a wave is, and only a dead one can't
        serve it any more. Before, it is left alone, unless it breathes no more: clients wait in its queues in vain."""
        known = self._of(serial, pair)
        if known is None:
            return
        live, member = known.taker
        if member.serial not in live.members:
            return
        if committed:
            log(ERROR, f"{_name(known.taker)} (pid {member.pid}) does not answer COMMIT: killed")
            member.kill()
        else:
            self._suspect(known.taker, SUSPICIOUS_LOOKS)

    def _suspect(self, slot: Slot, looks: int) -> None:
        """One that says nothing to who gives may hang; then clients would wait in its queues for half a minute."""
        live, member = slot
        if member.serial not in live.members or not looks:
            return
        if self._hangs(member.serial):
            log(ERROR, f"{_name(slot)} (pid {member.pid}) answers no OFFER and has no heartbeat: killed")
            member.kill()
        else:
            self._loop.after(LOOK_S, lambda: self._suspect(slot, looks - 1))

    def on_zygote_death(self, live: LiveGeneration) -> None:
        """Its slots may not have heard GIVE, and it may have heard MOVED."""
        for pair in self._pairs.values():
            if pair.giver[0] is live:
                pair.move.over_s = min(pair.move.over_s, self._loop.now_s() + LAST_WORDS_S)

    def on_death(self, serial: int) -> None:
        """What a dead giver would have said will not come."""
        for number in [number for number, pair in self._given_up.items() if pair.giver[1].serial == serial]:
            del self._given_up[number]
        for number, pair in list(self._pairs.items()):
            if pair.giver[1].serial == serial:
                pair.move.whys.append(f"{_name(pair.giver)} died")
                self._close(number)

    def _of(self, serial: int, number: int) -> _Pair | None:
        """The pair, if it is this giver's."""
        pair = self._pairs.get(number) or self._given_up.get(number)
        return pair if pair is not None and pair.giver[1].serial == serial else None

    def _connect(self, move: Move, giver: Slot, parts: list[tuple[Slot, int]]) -> None:
        pairs: list[list[int]] = []
        ends: list[socket.socket] = []
        for taker, share in parts:
            try:
                ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            except OSError as error:
                log(
                    ERROR,
                    f"no channel from {_name(giver)} to {_name(taker)}: {error.strerror}; what stays {_becomes(move)}",
                )
                continue
            self._last += 1
            live, member = taker
            step_s = _step_s(taker)
            fields: dict[str, Any] = {
                "serial": member.serial, "pair": self._last, "step_s": step_s, "until_s": move.until_s + step_s,
            }  # fmt: skip
            live.tell_member(member, "TAKE", fields, [theirs.fileno()])
            theirs.close()
            self._pairs[self._last] = _Pair(move, giver, taker)
            move.pairs.add(self._last)
            pairs.append([self._last, share])
            ends.append(ours)
        if pairs:
            live, member = giver
            fields = {
                "serial": member.serial, "pairs": pairs, "step_s": _step_s(parts[0][0]), "until_s": move.until_s,
                "stays": move.stays,
            }  # fmt: skip
            live.tell_member(member, "GIVE", fields, [end.fileno() for end in ends])
        for end in ends:
            end.close()

    def _close(self, number: int) -> None:
        move = self._pairs.pop(number).move
        move.pairs.discard(number)
        if not move.pairs:
            self._end(move)
        self._begin_waiting()

    def _look_later(self, move: Move) -> None:
        move.alarm = self._loop.after(LOOK_S, lambda: self._look(move))

    def _look(self, move: Move) -> None:
        """Nobody waits for a giver that is stopped (SIGSTOP, debugger) or whose word was lost. Nor for a zygote that
        hangs with MOVED in its hands: it is found deaf, and when it is dead, `on_zygote_death` hears of it."""
        move.alarm = None
        for live in {id(live): live for live in (self._pairs[number].giver[0] for number in move.pairs)}.values():
            live.ping()
        late = self._loop.now_s() >= move.over_s
        for number in sorted(move.pairs):
            pair = self._pairs[number]
            giver = pair.giver
            if late or self._hangs(giver[1].serial):
                why = "did not say in time how it went" if late else "has no heartbeat"
                log(WARNING, f"{_name(giver)} gives its connections away and {why}: what it still has {_becomes(move)}")
                self._given_up[number] = pair
                move.whys.append(f"{_name(giver)} {why}")
                self._close(number)
        if move.pairs:
            self._look_later(move)

    def _end(self, move: Move) -> None:
        if move.alarm is not None:
            move.alarm.cancel()
            move.alarm = None
        now_s = self._loop.now_s()
        if move.again and move.refused and move.failed and not move.stays and now_s < move.until_s:
            # Who takes has died or hung. The others, or who is forked in its place, can have what came back.
            move.again = False
            move.alarm = self._loop.after(AGAIN_S, lambda: self._begin_again(move))
            return
        if move.refused:
            self._count(0, move.refused)
        move.ms = round((now_s - move.began_s) * 1000)
        move.done(move)

    def _begin_again(self, move: Move) -> None:
        move.alarm = None
        self._begin(move)


def _is_there(slot: Slot) -> bool:
    live, member = slot
    return member.serial in live.members


def _step_s(taker: Slot) -> float:
    hello = taker[0].hello
    return hello.deadlines.handoff_s if hello is not None else 0.0


def _becomes(move: Move) -> str:
    return "is its own" if move.stays else "drains"


def _name(slot: Slot) -> str:
    live, member = slot
    return f"worker {live.epoch}/{member.slot}"


def spread(loads: Sequence[int], taken: Sequence[int]) -> list[list[tuple[int, int]]]:
    """For each giver with `loads[i]` connections: which takers get how many of them, as (index, share).

    Takers, which have `taken[j]` already, end up as equal as possible; and few pairs are made: each giver's part is one
    interval, so there are at most givers + takers - 1.
    """
    room = _fill(sum(loads), taken)
    parts: list[list[tuple[int, int]]] = []
    taker = 0
    for load in loads:
        part: list[tuple[int, int]] = []
        while load > 0:
            while not room[taker]:
                taker += 1
            share = min(load, room[taker]) if len(part) < MAX_PAIRS - 1 else load
            part.append((taker, share))
            room[taker] = max(room[taker] - share, 0)
            load -= share
        parts.append(part)
    return parts


def skim(loads: Sequence[int], taken: int) -> list[int]:
    """How much each with `loads[i]` connections gives to one who has `taken`, so that it has as many as the average:
    the fullest give most, and nobody ends below it."""
    wanted = (sum(loads) + taken) // (len(loads) + 1) - taken
    # Taking away from the highest is filling up the lowest, upside down.
    return _fill(max(wanted, 0), [-load for load in loads])


def _fill(amount: int, taken: Sequence[int]) -> list[int]:
    """As water finds its level: how much of `amount` each gets so that the lowest are raised to the same height."""
    order = sorted(range(len(taken)), key=lambda index: taken[index])
    count = len(order)
    below = 0
    level = 0
    for number, index in enumerate(order, 1):
        below += taken[index]
        level = (amount + below) // number
        if number < count and level <= taken[order[number]]:
            count = number
            break
    room = [0] * len(taken)
    for index in order[:count]:
        room[index] = level - taken[index]
    for index in order[: amount - sum(room)]:  # less than `count`: the division's remainder
        room[index] += 1
    return room


def may_move(giver: LiveGeneration, taker: LiveGeneration) -> bool:
    """Whether both speak the same version of the handoff."""
    versions = [live.hello.codecs.get(HANDOFF) if live.hello is not None else None for live in (giver, taker)]
    return versions[0] is not None and versions[0] == versions[1]


def what_moved(moved: int, refused: int, ms: int) -> str:
    """ ", 12 connections moved in 8 ms, 1 drains" for the sentence that a reload ends with."""
    if not moved and not refused:
        return ""
    text = f", {moved} connection{'s' * (moved != 1)} moved in {ms} ms"
    return text + (f", {refused} drain{'s' * (refused == 1)}" if refused else "")
