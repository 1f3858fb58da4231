"""Destinations: each kind is opened so that it never makes us wait, and no flag of a shared description changes."""

from __future__ import annotations

import errno
import fcntl
import os
import pty
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from hotproxy.telemetry import log_output
from hotproxy.telemetry.log_output import PIPE_BYTES, SharedOutput, SocketOutput, open_output


@pytest.fixture
def as_stdout(monkeypatch: pytest.MonkeyPatch):
    """Lets /dev/stdout mean another fd for this test, as if we had been started with it."""
    return lambda fd: monkeypatch.setitem(log_output.INHERITED, "/dev/stdout", fd)


def fill(output: log_output.Output) -> int:
    """Write until there is no room; the test hangs (and times out) when a write waits."""
    total = 0
    try:
        while True:
            total += output.write(b"x" * 1000)
    except BlockingIOError:
        return total


def test_a_file_is_made_for_its_group_only(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    before = os.umask(0o022)
    try:
        output = open_output(str(path))
    finally:
        os.umask(before)
    output.write(b"one\n")
    output.close()
    output = open_output(str(path))
    output.write(b"two\n")
    output.close()
    assert path.read_bytes() == b"one\ntwo\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert output.max_line_bytes == 0


@pytest.mark.parametrize(
    ("path", "code", "why"),
    [
        ("none/access.log", errno.ENOENT, "its folder does not exist"),
        (".", errno.EISDIR, "Is a directory"),
        ("socket", errno.ENXIO, "it is a socket or has no reader"),
    ],
)
def test_what_cannot_be_written_is_refused_with_a_sentence(tmp_path: Path, path: str, code: int, why: str) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "socket"))
        with pytest.raises(OSError, match=f"cannot write the access log {tmp_path / path}: {why}") as caught:
            open_output(str(tmp_path / path))
    assert caught.value.errno == code


def test_a_closed_stdout_is_refused(as_stdout) -> None:
    fd = os.open("/dev/null", os.O_WRONLY)
    os.close(fd)
    as_stdout(fd)
    with pytest.raises(OSError, match="it was closed by whoever started hotproxy"):
        open_output("/dev/stdout")


def test_a_fifo_needs_no_reader_and_never_waits(tmp_path: Path) -> None:
    path = str(tmp_path / "fifo")
    os.mkfifo(path)
    output = open_output(path)
    assert fill(output) >= 4096
    assert output.max_line_bytes == output.max_write_bytes == PIPE_BYTES
    output.close()


def test_an_inherited_pipe_gets_its_own_description(as_stdout) -> None:
    reader, writer = os.pipe()
    as_stdout(writer)
    output = open_output("/dev/stdout")
    assert fill(output) >= 4096
    assert not fcntl.fcntl(writer, fcntl.F_GETFL) & os.O_NONBLOCK
    output.close()
    os.fstat(writer)  # ours is closed, the inherited one is not
    os.close(reader)
    os.close(writer)


@pytest.mark.parametrize("nowait", [True, False])
def test_an_inherited_pipe_that_may_not_be_opened_again(nowait: bool) -> None:
    reader, writer = os.pipe()
    output = SharedOutput(os.dup(writer))
    output._nowait = nowait  # False: as on a kernel before 6.4
    total = fill(output)
    assert total >= 4096
    assert len(os.read(reader, total)) == total
    assert output.write(b"again\n") == 6
    assert not fcntl.fcntl(writer, fcntl.F_GETFL) & os.O_NONBLOCK
    output.close()
    os.close(reader)
    os.close(writer)


def test_a_pipe_without_reader_does_not_prevent_the_start(as_stdout) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    as_stdout(writer)
    output = open_output("/dev/stdout")
    with pytest.raises(BrokenPipeError):
        output.write(b"x\n")
    output.close()
    os.close(writer)


@pytest.mark.parametrize("shared", [True, False])
def test_a_terminal_that_nobody_reads(as_stdout, shared: bool) -> None:
    leader, terminal = pty.openpty()
    as_stdout(terminal)
    output = SharedOutput(os.dup(terminal)) if shared else open_output("/dev/stdout")
    assert fill(output) > 0
    assert not fcntl.fcntl(terminal, fcntl.F_GETFL) & os.O_NONBLOCK
    output.close()
    os.close(terminal)
    os.close(leader)


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET])
def test_an_inherited_socket_as_journald_gives(as_stdout, kind: socket.SocketKind) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, kind)
    as_stdout(ours.fileno())
    output = open_output("/dev/stdout")
    assert isinstance(output, SocketOutput)
    assert output.max_write_bytes == (PIPE_BYTES if kind == socket.SOCK_STREAM else 1)
    assert fill(output) > 0
    assert ours.getblocking()
    theirs.close()
    with pytest.raises(OSError):
        output.write(b"x\n")
    output.close()
    ours.close()


def test_an_inherited_file_is_shared_with_the_other_writers(tmp_path: Path) -> None:
    """`hotproxy run > out 2>&1` without append: one offset for all, nobody overwrites anybody."""
    program = (
        "import os\n"
        "from hotproxy.telemetry.log_output import open_output\n"
        "out = open_output('/dev/stdout'); err = open_output('/dev/stderr')\n"
        "out.write(b'log\\n'); os.write(2, b'trace\\n'); err.write(b'err\\n'); out.write(b'log\\n')\n"
    )
    with open(tmp_path / "out", "wb") as out:
        subprocess.run([sys.executable, "-c", program], stdout=out, stderr=subprocess.STDOUT, check=True)
    assert (tmp_path / "out").read_bytes() == b"log\ntrace\nerr\nlog\n"
