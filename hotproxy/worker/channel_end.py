"""One end of the channel between a giver and a taker: all that has come is heard, and so is that nothing comes in time.

Time is measured in two parts. A process that was stopped, or a machine that slept, finds the first part over when it
wakes, though the other side had no chance to answer either: so both get the rest before anybody says that it is late.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from hotproxy.clock import Timer, TimerWheel
from hotproxy.net.loop import Loop
from hotproxy.restarter.frames import Channel, ChannelClosed, FrameError, Message


class Partner(Protocol):
    """A `Giver` or a `Taker`. Closes the end when it has heard enough, from inside as well."""

    def on_message(self, message: Message) -> None:
        """Its descriptors are closed afterwards, but for those that were taken out."""

    def on_nonsense(self, why: str) -> None:
        """A frame that breaks the rules. What follows it is heard too, unless this closes the end."""

    def on_gone(self) -> None:
        """The other end is closed, and all that it had said before was heard. The last that comes."""

    def on_silence(self) -> None:
        """Nothing has come in the time of the last `wait` or `wait_until`."""


class ChannelEnd:
    """Owns `channel`. `begin` it; `close` it."""

    __slots__ = ("_channel", "_late_s", "_loop", "_partner", "_rest_s", "_timer", "_wheel", "open")

    def __init__(self, channel: Channel, partner: Partner, loop: Loop, wheel: TimerWheel) -> None:
        self.open = True
        self._channel = channel
        self._partner = partner
        self._loop = loop
        self._wheel = wheel
        self._timer = Timer(self, "answer")
        self._late_s = 0.0  # when it is too late
        self._rest_s = 0.0  # of the second part, at least; 0: there is none

    def begin(self) -> None:
        self._loop.add_reader(self._channel.fileno(), self.read)

    def wait(self, seconds: float) -> None:
        """Something must come within so long."""
        self._late_s = self._wheel.clock.now_s() + seconds
        self._rest_s = seconds / 4
        self._wheel.arm(self._timer, seconds / 2)

    def wait_until(self, deadline_s: float) -> None:
        """Something must come until then, in one part: an order's deadline, and nobody's fault."""
        self._rest_s = 0.0
        self._wheel.arm_at(self._timer, deadline_s)

    def read(self) -> None:
        """Until it is empty: a connection that is started before that keeps the loop busy, and the other side waits
        (19.6 s instead of 0.1 were seen)."""
        while self.open:
            try:
                message = self._channel.receive()
            except ChannelClosed:
                self._partner.on_gone()
                return
            except FrameError as error:
                self._partner.on_nonsense(str(error))
                continue
            if message is None:
                return
            try:
                self._partner.on_message(message)
            finally:
                message.close_fds()

    def send(self, kind: str, fields: dict[str, Any], fds: Sequence[int] = ()) -> None:
        """Raises ChannelFull. That the other end is closed is heard in a moment, behind what it had said."""
        try:
            self._channel.send(kind, fields, fds)
        except ChannelClosed:
            pass

    def on_timeout(self, timer: Timer) -> None:
        self.read()  # what has come in this very moment counts
        if timer.armed or not self.open:
            return
        if self._rest_s:
            self._wheel.arm(timer, max(self._late_s - self._wheel.clock.now_s(), self._rest_s))
            self._rest_s = 0.0
        else:
            self._partner.on_silence()

    def close(self) -> None:
        self.open = False
        self._timer.drop()
        self._loop.remove_reader(self._channel.fileno())
        self._channel.close()
