"""A worker's part in the moves that the supervisor orders: GIVE this many to that channel, TAKE what comes on this one.

GIVE is for all that there is, or for a share that a worker gives to a new one and goes on itself (`stays`).
It gives to one taker after the other, so that never more than a wave stands still; a giver that waits for the end of a
taker that hangs does not hold up the next one. It may take from several at once. The words are in `handoff_states`.
"""

from __future__ import annotations

import socket
import traceback
from collections.abc import Callable, Mapping
from typing import Any, Final

from hotproxy.clock import TimerWheel
from hotproxy.net.loop import Loop
from hotproxy.proxy.filter_chain import DownstreamConnection
from hotproxy.proxy.listener import Listener
from hotproxy.proxy.runtime import Runtime
from hotproxy.restarter.frames import Channel, FrameError, Message
from hotproxy.restarter.hello import NO_LIMIT_S
from hotproxy.restarter.log import ERROR, INFO, WARNING, log
from hotproxy.upstream.moving import KIND as IDLE_KIND
from hotproxy.worker.departures import Departures
from hotproxy.worker.giver import Giver
from hotproxy.worker.taker import Loaded, Taker

# More channels than a giver has takers or a taker givers; a message that names more is a mistake.
MAX_CHANNELS: Final = 2048


class Arrivals:
    """Makes connections of this worker from what another one has written down."""

    __slots__ = ("_listeners", "_runtime")

    def __init__(self, listeners: Mapping[str, Listener], runtime: Runtime) -> None:
        self._listeners = listeners
        self._runtime = runtime

    def load(self, kind: str, listener: str, state: dict[str, object], socks: list[socket.socket]) -> Loaded:
        """Raises ValueError, OSError; `socks` are the caller's then."""
        if kind == IDLE_KIND:
            if len(socks) != 1:
                raise ValueError(f"{len(socks)} descriptors came with an idle connection to an endpoint")
            return self._runtime.snapshot.pools.load_idle(state, socks[0], self._runtime)
        found = self._listeners.get(listener)
        if found is None:
            raise ValueError(f"listener '{listener}' is no longer there")
        return found.adopt(state, socks)


class Handoff:
    """All moves of one worker. `say(kind, fields)` goes to the supervisor."""

    __slots__ = (
        "_arrivals", "_count_bug", "_departures", "_givers", "_listeners", "_loop", "_returned", "_runtime", "_say",
        "_serial", "_takers", "_wheel",
    )  # fmt: skip

    def __init__(
        self,
        listeners: Mapping[str, Listener],
        runtime: Runtime,
        loop: Loop,
        wheel: TimerWheel,
        serial: int,
        say: Callable[[str, dict[str, Any]], None],
        count_bug: Callable[[], None],
    ) -> None:
        self._listeners = listeners
        self._runtime = runtime
        self._loop = loop
        self._wheel = wheel
        self._serial = serial
        self._say = say
        self._count_bug = count_bug
        self._arrivals = Arrivals(listeners, runtime)
        self._departures: Departures | None = None
        self._returned: set[DownstreamConnection] = set()  # they stay for good
        self._givers: list[Giver] = []  # the first is at work, and those before it that are stuck
        self._takers: list[Taker] = []

    # -- the supervisor speaks

    def give(self, message: Message, leaving: bool) -> None:
        """GIVE; owns its descriptors. Raises FrameError."""
        fields = message.fields
        pairs, (step_s, until_s) = fields["pairs"], _deadlines(fields)
        if len(pairs) != len(message.fds) or not pairs:
            raise FrameError(f"{len(pairs)} channels are named, and {len(message.fds)} descriptors came")
        if not all(isinstance(each, list) and [type(part) for part in each[:2]] == [int, int] for each in pairs):
            raise FrameError("a pair is a number and a share")
        stays = fields.get("stays", False)
        if not isinstance(stays, bool):
            raise FrameError("stays is true or false")
        channels = _channels(message)
        if self._departures is None:
            self._departures = Departures(self._listeners, self._runtime.snapshot.pools, self._returned, self.on_bug)
        idle, clients = self._departures.idle, max(self._departures.left, 1)
        givers = []
        for (number, share, *_), channel in zip(pairs, channels, strict=True):
            along = idle * share // clients if stays else idle // len(pairs)
            giver = Giver(
                channel, number, self._departures, share, along, stays, self, self._loop, self._wheel, step_s, until_s
            )
            givers.append(giver)
        if not stays:
            givers[-1].gets_the_rest()
        self._givers += givers
        if leaving:
            self._stop(givers)
        else:
            self._begin_next()

    def decline(self, fields: Mapping[str, Any]) -> None:
        """GIVE whose channels were lost on the way, for want of descriptors: who ordered it must not wait for them."""
        pairs = [
            each[0] for each in fields.get("pairs", ()) if isinstance(each, list) and each and type(each[0]) is int
        ]
        left = 0 if fields.get("stays") else sum(len(listener.connections) for listener in self._listeners.values())
        for number in pairs:
            refused = left if number == pairs[-1] else 0
            why = "no descriptors for its channels"
            self._say("MOVED", {"serial": self._serial, "pair": number, "moved": 0, "refused": refused, "why": why})

    def take(self, message: Message, leaving: bool) -> None:
        """TAKE; owns its descriptors. Raises FrameError."""
        step_s, until_s = _deadlines(message.fields)
        if len(message.fds) != 1 or len(self._takers) >= MAX_CHANNELS:
            raise FrameError(f"{len(message.fds)} descriptors came for one channel")
        (channel,) = _channels(message)
        if leaving:
            channel.close()  # who gives finds its end, and keeps what it has
            return
        taker = Taker(channel, message.fields["pair"], self._arrivals, self, self._loop, self._wheel, step_s, until_s)
        self._takers.append(taker)
        taker.begin()

    def stop(self) -> None:
        """This worker drains: nothing more comes or goes, but for a wave of which nobody knows yet whose it is."""
        self._stop(list(self._givers))
        for taker in list(self._takers):
            taker.stop()

    @staticmethod
    def _stop(givers: list[Giver]) -> None:
        for giver in reversed(givers):  # so that none of them begins when the one before it ends
            giver.stop()

    # -- givers and takers speak

    def on_stuck(self, giver: Giver, committed: bool) -> None:
        self._say("STUCK", {"serial": self._serial, "pair": giver.pair, "committed": committed})
        if committed:
            self._begin_next()

    def on_given(self, giver: Giver) -> None:
        self._givers.remove(giver)
        # What remains is known to the last of those by whom all was to go.
        leaves = not giver.stays and all(each.stays for each in self._givers)
        left = self._departures.left if leaves and self._departures is not None else 0
        fields = {"pair": giver.pair, "moved": giver.moved, "refused": left, "why": giver.why}
        self._say("MOVED", {"serial": self._serial, **fields})
        if not self._givers:
            self._departures = None
        self._begin_next()

    def on_taken(self, taker: Taker) -> None:
        self._takers.remove(taker)
        for reason in taker.reasons:
            log(WARNING, f"a connection of another worker was refused: {reason}")
        if taker.why:
            log(WARNING, f"a move to this worker ended early: {taker.why}")
        if taker.moved or taker.idle or taker.refused:
            log(INFO, f"took {taker.moved} connections over, and {taker.idle} idle ones; refused {taker.refused}")

    def on_bug(self, what: str, error: Exception) -> None:
        self._count_bug()
        log(ERROR, f"internal error: {what}:\n{''.join(traceback.format_exception(error))}")

    def _begin_next(self) -> None:
        """The first that is not at work, unless one that is not stuck is."""
        for giver in self._givers:
            if not giver.begun:
                giver.begin()
                return
            if not giver.stuck:
                return


def _channels(message: Message) -> list[Channel]:
    """Raises FrameError for descriptors that are no channels; all are closed then."""
    channels: list[Channel] = []
    try:
        while message.fds:
            sock = socket.socket(fileno=message.fds[0])
            del message.fds[0]
            channels.append(Channel(sock))
            if sock.family != socket.AF_UNIX or sock.type != socket.SOCK_SEQPACKET:
                raise FrameError("a descriptor is no channel")
    except (OSError, FrameError) as error:
        for channel in channels:
            channel.close()
        raise FrameError(f"a channel can't be used: {error}") from None
    return channels


def _deadlines(fields: Mapping[str, Any]) -> tuple[float, float]:
    step_s, until_s = float(fields["step_s"]), float(fields["until_s"])
    # CLOCK_MONOTONIC is the machine's age: "no limit" is added to a few years of it.
    if not (0.0 < step_s <= NO_LIMIT_S and 0.0 < until_s <= 10 * NO_LIMIT_S):
        raise FrameError(f"steps of {step_s:g} s until {until_s:g}")
    return step_s, until_s
