"""What every connection of a worker is given: loop, time, randomness, the current snapshot.

`worker/build.py` makes it.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from hotproxy.clock import Clock, TimerWheel
from hotproxy.net.connection import Gauge
from hotproxy.net.loop import Loop
from hotproxy.net.pipes import Pipes

if TYPE_CHECKING:
    from hotproxy.proxy.snapshot import Snapshot


class Runtime:
    """One per worker. `draining` and `snapshot` change, the rest does not."""

    __slots__ = ("loop", "wheel", "clock", "random", "buffered", "snapshot", "draining", "pipes")

    def __init__(
        self, loop: Loop, wheel: TimerWheel, clock: Clock, random_: random.Random, buffered: Gauge, snapshot: Snapshot
    ) -> None:
        self.loop = loop
        self.wheel = wheel
        self.clock = clock
        self.random = random_
        self.buffered = buffered  # unsent and held bytes of the whole worker
        self.snapshot = snapshot  # replaced whole; a stream keeps the one it began with
        self.pipes = Pipes()
        self.draining = False  # True: every HTTP/1 response says Connection: close
