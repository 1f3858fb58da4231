"""Faults on demand: what can be asked for, and who is struck."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path

import pytest

from hotproxy.restarter.faults import (
    EXIT,
    EXIT_CODE,
    GARBAGE,
    HANG,
    KILL,
    VARIABLE,
    Fault,
    FaultError,
    Faults,
    chosen,
    parse,
)
from hotproxy.restarter.frames import KINDS, Channel, FrameError


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("send.HELLO:exit", Fault("", "send", "HELLO", 0, EXIT)),
        ("worker.receive.COMMIT@12:kill", Fault("worker", "receive", "COMMIT", 12, KILL)),
        (" zygote.send.TAKE:garbage\n", Fault("zygote", "send", "TAKE", 0, GARBAGE)),
    ],
)
def test_faults_that_can_be_had(text: str, fault: Fault) -> None:
    assert parse(text, KINDS) == fault


@pytest.mark.parametrize(
    "text",
    ["", ":", "exit", "send.HELLO", "send.HELLO:", "send.HELLO:burn", "HELLO:exit", "lose.HELLO:exit", "send.NO:exit",
     "king.send.HELLO:exit", "send.HELLO@x:exit", "send.HELLO@:exit", "send.HELLO@-1:exit", ".send.HELLO:exit"],
)  # fmt: skip
def test_faults_that_make_no_sense(text: str) -> None:
    with pytest.raises(FaultError, match=VARIABLE):
        parse(text, KINDS)


def test_a_file_is_read_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, f"@{tmp_path}/fault")
    with pytest.raises(OSError, match="fault"):
        chosen(KINDS)
    (tmp_path / "fault").write_text("send.HELLO:exit\n")
    assert chosen(KINDS) == Fault("", "send", "HELLO", 0, EXIT)
    (tmp_path / "fault").write_text("")
    assert chosen(KINDS) is None
    monkeypatch.delenv(VARIABLE)
    assert chosen(KINDS) is None


@pytest.mark.parametrize(
    ("text", "strikes"),
    [
        ("send.READY:garbage", True), ("worker.send.READY@3:garbage", True), ("zygote.send.READY:garbage", False),
        ("send.READY@4:garbage", False), ("receive.READY:garbage", False), ("send.COMMIT:garbage", False),
    ],
)  # fmt: skip
def test_only_who_is_meant_is_struck(text: str, strikes: bool) -> None:
    ours, theirs = Channel.pair()
    faults = Faults()
    faults.arm(parse(text, KINDS), 3, "worker")
    assert faults.strike("send", "READY", ours.sock) is strikes
    if strikes:
        with pytest.raises(FrameError):
            theirs.receive()
        assert not faults.strike("send", "READY", ours.sock), "garbage is said once"
    assert theirs.receive() is None
    ours.close()
    theirs.close()


@pytest.mark.parametrize(("what", "status"), [(EXIT, EXIT_CODE), (KILL, -signal.SIGKILL), (HANG, -signal.SIGTERM)])
def test_processes_end_or_hang(what: str, status: int) -> None:
    ours, theirs = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        try:
            faults = Faults()
            faults.arm(Fault("", "receive", "READY", 0, what), 1, "zygote")
            theirs.send(b"x")
            faults.strike("receive", "READY", theirs)
        finally:
            os._exit(1)
    ours.recv(1)
    if what == HANG:
        assert os.waitpid(pid, os.WNOHANG) == (0, 0)
        os.kill(pid, signal.SIGTERM)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == status
    ours.close()
    theirs.close()
