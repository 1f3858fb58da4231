"""One line for every exchange of a listener: a format and the sink it goes to."""

from __future__ import annotations

from typing import Protocol

from hotproxy.telemetry.log_format import LogFormat
from hotproxy.telemetry.stats import AccessLogStats
from hotproxy.telemetry.stream_info import StreamInfo


class LineSink(Protocol):
    """Where lines go (`LogSink`); neither blocks nor raises, because it stands on the data path."""

    @property
    def max_line_bytes(self) -> int:
        """0 = no limit."""

    def write(self, line: bytes, owner: AccessLogStats | None = None) -> None: ...


class AccessLog:
    """Called by `finish()`, exactly once per exchange (TCP: per connection)."""

    __slots__ = ("_format", "_sink", "_stats")

    def __init__(self, format_: LogFormat, sink: LineSink, stats: AccessLogStats | None = None) -> None:
        self._format = format_
        self._sink = sink
        self._stats = stats  # of the listener; counts the lines that were written, and those that were not

    def log(self, info: StreamInfo) -> None:
        """Render the record and hand it to the sink."""
        line = self._format.render(info)
        limit_bytes = self._sink.max_line_bytes  # a rotation may turn a file into a FIFO
        if limit_bytes and len(line) > limit_bytes:
            line = self._format.render_within(info, limit_bytes)
        self._sink.write(line, self._stats)
