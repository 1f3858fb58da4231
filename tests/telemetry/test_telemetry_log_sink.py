"""The sink: whole lines, bounded, never waiting; the same promises with two real processes and real pipes."""

from __future__ import annotations

import errno
import os
import select
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from hotproxy.shm.cells import Slab
from hotproxy.telemetry import log_output
from hotproxy.telemetry.log_sink import FLUSH_BYTES, TRUNCATED, LogSink, LogSinks
from hotproxy.telemetry.stats import AccessLogStats
from tests.kit.clock import FakeClock


class FakeOutput:
    """Takes what a script allows: a number of bytes, or an errno as a negative number; then everything."""

    def __init__(self, *script: int, max_write_bytes: int = 64, max_line_bytes: int = 0) -> None:
        self.script = list(script)
        self.max_write_bytes = max_write_bytes
        self.max_line_bytes = max_line_bytes
        self.writes: list[bytes] = []

    def write(self, data: bytes) -> int:
        step = self.script.pop(0) if self.script else len(data)
        if step < 0:
            raise OSError(-step, os.strerror(-step))
        self.writes.append(data[:step])
        return min(step, len(data))

    def fileno(self) -> int:
        return 0

    def close(self) -> None:
        self.script = [-errno.EBADF]


class Bench:
    """A sink on a fake output, with everything it was given."""

    def __init__(self, output: FakeOutput, limit_bytes: int = 1000) -> None:
        self.output = output
        self.reports: list[str] = []
        self.clock = FakeClock()
        self.sink = LogSink("p", self.reports.append, self.clock, limit_bytes, lambda _: output)


def test_lines_wait_for_the_tick_and_go_in_one_write() -> None:
    bench = Bench(FakeOutput())
    bench.sink.write(b"one\n")
    bench.sink.write(b"two\n")
    assert bench.output.writes == []
    bench.sink.flush()
    bench.sink.flush()
    assert bench.output.writes == [b"one\ntwo\n"]


def test_32_kib_do_not_wait_for_the_tick() -> None:
    bench = Bench(FakeOutput(max_write_bytes=1 << 20), limit_bytes=1 << 20)
    line = b"x" * 1023 + b"\n"
    for _ in range(FLUSH_BYTES // 1024):
        bench.sink.write(line)
    assert [len(data) for data in bench.output.writes] == [FLUSH_BYTES]


def test_a_write_carries_whole_lines_only() -> None:
    bench = Bench(FakeOutput(max_write_bytes=10))
    for line in (b"1234\n", b"567\n", b"89\n", b"a longer line than one write\n", b"z\n"):
        bench.sink.write(line)
    bench.sink.flush()
    assert bench.output.writes == [b"1234\n567\n", b"89\n", b"a longer line than one write\n", b"z\n"]


def test_a_line_too_long_for_a_pipe_shows_that_it_was_cut() -> None:
    bench = Bench(FakeOutput(max_line_bytes=40))
    bench.sink.write(b"x" * 100 + b"\n")
    bench.sink.write(b"y" * 39 + b"\n")
    bench.sink.flush()
    assert b"".join(bench.output.writes) == b"x" * (40 - len(TRUNCATED)) + TRUNCATED + b"y" * 39 + b"\n"


def test_a_slow_reader_costs_new_lines_which_are_counted() -> None:
    bench = Bench(FakeOutput(-errno.EAGAIN, -errno.EAGAIN), limit_bytes=20)
    bench.sink.flush()
    for index in range(6):
        bench.sink.write(b"line %d\n" % index)
    bench.sink.flush()
    bench.sink.write(b"line 6\n")
    assert bench.sink.dropped == 5
    assert bench.reports == ["access log p: it is not read fast enough; 1 lines dropped so far"]
    bench.output.script.clear()
    bench.sink.flush()
    bench.sink.write(b"back\n")
    bench.sink.flush()
    assert b"".join(bench.output.writes) == b"line 0\nline 1\nback\n"


def test_a_stuck_output_is_tried_once_a_tick_not_once_a_line() -> None:
    bench = Bench(FakeOutput(*[-errno.EAGAIN] * 100), limit_bytes=1 << 20)
    for _ in range(3 * FLUSH_BYTES // 1024):
        bench.sink.write(b"x" * 1023 + b"\n")
    assert len(bench.output.script) == 99


@pytest.mark.parametrize("cut", range(1, 12))
def test_a_write_cut_short_goes_on_where_it_was_cut(cut: int) -> None:
    bench = Bench(FakeOutput(cut, -errno.EAGAIN, cut, -errno.EAGAIN))
    for line in (b"123\n", b"456\n", b"789\n"):
        bench.sink.write(line)
    for _ in range(6):
        bench.sink.flush()
    bench.sink.write(b"end\n")
    for _ in range(4):
        bench.sink.flush()
    assert b"".join(bench.output.writes) == b"123\n456\n789\nend\n"
    assert bench.sink.dropped == 0


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EPIPE, errno.EDQUOT])
def test_a_broken_output_is_counted_reported_once_a_minute_and_never_raised(code: int) -> None:
    bench = Bench(FakeOutput(-code, -code, -code))
    bench.sink.write(b"kept\n")
    bench.sink.flush()
    bench.sink.flush()
    bench.clock.advance(61)
    bench.sink.flush()
    sentence = f"access log p: {os.strerror(code)}; 0 lines dropped so far"
    assert (bench.sink.errors, bench.reports) == (3, [sentence, sentence])
    bench.sink.flush()
    assert bench.output.writes == [b"kept\n"]


def test_a_really_full_disk() -> None:
    reports: list[str] = []
    sink = LogSink("/dev/full", reports.append, FakeClock())
    sink.write(b"line\n")
    sink.flush()
    sink.flush()
    assert reports == ["access log /dev/full: No space left on device; 0 lines dropped so far"]
    sink.close()
    assert sink.dropped == 1


def test_closing_gives_up_on_a_reader_that_does_not_read() -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    sink = LogSink("p", print, FakeClock(), opener=lambda _: log_output.FileOutput(writer, 64, 64))
    while True:
        try:
            os.write(writer, b"x" * select.PIPE_BUF)
        except BlockingIOError:
            break
    sink.write(b"lost\n")
    sink.write(b"lost too\n")
    sink.close()
    assert sink.dropped == 2
    os.close(reader)


def test_rotation_goes_on_in_a_new_file(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    sinks = LogSinks(print, FakeClock())
    sink = sinks.open(str(path))
    assert sinks.open(str(path)) is sink
    sink.write(b"old\n")
    path.rename(tmp_path / "access.log.1")
    sinks.reopen()
    sink.write(b"new\n")
    sinks.flush()
    sinks.close()
    assert (tmp_path / "access.log.1").read_bytes() == b"old\n"
    assert path.read_bytes() == b"new\n"


def test_a_rotation_that_fails_goes_on_in_the_old_file(tmp_path: Path) -> None:
    folder = tmp_path / "log"
    folder.mkdir()
    reports: list[str] = []
    sink = LogSink(str(folder / "access.log"), reports.append, FakeClock())
    folder.rename(tmp_path / "elsewhere")
    sink.reopen()
    sink.write(b"line\n")
    sink.close()
    assert (tmp_path / "elsewhere" / "access.log").read_bytes() == b"line\n"
    assert len(reports) == 1
    assert reports[0].endswith("(hotproxy makes the file, not the folder); going on in the file that was open")


def test_a_line_cut_by_a_full_disk_does_not_begin_the_new_file(tmp_path: Path) -> None:
    bench = Bench(FakeOutput(5, -errno.ENOSPC, -errno.ENOSPC))
    bench.sink.path = str(tmp_path / "access.log")
    for line in (b"123\n", b"456\n", b"789\n"):
        bench.sink.write(line)
    bench.sink.flush()
    bench.sink.reopen()
    bench.sink.close()
    assert bench.output.writes == [b"123\n4"]
    assert (tmp_path / "access.log").read_bytes() == b"789\n"
    assert bench.sink.dropped == 1


def test_stdout_has_nothing_to_reopen(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    monkeypatch.setitem(log_output.INHERITED, "/dev/stdout", writer)
    sink = LogSink("/dev/stdout", print, FakeClock())
    sink.write(b"before\n")
    sink.reopen()
    sink.write(b"after\n")
    sink.close()
    os.close(writer)
    assert os.read(reader, 100) == b"before\nafter\n"
    os.close(reader)


def test_every_line_of_a_listener_is_counted_once_as_written_or_as_dropped() -> None:
    slab = Slab.private([*AccessLogStats.declare("web"), *AccessLogStats.declare("api")])
    web, api = AccessLogStats(slab, "web"), AccessLogStats(slab, "api")
    bench = Bench(FakeOutput(6, -errno.ENOSPC, -errno.ENOSPC), limit_bytes=20)
    for owner in (web, api, web, api, web, None):
        bench.sink.write(b"1234\n", owner)  # four fit
    bench.sink.flush()  # the second is cut
    assert (web.logs_written.value, web.logs_dropped.value) == (1, 1)
    bench.sink.flush()
    bench.output.script = [4, -errno.ENOSPC]
    bench.sink.flush()  # the second is whole
    assert (api.logs_written.value, api.logs_dropped.value) == (1, 0)
    bench.output.script = [-errno.EIO] * 20
    bench.sink.close()
    assert (web.logs_written.value, web.logs_dropped.value) == (1, 2)
    assert (api.logs_written.value, api.logs_dropped.value) == (1, 1)
    assert bench.sink.dropped == 4


# --- real processes -------------------------------------------------------------------------------------------------

WRITER = """
import sys
from hotproxy.clock import SystemClock
from hotproxy.telemetry.log_sink import LogSink
path, name, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
sink = LogSink(path, print, SystemClock(), limit_bytes=1 << 30)
for index in range(count):
    sink.write(f"{name} {index} {name * (index % 3000)}\\n".encode())
    if index % 7 == 0:
        sink.flush()
while sink._waiting_bytes:
    sink.flush()
sink.close()
"""
COUNT = 4000


def start_writers(path: str, stdout: int | None = None) -> list[subprocess.Popen[bytes]]:
    return [
        subprocess.Popen([sys.executable, "-c", WRITER, path, name, str(COUNT)], stdout=stdout) for name in ("a", "b")
    ]


def check(data: bytes) -> None:
    """Every line whole, every line there, those of one process in order."""
    following = {"a": 0, "b": 0}
    for line in data.decode().removesuffix("\n").split("\n"):
        name, number, rest = line.split(" ")
        assert rest == name * (int(number) % 3000)
        assert int(number) == following[name]
        following[name] += 1
    assert following == {"a": COUNT, "b": COUNT}


def read_all(fd: int) -> bytes:
    pieces = []
    while piece := os.read(fd, 1 << 16):
        pieces.append(piece)
    return b"".join(pieces)


def finish(writers: list[subprocess.Popen[bytes]]) -> None:
    assert [writer.wait(60) for writer in writers] == [0, 0]


def test_two_processes_append_to_one_file_line_by_line(tmp_path: Path) -> None:
    finish(start_writers(str(tmp_path / "log")))
    check((tmp_path / "log").read_bytes())


def _pipe() -> tuple[int, int]:
    return os.pipe()


def _socket() -> tuple[int, int]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    return ours.detach(), theirs.detach()


@pytest.mark.parametrize("make", [_pipe, _socket])
def test_two_processes_share_an_inherited_stdout_line_by_line(make: Callable[[], tuple[int, int]]) -> None:
    reader, writer = make()
    writers = start_writers("/dev/stdout", writer)
    os.close(writer)
    check(read_all(reader))
    os.close(reader)
    finish(writers)
