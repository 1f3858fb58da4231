"""The supervisor's small parts, without processes."""

from __future__ import annotations

import fcntl
import os
import resource
import selectors
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hotproxy.errors import HotproxyError
from hotproxy.restarter import kernel, log
from hotproxy.restarter.frames import KINDS, PROTOCOL_VERSION, Channel, ChannelClosed, Message, check
from hotproxy.restarter.heartbeats import Heartbeats
from hotproxy.restarter.hello import Deadlines, Hello, HelloError, WantedAddress, WantedListener, parse
from hotproxy.restarter.holders import holders_of_port, parent_of
from hotproxy.restarter.instance_dir import InstanceLock
from hotproxy.restarter.loop import Loop
from hotproxy.restarter.outbox import Outbox
from hotproxy.restarter.systemd import Notifier

# --- hello ---

HELLO = Hello(
    3, 2, (WantedListener("a", (WantedAddress("127.0.0.1:80", "tcp", "127.0.0.1", 80),), shared=True),),
    Deadlines(drain_s=7.0), [["x", 1]], "0.1", PROTOCOL_VERSION, 1, "", {"http1": 1}, True, "it crashed", "broken",
)  # fmt: skip


def test_hello_goes_over_the_wire_and_back() -> None:
    wire = HELLO.to_wire()
    check("HELLO", wire)
    assert parse(wire) == HELLO


def test_a_newer_hello_may_say_more() -> None:
    wire = HELLO.to_wire()
    wire["listeners"][0]["colour"] = "green"
    wire["deadlines"]["tea_s"] = 300
    assert parse(wire) == HELLO


def test_an_older_hello_may_say_less() -> None:
    wire = {name: value for name, value in HELLO.to_wire().items() if name in KINDS["HELLO"]}
    assert parse(wire) == replace(HELLO, compiled=False, pure="", fallback="")


def test_hello_tells_what_nobody_may_overlook() -> None:
    as_usual = replace(HELLO, pure="", fallback="")
    assert as_usual.remarks() == ""
    assert "the config is BROKEN" in replace(as_usual, fallback="it is bad").remarks()
    assert replace(as_usual, pure="3 workers crashed").remarks() == "; nothing is compiled: 3 workers crashed"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"slots": 0}, "0 slots"),
        ({"compiled": 1}, "compiled is true or false"),
        ({"fallback": None}, "compiled is true or false, pure and fallback are texts"),
        ({"slots": 5000}, "5000 slots"),
        ({"listeners": [7]}, "WantedListener is int, not a map"),
        ({"listeners": [{"name": "a", "addresses": 7}]}, "WantedListener.addresses is int"),
        ({"listeners": [{"name": "a"}]}, "addresses"),
        ({"listeners": [{"name": "a", "addresses": [{"text": "x", "family": "ipx"}]}]}, "unknown family 'ipx'"),
        (
            {"listeners": [{"name": "a", "addresses": [{"text": "x", "family": "tcp", "port": 70000}]}]},
            "can't be bound",
        ),
        ({"listeners": [{"name": "a", "addresses": [{"text": "x", "family": "unix", "path": "s"}]}]}, "can't be bound"),
        ({"listeners": [{"name": "a", "addresses": []}] * 2}, "two listeners have the same name"),
        ({"deadlines": {"drain_s": "soon"}}, "Deadlines.drain_s is str"),
    ],
)
def test_a_hello_that_makes_no_sense(change: dict[str, Any], why: str) -> None:
    with pytest.raises(HelloError, match=why):
        parse({**HELLO.to_wire(), **change})


# --- heartbeats ---


def test_only_a_cell_that_stands_still_long_enough_is_late() -> None:
    heartbeats = Heartbeats(late_ticks=3)
    assert [heartbeats.tick({1: 5, 2: beat}) for beat in range(5)] == [[], [], [], [1], []]


def test_a_cell_that_stands_still_is_seen_before_it_is_late() -> None:
    heartbeats = Heartbeats(late_ticks=30)
    still = []
    for beat in [1, 2, 2, 2, 2, 3]:
        heartbeats.tick({1: beat})
        still.append(heartbeats.stands_still(1))
    assert still == [False, False, False, False, True, False]
    assert not heartbeats.stands_still(99)


def test_a_pause_of_the_supervisor_kills_nobody() -> None:
    """Its own ticks count, not the clock: after a pause of any length the next tick is one tick."""
    heartbeats = Heartbeats(late_ticks=2)
    assert heartbeats.tick({1: 5}) == []
    assert heartbeats.tick({1: 5}) == []
    assert heartbeats.tick({1: 6}) == []
    assert heartbeats.tick({1: 6}) == []


# --- loop and outbox ---


class Clock:
    def __init__(self) -> None:
        self.time_s = 100.0

    def now_s(self) -> float:
        return self.time_s


def test_alarms_ring_in_order_and_not_after_they_are_cancelled() -> None:
    clock, rung = Clock(), list[str]()
    loop = Loop(selectors.DefaultSelector(), clock.now_s)
    loop.after(2.0, lambda: rung.append("second"))
    loop.after(1.0, lambda: rung.append("first"))
    loop.after(1.5, lambda: rung.append("never")).cancel()
    clock.time_s += 3.0
    loop.turn()
    assert rung == ["first", "second"]
    loop.close()


def test_a_callback_may_close_what_is_ready_beside_it() -> None:
    loop, heard = Loop(selectors.DefaultSelector()), list[str]()
    one, one_end = socket.socketpair()
    two, two_end = socket.socketpair()

    def on_readable(name: str) -> None:
        heard.append(name)
        for sock in (one, two):
            loop.unwatch(sock)
            sock.close()

    loop.watch(one, lambda: on_readable("one"))
    loop.watch(two, lambda: on_readable("two"))
    one_end.send(b"x")
    two_end.send(b"x")
    loop.turn()
    assert len(heard) == 1
    for sock in (one_end, two_end):
        sock.close()
    loop.close()


def test_what_does_not_fit_is_sent_later_in_order_and_with_its_descriptors() -> None:
    loop = Loop(selectors.DefaultSelector())
    ours, theirs = Channel.pair()
    ours.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    outbox = Outbox(ours, loop, Message.close_fds, lambda error: None, lambda: None)
    reading, writing = os.pipe()
    for number in range(50):
        outbox.post("SOCKETS", {"sockets": [[number, "x" * 500]], "last": False}, [writing])
    os.close(writing)
    numbers = []
    while len(numbers) < 50:
        message = theirs.receive()
        if message is None:
            loop.turn()
            continue
        numbers.append(message.fields["sockets"][0][0])
        assert len(message.fds) == 1
        message.close_fds()
    assert numbers == list(range(50))
    assert os.read(reading, 1) == b""  # no copy of it is left anywhere
    os.close(reading)
    outbox.close()
    theirs.close()
    loop.close()


def test_descriptors_that_wait_are_known_to_whoever_forks() -> None:
    """A child with a copy of a channel's end hid that end from everybody else."""
    ours, theirs = Channel.pair()
    outbox = Outbox(ours, Loop(selectors.DefaultSelector()), lambda _: None, lambda _: None, lambda: None)
    assert outbox.waiting_fds == []
    while not outbox.waiting_fds:
        outbox.post("TAKE", {"serial": 1, "pair": 1, "step_s": 1.0, "until_s": 1.0}, [theirs.fileno()])
    (copy,) = outbox.waiting_fds
    assert os.fstat(copy).st_ino == os.fstat(theirs.fileno()).st_ino
    outbox.close()
    theirs.close()


@pytest.mark.parametrize("unread", [False, True])
def test_last_words_are_heard_though_something_was_left_unread(unread: bool) -> None:
    """Then the kernel speaks of a reset first, and of what was said before it only when it is asked again."""
    ours, theirs = Channel.pair()
    if unread:
        ours.send("READY")
    theirs.send("COMMITTED", {"wave": 1})
    theirs.close()
    message = ours.receive()
    assert message is not None and message.kind == "COMMITTED"
    with pytest.raises(ChannelClosed):
        ours.receive()
    ours.close()


def test_the_end_of_a_channel_comes_after_what_was_said() -> None:
    loop, heard = Loop(selectors.DefaultSelector()), list[str]()
    ours, theirs = Channel.pair()
    Outbox(ours, loop, lambda message: heard.append(message.kind), lambda error: heard.append(str(error)),
           lambda: heard.append("closed"))  # fmt: skip
    theirs.send("READY")
    theirs.sock.send(b"???")
    theirs.send("ACCEPTING")
    theirs.close()
    loop.turn()
    assert heard == ["READY", "3 bytes are no frame", "ACCEPTING", "closed"]
    loop.close()


# --- systemd ---


def test_systemd_is_told(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "10000000"})
        assert notifier.watchdog_s == 5.0
        notifier.reloading()
        notifier.ready("reload refused: line 1\nline 2")
        notifier.stopping()
        notifier.pet()
        received = [systemd.recv(4096).decode() for _ in range(4)]
    assert received[0].startswith("RELOADING=1\nMONOTONIC_USEC=") and int(received[0].split("\n")[1].split("=")[1]) > 0
    assert received[1] == "READY=1\nSTATUS=reload refused: line 1; line 2"
    assert received[2:] == ["STOPPING=1\nSTATUS=draining", "WATCHDOG=1"]
    notifier.pet()  # systemd is gone: nobody minds
    notifier.close()


@pytest.mark.parametrize("environment", [{}, {"WATCHDOG_USEC": "much"}, {"WATCHDOG_USEC": "1", "WATCHDOG_PID": "1"}])
def test_without_systemd_nothing_is_said(environment: dict[str, str]) -> None:
    notifier = Notifier(environment)
    assert notifier.watchdog_s == 0.0
    notifier.ready("")


# --- the rest ---


def test_who_listens_on_a_port() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert [holder.pid for holder in holders_of_port(port)] == [os.getpid()]
    assert holders_of_port(port) == []
    assert parent_of(os.getpid()) == os.getppid()
    assert parent_of(1 << 22) == 0


def test_the_lock_is_held_by_one_and_dies_with_it(tmp_path: Path) -> None:
    lock = InstanceLock(tmp_path, "web")
    with pytest.raises(HotproxyError, match=rf"instance 'web' is already running \(pid {os.getpid()}"):
        InstanceLock(tmp_path, "web")
    lock.release()
    assert list(tmp_path.iterdir()) == []
    InstanceLock(tmp_path, "web").release()


def test_a_lock_on_a_file_that_was_removed_meanwhile_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Opened before the last holder removed it and locked after: the next one would have had a second lock."""
    flock = fcntl.flock
    removed: list[str] = []

    def remove_first(fd: int, operation: int) -> None:
        if not removed:
            (tmp_path / "lock").unlink()
            removed.append("lock")
        flock(fd, operation)

    monkeypatch.setattr(fcntl, "flock", remove_first)
    lock = InstanceLock(tmp_path, "web")
    assert (tmp_path / "lock").read_text() == f"{os.getpid()}\n"
    with pytest.raises(HotproxyError, match="already running"):
        InstanceLock(tmp_path, "web")
    lock.release()


def test_a_full_disk_is_said_and_leaves_no_lock(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))  # Python ignores SIGXFSZ
    try:
        with pytest.raises(HotproxyError, match=r"/lock: File too large$"):
            InstanceLock(tmp_path, "web")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    InstanceLock(tmp_path, "web").release()


def test_a_log_line_has_its_priority_only_for_the_journal(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    status = os.fstat(2)
    for stream in ("", f"{status.st_dev}:{status.st_ino + 1}"):  # the second: of a unit whose stderr we have not
        monkeypatch.setenv("JOURNAL_STREAM", stream)
        log.log(log.ERROR, "one\ntwo")
        first, second = capfd.readouterr().err.splitlines()
        assert first.endswith("one") and second.endswith("two") and " error " in first
        assert log.for_stderr(log.ERROR, "one\n  two") == "one\n  two"
    monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
    log.log(log.WARNING, "three")
    assert capfd.readouterr().err.startswith("<4>")
    assert log.for_stderr(log.ERROR, "one\n  two") == "<3>one\n<3>  two"


def test_no_capability_is_left() -> None:
    pid = os.fork()
    if pid == 0:
        kernel.drop_all_capabilities()
        status = Path("/proc/self/status").read_text()
        kept = [line for line in status.splitlines() if line.startswith(("CapPrm", "CapEff", "CapInh", "CapAmb"))]
        gone = all(int(line.split()[1], 16) == 0 for line in kept) and len(kept) == 4
        os._exit(0 if gone and "NoNewPrivs:\t1" in status else 1)
    assert os.waitpid(pid, 0)[1] == 0
