"""A selector, some timers, and nothing else: the loop of the supervisor and of a zygote.

No asyncio: the supervisor is the oldest code running and stays small, and a zygote must not have an event loop that
its children would inherit.
"""

from __future__ import annotations

import heapq
import selectors
import time
from collections.abc import Callable
from typing import Any, Final, Protocol

# poll(2) takes milliseconds in an int, at most 24 days; a generation that may drain for ever has an alarm in 30 years.
MAX_SLEEP_S: Final = 3600.0


class HasFileno(Protocol):
    def fileno(self) -> int: ...


class Alarm:
    """A call that is due at `when_s` (CLOCK_MONOTONIC), unless it is cancelled before."""

    __slots__ = ("call", "when_s")

    def __init__(self, when_s: float, call: Callable[[], None]) -> None:
        self.when_s = when_s
        self.call: Callable[[], None] | None = call

    def cancel(self) -> None:
        self.call = None

    def __lt__(self, other: Alarm) -> bool:
        return self.when_s < other.when_s


class Loop:
    """Calls back when descriptors are ready and when alarms are due."""

    __slots__ = ("_alarms", "_running", "_selector", "now_s")

    def __init__(self, selector: selectors.BaseSelector, now_s: Callable[[], float] = time.monotonic) -> None:
        self._selector = selector
        self._alarms: list[Alarm] = []
        self._running = True
        self.now_s = now_s

    def watch(self, file: HasFileno | int, on_readable: Callable[[], None]) -> None:
        self._selector.register(file, selectors.EVENT_READ, [on_readable, None])

    def watch_write(self, file: HasFileno | int, on_writable: Callable[[], None] | None) -> None:
        """Also (or, with None, no longer) call when a watched descriptor takes data."""
        calls: list[Any] = self._selector.get_key(file).data
        calls[1] = on_writable
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if on_writable else 0)
        self._selector.modify(file, events, calls)

    def unwatch(self, file: HasFileno | int) -> None:
        """Before the descriptor is closed: one that another process still holds would fire for ever."""
        try:
            self._selector.unregister(file)
        except (KeyError, ValueError):
            pass  # it was not watched

    def at(self, when_s: float, call: Callable[[], None]) -> Alarm:
        alarm = Alarm(when_s, call)
        heapq.heappush(self._alarms, alarm)
        return alarm

    def after(self, delay_s: float, call: Callable[[], None]) -> Alarm:
        return self.at(self.now_s() + delay_s, call)

    def stop(self) -> None:
        self._running = False

    def run(self) -> None:
        """Until `stop()`."""
        while self._running:
            self.turn()

    def turn(self) -> None:
        for key, events in self._selector.select(self._timeout_s()):
            on_readable, on_writable = key.data
            if events & selectors.EVENT_WRITE and on_writable is not None:
                on_writable()
            # A callback before this one may have closed it, and even opened another descriptor of the same number.
            if events & selectors.EVENT_READ and self._is_watched(key):
                on_readable()
        now_s = self.now_s()
        while self._alarms and (self._alarms[0].call is None or self._alarms[0].when_s <= now_s):
            alarm = heapq.heappop(self._alarms)
            if alarm.call is not None:
                call, alarm.call = alarm.call, None
                call()

    def close(self) -> None:
        self._alarms.clear()
        self._selector.close()

    def _timeout_s(self) -> float | None:
        while self._alarms and self._alarms[0].call is None:
            heapq.heappop(self._alarms)
        if not self._alarms:
            return None
        return min(max(self._alarms[0].when_s - self.now_s(), 0.0), MAX_SLEEP_S)

    def _is_watched(self, key: selectors.SelectorKey) -> bool:
        current = self._selector.get_map().get(key.fd)
        return current is not None and current.data is key.data
