"""The side of a handoff that gives: freezes a wave, offers it, and lets go of it when it is another worker's.

Which step follows which is in `handoff_states`; here is what each of them means. Every turn is short: a wave is frozen
and written down in about 10 ms, and whoever is not in it is served meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Protocol

from hotproxy.clock import Timer, TimerWheel
from hotproxy.net.loop import Loop
from hotproxy.restarter.frames import Channel, ChannelFull, Message
from hotproxy.worker import records
from hotproxy.worker.channel_end import ChannelEnd
from hotproxy.worker.departures import Departure, Departures
from hotproxy.worker.handoff_states import GIVING, Do, Giving, Heard
from hotproxy.worker.records import Record

# The first wave is small: if it fails, few have waited for it.
CANARY: Final = 16
# A wave stands still for as long as all of it takes (0.1 ms a connection with both its sides), so it is far below the
# 1,000 at which descriptors in flight come near common limits.
WAVE: Final = 250
# Connections with much to send are frozen in smaller waves: what can be written down in some 10 ms.
MAX_WAVE_BYTES: Final = 4 * 1024 * 1024
# How many are frozen between two looks at that.
FEW: Final = 16
# The kernel is out of something that a frame needs: once more, while the step's time lasts.
RETRY_S: Final = 0.05

NO_LIMIT: Final = 1 << 60

_ANSWERS: Final = {"TAKEN": Heard.TAKEN, "PREPARED": Heard.PREPARED, "COMMITTED": Heard.COMMITTED}


class GiverOwner(Protocol):
    """The worker's `Handoff`."""

    def on_stuck(self, giver: Giver, committed: bool) -> None:
        """The taker does not answer. `committed`: to COMMIT, so it must die; comes again while it does not."""

    def on_given(self, giver: Giver) -> None:
        """Over; the last thing a giver does."""

    def on_bug(self, what: str, error: Exception) -> None:
        """An exception of ours in one connection; the others go on."""


class Giver:
    """One channel to one taker, which gets up to `share` of the clients' connections."""

    __slots__ = (
        "_batches", "_departures", "_end", "_idle", "_number", "_owner", "_refused", "_retry", "_share", "_state",
        "_step_s", "_unsent", "_until_s", "_wave", "_wheel", "begun", "moved", "pair", "stays", "stuck", "why",
    )  # fmt: skip

    def __init__(
        self,
        channel: Channel,
        pair: int,
        departures: Departures,
        share: int,
        idle: int,
        stays: bool,
        owner: GiverOwner,
        loop: Loop,
        wheel: TimerWheel,
        step_s: float,
        until_s: float,
    ) -> None:
        """`idle`: how many idle connections to endpoints go along. `stays`: this worker goes on with what it does not
        give away. `until_s`: no wave is begun after it."""
        self.pair = pair
        self.stays = stays
        self.moved = 0  # clients' connections
        self.why = ""  # it ended before its time
        self.begun = False
        self.stuck = False  # the taker does not answer COMMIT
        self._end = ChannelEnd(channel, self, loop, wheel)
        self._departures = departures
        self._share = share
        self._idle = idle
        self._owner = owner
        self._wheel = wheel
        self._step_s = step_s
        self._until_s = until_s
        self._state = Giving.IDLE
        self._number = 0  # of the wave
        self._wave: list[Departure] = []
        self._batches: list[tuple[list[list[Any]], list[int]]] = []  # of the wave, not offered yet
        self._refused: set[int] = set()  # places in the wave
        self._unsent: tuple[str, dict[str, Any], list[int]] | None = None
        self._retry = Timer(self, "retry")

    def gets_the_rest(self) -> None:
        """Of all the takers this one is the last."""
        self._share = self._idle = NO_LIMIT

    def begin(self) -> None:
        """Offer the first wave. The owner may hear of the end from inside."""
        self.begun = True
        self._end.begin()
        self._look()

    def stop(self) -> None:
        """This worker drains: no further wave. One that is committed already is brought to its end."""
        self.why = self.why or "its time was over"
        self._hear(Heard.STOP)

    # -- events

    def on_message(self, message: Message) -> None:
        if message.fds:
            self.on_nonsense(f"{message.kind} came with descriptors")
            return
        heard = _ANSWERS.get(message.kind)
        if heard is None:
            self.on_nonsense(f"{message.kind} is not for who gives")
        elif message.fields["wave"] != self._number:
            self.on_nonsense(f"{message.kind} is about wave {message.fields['wave']}, this is {self._number}")
        elif self._unsent is not None:
            self.on_nonsense(f"{message.kind} before it was asked")
        elif heard is Heard.TAKEN and not self._batches:
            self.on_nonsense("TAKEN, and nothing is left to offer")
        elif heard is Heard.PREPARED and not self._note_refused(message.fields["refused"]):
            self.on_nonsense("PREPARED refuses what was not offered")
        else:
            self._hear(heard)

    def _note_refused(self, numbers: list[Any]) -> bool:
        """False when they make no sense."""
        possible = range(len(self._wave))
        if self._batches or not all(type(number) is int and number in possible for number in numbers):
            return False
        if self._state is Giving.OFFERING:
            self._refused = set(numbers)
        return True

    def on_nonsense(self, why: str) -> None:
        self.why = self.why or f"it breaks the protocol: {why}"
        self._hear(Heard.NONSENSE)

    def on_gone(self) -> None:
        self.why = self.why or "the other worker is gone"
        self._hear(Heard.GONE)

    def on_silence(self) -> None:
        self.why = self.why or f"no answer in {self._step_s:g} s"
        self._hear(Heard.TIMEOUT)

    def on_timeout(self, timer: Timer) -> None:
        """What could not be sent, once more."""
        self._flush()

    # -- steps

    def _hear(self, heard: Heard) -> None:
        before = self._state
        self._state, actions = GIVING[before, heard]
        regular = heard is Heard.NOTHING or (heard is Heard.COMMITTED and before is not Giving.OFFERING)
        if self._state is Giving.DONE and not regular:
            self.why = self.why or f"{heard.value} while {before.value}"
        for action in actions:
            self._do(action)

    def _do(self, action: Do) -> None:
        if action is Do.OFFER:
            wires, fds = self._batches.pop(0)
            self._send("OFFER", {"wave": self._number, "last": not self._batches, "records": wires}, fds, self._step_s)
        elif action is Do.COMMIT:
            # It has answered a moment ago; and what follows is a kill.
            self._send("COMMIT", {"wave": self._number}, [], 2 * self._step_s)
        elif action is Do.RELEASE:
            self._release()
        elif action is Do.THAW:
            self._thaw()
        elif action is Do.STUCK:
            self.stuck = True
            self._end.wait(self._step_s)
            self._owner.on_stuck(self, True)
        elif action is Do.SUSPECT:
            self._owner.on_stuck(self, False)
        elif action is Do.NEXT:
            self._look()
        else:
            self._close()

    def _look(self) -> None:
        """The next wave, if there is one."""
        limit = WAVE if self._number else CANARY
        written: list[Record] = []
        self._wave = []
        if self._wheel.clock.now_s() >= self._until_s:
            self.why = self.why or "its time was over"
        else:
            size = 0
            while len(self._wave) < limit and size < MAX_WAVE_BYTES and (frozen := self._freeze(limit)):
                for departure in frozen:
                    record = self._write(departure)
                    if record is not None:
                        self._wave.append(departure)
                        written.append(record)
                        size += len(record.state)
        if not self._wave:
            self._hear(Heard.NOTHING)
            return
        self._number += 1
        self._refused.clear()
        self._batches = list(records.batches(written))
        self._hear(Heard.WAVE)

    def _freeze(self, limit: int) -> list[Departure]:
        """A few more for this wave."""
        few = min(FEW, limit - len(self._wave))
        if self._share > 0:
            frozen = self._departures.freeze(min(few, self._share))
            self._share = self._share - len(frozen) if frozen else 0
            if frozen:
                return frozen
        if self._idle > 0:
            frozen = self._departures.freeze_idle(min(few, self._idle))
            self._idle = self._idle - len(frozen) if frozen else 0
            return frozen
        return []

    def _write(self, departure: Departure) -> Record | None:
        movable = departure.movable
        try:
            fds = [sock.fileno() for sock in movable.socks()]
            return records.write(movable.kind, departure.listener, movable.dump(), fds)
        except Exception as error:  # the connection stays, and the others move
            self._owner.on_bug("a connection can't be written down", error)
            self._guarded(departure.movable.thaw)
            return None

    def _release(self) -> None:
        wave, self._wave = self._wave, []
        for number, departure in enumerate(wave):
            if number in self._refused:
                self._guarded(departure.movable.thaw)
            else:
                self.moved += bool(departure.listener)
                self._guarded(departure.movable.release)

    def _thaw(self) -> None:
        wave, self._wave = self._wave, []
        for departure in wave:
            self._guarded(departure.movable.thaw)
            if not self.stays:
                self._departures.take_back(departure)

    def _guarded(self, act: Callable[[], None]) -> None:
        try:
            act()
        except Exception as error:
            self._owner.on_bug("a connection that moves", error)

    def _send(self, kind: str, fields: dict[str, Any], fds: list[int], patience_s: float) -> None:
        self._unsent = (kind, fields, fds)
        self._end.wait(patience_s)
        self._flush()

    def _flush(self) -> None:
        if self._unsent is None:
            return
        try:
            self._end.send(*self._unsent)
        except ChannelFull:
            self._wheel.arm(self._retry, RETRY_S)
            return
        self._unsent = None

    def _close(self) -> None:
        self._unsent = None
        self._retry.drop()
        self._end.close()
        self._owner.on_given(self)
