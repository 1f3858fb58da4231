"""The side of a handoff that takes: loads what is offered, and begins to serve it once it has said COMMITTED.

Which step follows which is in `handoff_states`; here is what each of them means.
"""

from __future__ import annotations

import os
import socket
from typing import Any, Final, Protocol

from hotproxy.clock import TimerWheel
from hotproxy.net.loop import Loop
from hotproxy.restarter.frames import Channel, ChannelFull, FrameError, Message
from hotproxy.worker import records
from hotproxy.worker.channel_end import ChannelEnd
from hotproxy.worker.handoff_states import TAKING, Do, Heard, Taking
from hotproxy.worker.records import Record

# Reasons for a refusal that are said one by one; a thousand are one reason a thousand times.
MAX_REASONS: Final = 5


class Loaded(Protocol):
    """A connection that was loaded, and does nothing yet."""

    def start(self) -> None: ...

    def discard(self) -> None: ...


class Arrivals(Protocol):
    """Who makes connections of records: the worker's listeners and pools."""

    def load(self, kind: str, listener: str, state: dict[str, object], socks: list[socket.socket]) -> Loaded:
        """Raises ValueError with the reason, and OSError for descriptors that are no sockets; `socks` are the caller's
        then as before."""


class TakerOwner(Protocol):
    """The worker's `Handoff`."""

    def on_taken(self, taker: Taker) -> None:
        """Over; the last thing a taker does."""

    def on_bug(self, what: str, error: Exception) -> None:
        """An exception of ours in one connection; the others go on."""


class Taker:
    """One channel from one giver."""

    __slots__ = (
        "_arrivals", "_count", "_end", "_idle", "_loaded", "_number", "_owner", "_refused", "_state", "_step_s",
        "_until_s", "idle", "moved", "pair", "reasons", "refused", "why",
    )  # fmt: skip

    def __init__(
        self,
        channel: Channel,
        pair: int,
        arrivals: Arrivals,
        owner: TakerOwner,
        loop: Loop,
        wheel: TimerWheel,
        step_s: float,
        until_s: float,
    ) -> None:
        """`until_s`: when the giver is given up, whatever it does."""
        self.pair = pair
        self.moved = 0  # clients' connections
        self.idle = 0  # idle ones to endpoints
        self.refused = 0
        self.reasons: list[str] = []
        self.why = ""  # it ended otherwise than by the giver's last word
        self._end = ChannelEnd(channel, self, loop, wheel)
        self._arrivals = arrivals
        self._owner = owner
        self._step_s = step_s
        self._until_s = until_s
        self._state = Taking.WAITING
        self._number = 0  # of the wave
        self._count = 0  # records of the wave so far
        self._loaded: list[Loaded] = []
        self._idle = 0  # of these, connections to endpoints
        self._refused: list[int] = []

    def begin(self) -> None:
        """Listen to the giver."""
        self._end.begin()
        self._end.wait_until(self._until_s)

    def stop(self) -> None:
        """This worker drains: it takes nothing more, and forgets what is not its own yet."""
        self.why = "this worker drains"
        self._hear(Heard.STOP)

    # -- events

    def on_message(self, message: Message) -> None:
        if message.kind not in ("OFFER", "COMMIT"):
            self.on_nonsense(f"{message.kind} is not for who takes")
            return
        # A wave has the next number; everything about it has the same.
        expected = self._number + (self._state is Taking.WAITING)
        if message.fields["wave"] != expected:
            self.on_nonsense(f"{message.kind} is about wave {message.fields['wave']}, {expected} is due")
        elif message.kind == "COMMIT":
            self._hear(Heard.COMMIT)
        else:
            try:
                offered = records.read(message.fields["records"], message.fds)
            except FrameError as error:
                self.on_nonsense(str(error))
                return
            if self._state is Taking.PREPARED:
                self._close_all(offered)
                self.on_nonsense("OFFER after the last one of its wave")
                return
            self._number = expected
            self._load(offered)
            self._hear(Heard.LAST_OFFER if message.fields["last"] else Heard.OFFER)

    def on_nonsense(self, why: str) -> None:
        self.why = f"it breaks the protocol: {why}"
        self._hear(Heard.NONSENSE)

    def on_gone(self) -> None:
        if self._state is not Taking.WAITING:
            self.why = "the other worker is gone"
        self._hear(Heard.GONE)

    def on_silence(self) -> None:
        self.why = "its time was over" if self._state is Taking.WAITING else f"no word in {self._step_s:g} s"
        self._hear(Heard.TIMEOUT)

    # -- steps

    def _hear(self, heard: Heard) -> None:
        before = self._state
        self._state, actions = TAKING[before, heard]
        if self._state is Taking.DONE and not (heard is Heard.GONE and before is Taking.WAITING):
            self.why = self.why or f"it breaks the protocol: {heard.value} while {before.value}"
        for action in actions:
            self._do(action)

    def _do(self, action: Do) -> None:
        if action is Do.LOAD:
            pass  # it is: the event came with it
        elif action is Do.SAY_TAKEN:
            self._say("TAKEN", {"wave": self._number})
        elif action is Do.SAY_PREPARED:
            self._say("PREPARED", {"wave": self._number, "refused": self._refused})
        elif action is Do.COMMITTED:
            self._commit()
        elif action is Do.DISCARD:
            self._discard()
        else:
            self._close()

    def _load(self, offered: list[Record]) -> None:
        for record in offered:
            try:
                self._loaded.append(self._load_one(record))
                self._idle += not record.listener
            except (ValueError, OSError) as error:
                self._refuse(str(error) or type(error).__name__)
            except Exception as error:
                self._owner.on_bug("a connection can't be loaded", error)
                self._refuse("internal error")
            self._count += 1

    def _load_one(self, record: Record) -> Loaded:
        socks: list[socket.socket] = []
        try:
            state = records.state_of(record)
            while record.fds:
                socks.append(_stream_socket(record.fds.pop(0)))
            return self._arrivals.load(record.kind, record.listener, state, socks)
        except BaseException:
            for sock in socks:
                sock.close()
            records.close(record)
            raise

    def _refuse(self, why: str) -> None:
        self._refused.append(self._count)
        self.refused += 1
        if why not in self.reasons and len(self.reasons) < MAX_REASONS:
            self.reasons.append(why)

    def _commit(self) -> None:
        try:
            # To one who is dead as well: it never takes back what it has committed without our end, so they are ours.
            self._end.send("COMMITTED", {"wave": self._number})
        except ChannelFull:
            self._discard()
            self.on_nonsense("it does not read")
            return
        loaded, self._loaded = self._loaded, []
        self._count, self._refused = 0, []
        self._end.wait_until(self._until_s)
        self.idle += self._idle
        self.moved += len(loaded) - self._idle
        self._idle = 0
        for connection in loaded:
            try:
                connection.start()
            except Exception as error:
                self._owner.on_bug("a connection can't be started", error)

    def _discard(self) -> None:
        loaded, self._loaded = self._loaded, []
        for connection in loaded:
            try:
                connection.discard()
            except Exception as error:
                self._owner.on_bug("a connection can't be discarded", error)

    def _say(self, kind: str, fields: dict[str, Any]) -> None:
        self._end.wait(self._step_s)
        try:
            self._end.send(kind, fields)
        except ChannelFull:
            self.on_nonsense("it does not read")

    @staticmethod
    def _close_all(offered: list[Record]) -> None:
        for record in offered:
            records.close(record)

    def _close(self) -> None:
        self._end.close()
        self._owner.on_taken(self)


def _stream_socket(fd: int) -> socket.socket:
    """Owns `fd`. Raises OSError or ValueError for anything that no connection can have, and then it is closed."""
    try:
        sock = socket.socket(fileno=fd)
    except OSError:
        os.close(fd)
        raise
    streams = sock.type == socket.SOCK_STREAM and sock.family in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX)
    if not streams or sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        sock.close()
        raise ValueError("a descriptor is no stream socket, or listens")
    # It is already, as its other holder's is: set, never toggled. What changes is how Python sees it.
    sock.setblocking(False)
    return sock
