r"""Lines on their way to one log: buffered, whole, bounded, and never at the price of the traffic.

    write() --> lines waiting --flush(): every tick, and at 32 KiB--> Output
                 \--1 MiB waiting already--> the new line is dropped and counted

Whatever the destination does (slow reader, full disk, gone terminal), the lines that wait stay and are tried again
at the next tick; nothing here blocks or raises once the sink is open.
"""

from __future__ import annotations

import select
from collections.abc import Callable
from typing import Final

from hotproxy.clock import Clock
from hotproxy.telemetry.log_output import INHERITED, Output, open_output
from hotproxy.telemetry.stats import AccessLogStats

# 32 KiB: some 150 lines for one system call; at 20,000 requests a second and worker it is reached before the tick.
FLUSH_BYTES: Final = 32 * 1024
# 1 MiB: half a second of the busiest worker; what a reader that restarts may take.
LIMIT_BYTES: Final = 1024 * 1024
# One sentence a minute: a full disk must not fill the journal too.
REPORT_INTERVAL_S: Final = 60.0
# At exit a slow reader is given 5 × 50 ms without any progress, then the rest is dropped.
CLOSE_STALLS: Final = 5
CLOSE_STALL_MS: Final = 50

TRUNCATED: Final = b"...[truncated]\n"


class LogSink:
    """One open log of one worker. `path` is as configured; `report` gets a sentence for the log of the service.

    OSError (with a sentence) from the constructor when the path cannot be written: the config is refused.
    """

    __slots__ = (
        "_clock",
        "_limit_bytes",
        "_lines",
        "_output",
        "_owners",
        "_report",
        "_reported_s",
        "_rest",
        "_stuck",
        "_waiting_bytes",
        "dropped",
        "errors",
        "max_line_bytes",
        "path",
    )

    def __init__(
        self,
        path: str,
        report: Callable[[str], None],
        clock: Clock,
        limit_bytes: int = LIMIT_BYTES,
        opener: Callable[[str], Output] = open_output,
    ) -> None:
        self.path = path
        self.dropped = 0  # lines that will never be written
        self.errors = 0  # writes that failed for another reason than a slow reader
        self._report = report
        self._clock = clock
        self._limit_bytes = limit_bytes
        self._lines: list[bytes] = []
        self._rest = b""  # the unwritten end of a write that was cut short; goes first
        self._owners: list[
            AccessLogStats | None
        ] = []  # who counts each waiting line; the first is that of _rest, if any
        self._waiting_bytes = 0  # _rest and _lines together
        self._stuck = False  # since the last tick the output took nothing
        self._reported_s = -REPORT_INTERVAL_S
        self._output = opener(path)
        self.max_line_bytes = self._output.max_line_bytes

    def write(self, line: bytes, owner: AccessLogStats | None = None) -> None:
        """Take one line, with its line feed and no other; `owner` counts what becomes of it.

        Longer than the output's limit: cut, and marked as cut.
        """
        if self.max_line_bytes and len(line) > self.max_line_bytes:
            line = line[: self.max_line_bytes - len(TRUNCATED)] + TRUNCATED
        waiting_bytes = self._waiting_bytes + len(line)
        if waiting_bytes > self._limit_bytes:
            self._drop(owner)
            self._complain("it is not read fast enough")
            return
        self._lines.append(line)
        self._owners.append(owner)
        self._waiting_bytes = waiting_bytes
        if waiting_bytes >= FLUSH_BYTES and not self._stuck:
            self.flush()

    def flush(self) -> None:
        """Write what waits, as far as it goes without waiting. Called every tick (50 ms)."""
        self._stuck = False
        try:
            while self._waiting_bytes and self._write_some():
                pass
        except BlockingIOError:
            self._stuck = True
        except OSError as error:
            self._stuck = True
            self.errors += 1
            self._complain(error.strerror or str(error))

    def _write_some(self) -> bool:
        """One write; False when it was cut short, so that the next one would fail."""
        if self._rest:
            count = 0
            data = self._rest
        else:
            count, data = self._gather()
        written = self._output.write(data)
        self._waiting_bytes -= written
        self._count_written(data.count(b"\n", 0, written))
        if written == len(data):
            del self._lines[:count]
            self._rest = b""
            return True
        self._stuck = True
        if written:
            del self._lines[:count]
            self._keep(data, written)
        return False

    def _count_written(self, finished: int) -> None:
        for owner in self._owners[:finished]:
            if owner is not None:
                owner.logs_written.inc()
        del self._owners[:finished]

    def _keep(self, data: bytes, written: int) -> None:
        """After a write that was cut short: what is left of the broken line goes first, whole lines wait as before."""
        tail = data[written:]
        self._rest = b""
        if data[written - 1 : written] != b"\n":
            end = tail.index(b"\n") + 1
            self._rest = tail[:end]
            tail = tail[end:]
        if tail:
            self._lines[:0] = [line + b"\n" for line in tail[:-1].split(b"\n")]

    def _gather(self) -> tuple[int, bytes]:
        """As many whole lines as one write may carry, at least one."""
        limit_bytes = self._output.max_write_bytes
        if self._waiting_bytes <= limit_bytes:
            return len(self._lines), b"".join(self._lines)
        size = 0
        count = 0
        for line in self._lines:
            size += len(line)
            if size > limit_bytes and count:
                break
            count += 1
        return count, b"".join(self._lines[:count])

    def reopen(self) -> None:
        """After a rotation: go on in a new file of the same name. When that fails, go on in the old one and say so."""
        self.flush()
        if self.path in INHERITED:
            return
        try:
            output = open_output(self.path)
        except OSError as error:
            self._report(f"{error.strerror or error}; going on in the file that was open")
            return
        self._output.close()
        self._output = output
        self.max_line_bytes = output.max_line_bytes
        if self._rest:  # the first half of that line stayed in the old file
            self._waiting_bytes -= len(self._rest)
            self._rest = b""
            self._drop(self._owners.pop(0))
        self.flush()

    def close(self) -> None:
        """The last flush: gives a slow reader up to 250 ms without progress, then drops the rest and counts it."""
        poll = select.poll()
        poll.register(self._output.fileno(), select.POLLOUT)
        self.flush()
        stalls = 0
        while self._waiting_bytes and stalls < CLOSE_STALLS:
            before_bytes = self._waiting_bytes
            poll.poll(CLOSE_STALL_MS)
            self.flush()
            if self._waiting_bytes == before_bytes:
                stalls += 1
        if self._waiting_bytes:
            for owner in self._owners:
                self._drop(owner)
            self._complain("it was not read when this process ended")
        self._owners.clear()
        self._lines.clear()
        self._rest = b""
        self._waiting_bytes = 0
        self._output.close()

    def _drop(self, owner: AccessLogStats | None) -> None:
        self.dropped += 1
        if owner is not None:
            owner.logs_dropped.inc()

    def _complain(self, why: str) -> None:
        now_s = self._clock.now_s()
        if now_s - self._reported_s >= REPORT_INTERVAL_S:
            self._reported_s = now_s
            self._report(f"access log {self.path}: {why}; {self.dropped} lines dropped so far")


class LogSinks:
    """The open logs of one worker: one `LogSink` per path, however many listeners write to it."""

    __slots__ = ("_clock", "_report", "_sinks")

    def __init__(self, report: Callable[[str], None], clock: Clock) -> None:
        self._report = report
        self._clock = clock
        self._sinks: dict[str, LogSink] = {}

    def open(self, path: str) -> LogSink:
        """The sink for that path, opened when it is not yet. OSError as `LogSink`."""
        sink = self._sinks.get(path)
        if sink is None:
            sink = self._sinks[path] = LogSink(path, self._report, self._clock)
        return sink

    def flush(self) -> None:
        """Every tick of the worker."""
        for sink in self._sinks.values():
            sink.flush()

    def reopen(self) -> None:
        """USR1, `hotproxy reopen-logs`."""
        for sink in self._sinks.values():
            sink.reopen()

    def close(self) -> None:
        """At the end of the worker."""
        for sink in self._sinks.values():
            sink.close()
        self._sinks.clear()
