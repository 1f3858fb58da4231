"""What the supervisor does when something is full: descriptors, systemd's queue, its own stderr."""

from __future__ import annotations

import os
import resource
import selectors
import socket
from pathlib import Path

import pytest

from hotproxy.restarter.commands import PAUSE_S, CommandSocket
from hotproxy.restarter.frames import Channel, ChannelStarved, Message
from hotproxy.restarter.log import write_raw
from hotproxy.restarter.loop import MAX_SLEEP_S, Loop
from hotproxy.restarter.outbox import RETRY_S, Outbox
from hotproxy.restarter.systemd import Notifier

PIPE_BUF = 4096


@pytest.fixture
def systemd(tmp_path: Path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.setblocking(False)
        yield manager


def notifier(manager: socket.socket) -> Notifier:
    return Notifier({"NOTIFY_SOCKET": manager.getsockname()})


def test_a_long_reason_does_not_cost_the_ready(systemd: socket.socket) -> None:
    """systemd ignores a message above PIPE_BUF: the unit stayed "reloading" after a config with many mistakes."""
    notifier(systemd).ready(
        "reload refused: " + "\n".join(f"hotproxy.yaml:{line}:1: unkn\u00f6wn key" for line in range(500))
    )
    data = systemd.recv(1 << 17)
    assert len(data) < PIPE_BUF
    assert data.startswith(b"READY=1\nSTATUS=reload refused: hotproxy.yaml:0:1") and data.decode().endswith(" ...")


def test_what_systemd_does_not_take_is_said_later_and_in_order(systemd: socket.socket) -> None:
    notify = notifier(systemd)
    sent = 0
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.setblocking(False)
        with pytest.raises(BlockingIOError):
            while True:
                other.sendto(b"x", systemd.getsockname())
                sent += 1
    notify.reloading()
    notify.ready("restarted")
    for _ in range(100):
        notify.pet()
    assert [systemd.recv(PIPE_BUF) for _ in range(sent)] == [b"x"] * sent
    notify.flush()
    assert systemd.recv(PIPE_BUF).startswith(b"RELOADING=1\n")
    assert systemd.recv(PIPE_BUF) == b"READY=1\nSTATUS=restarted"
    notify.pet()
    assert systemd.recv(PIPE_BUF) == b"WATCHDOG=1"
    notify.close()


def test_without_a_descriptor_callers_wait_and_nothing_spins(tmp_path: Path) -> None:
    now_s = 100.0
    loop = Loop(selectors.DefaultSelector(), lambda: now_s)
    heard: list[str] = []
    commands = CommandSocket(
        tmp_path / "s", loop, lambda caller, verb, arguments: heard.append(verb), lambda *attach: None
    )
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.connect(str(tmp_path / "s"))
        Channel(sock).send("COMMAND", {"verb": "ping", "arguments": {}})
        before = resource.getrlimit(resource.RLIMIT_NOFILE)
        free = os.dup(0)
        os.close(free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (free, before[1]))
        try:
            loop.turn()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)
        assert loop._timeout_s() == pytest.approx(PAUSE_S) and commands._sock not in loop._selector.get_map()
        now_s += PAUSE_S
        loop.turn()
        loop.turn()
        loop.turn()
        assert heard == ["ping"]
    commands.close()
    loop.close()


def test_an_alarm_in_thirty_years_is_no_error() -> None:
    loop = Loop(selectors.PollSelector())
    loop.after(1e9, lambda: None)
    assert loop._timeout_s() == MAX_SLEEP_S
    loop.close()


def test_who_does_not_read_is_noticed() -> None:
    loop = Loop(selectors.DefaultSelector())
    ours, theirs = Channel.pair()
    outbox = Outbox(ours, loop, Message.close_fds, lambda error: None, lambda: None)
    assert not outbox.unread
    outbox.post("ACCEPT_OFF")
    assert outbox.unread
    assert theirs.receive() is not None
    assert not outbox.unread
    outbox.close()
    assert not outbox.unread
    theirs.close()
    loop.close()


def test_a_full_stderr_hangs_nobody(capfd: pytest.CaptureFixture[str]) -> None:
    reading, writing = os.pipe()
    before = os.dup(2)
    os.dup2(writing, 2)
    try:
        write_raw(b"x" * (1 << 20))
    finally:
        os.dup2(before, 2)
        for fd in (before, writing):
            os.close(fd)
    assert os.read(reading, 10) == b"x" * 10
    os.close(reading)


def test_a_frame_that_the_kernel_has_no_descriptors_for_waits_and_does_not_spin() -> None:
    """ETOOMANYREFS ended the supervisor; the socket takes data meanwhile: waiting for that would be a spin."""

    class Starving(Channel):
        refusals = 2

        def send(self, kind: str, fields: object = None, fds: object = ()) -> None:
            if self.refusals:
                self.refusals -= 1
                raise ChannelStarved
            super().send(kind, {})

    now_s = 0.0
    loop = Loop(selectors.DefaultSelector(), lambda: now_s)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    reader = Channel(theirs)
    outbox = Outbox(Starving(ours), loop, lambda message: None, lambda error: None, lambda: None)
    outbox.post("ACCEPT_ON")
    outbox.post("ACCEPT_OFF")
    turns = 0
    while (first := reader.receive()) is None:
        now_s += RETRY_S
        loop.turn()
        turns += 1
    second = reader.receive()
    assert (first.kind, second and second.kind, turns) == ("ACCEPT_ON", "ACCEPT_OFF", 2)
    outbox.close()
    reader.close()
    loop.close()
