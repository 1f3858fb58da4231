"""A listener's log: one line per record, short enough for where it goes."""

from __future__ import annotations

import json

from hotproxy.telemetry.access_log import AccessLog
from hotproxy.telemetry.log_format import LogFormat
from hotproxy.telemetry.stats import AccessLogStats
from hotproxy.telemetry.stream_info import StreamInfo


class Lines:
    def __init__(self, max_line_bytes: int) -> None:
        self.max_line_bytes = max_line_bytes
        self.lines: list[bytes] = []

    def write(self, line: bytes, owner: AccessLogStats | None = None) -> None:
        self.lines.append(line)


def test_one_record_is_one_line() -> None:
    sink = Lines(0)
    log = AccessLog(LogFormat.compile("%REQ(:PATH)%"), sink)
    for path in ("/a", "/b"):
        info = StreamInfo()
        info.path = path
        log.log(info)
    assert sink.lines == [b"/a\n", b"/b\n"]


def test_json_for_a_pipe_stays_json() -> None:
    sink = Lines(4096)
    info = StreamInfo()
    info.original_path = "/" * 20_000
    AccessLog(LogFormat.compile("json"), sink).log(info)
    assert len(sink.lines[0]) <= 4096
    assert json.loads(sink.lines[0])["path"].endswith("...[truncated]")
