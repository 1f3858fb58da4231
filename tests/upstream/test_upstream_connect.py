"""Connects that come about, fail, time out and are cancelled: what the owner hears, and that no descriptor is left."""

from __future__ import annotations

import errno
import os
import resource
import socket
from types import SimpleNamespace

import pytest

from hotproxy.clock import TimerWheel
from hotproxy.config.address import Address
from hotproxy.config.model import SocketOptions as Config
from hotproxy.errors import CONNECT_FAILURE, CONNECT_TIMEOUT, LOCAL_CONNECT_FAILURE
from hotproxy.net.socket_options import SocketOptions
from hotproxy.upstream.connect import ConnectAttempt, _is_connected_to_itself, _send_whole
from hotproxy.upstream.endpoint import Endpoint
from tests.kit.clock import FakeClock, pass_time
from tests.kit.loop import FakeLoop


class Owner:
    def __init__(self) -> None:
        self.heard: list[object] = []

    def on_connected(self, sock: socket.socket) -> None:
        self.heard.append(sock)

    def on_connect_failed(self, reason: object, error: str) -> None:
        self.heard.append((reason, error))


class Bench:
    def __init__(self) -> None:
        self.clock = FakeClock()
        self.wheel = TimerWheel(self.clock)
        self.loop = FakeLoop()
        self.runtime = SimpleNamespace(loop=self.loop, wheel=self.wheel)
        self.owner = Owner()
        self.fds_before = len(os.listdir("/proc/self/fd"))

    def attempt(self, text: str, timeout_s: float = 1.0, preface: bytes = b"", **options) -> ConnectAttempt:
        endpoint = Endpoint(Address.parse(text), 1, SocketOptions(Config(**options)))
        return ConnectAttempt(endpoint, timeout_s, self.owner, self.runtime, preface)

    def close(self) -> None:
        for heard in self.owner.heard:
            if isinstance(heard, socket.socket):
                heard.close()
        assert not self.loop.readers and not self.loop.writers
        assert len(os.listdir("/proc/self/fd")) == self.fds_before


@pytest.fixture
def bench():
    made = Bench()
    yield made
    made.close()


@pytest.fixture(params=["127.0.0.1", "::1", "unix"])
def listening(request, tmp_path):
    if request.param == "unix":
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(tmp_path / "s"))
        text = f"unix:{tmp_path}/s"
    else:
        listener = socket.socket(socket.AF_INET6 if ":" in request.param else socket.AF_INET)
        listener.bind((request.param, 0))
        text = str(Address("tcp", request.param, listener.getsockname()[1]))
    listener.listen(1)
    with listener:
        yield listener, text


@pytest.fixture
def closed_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))  # bound and not listening: nobody else gets it
        yield f"127.0.0.1:{sock.getsockname()[1]}"


def test_a_connection_comes_about(listening, bench):
    listener, text = listening
    bench.fds_before = len(os.listdir("/proc/self/fd"))
    bench.attempt(text).start()
    assert bench.owner.heard == []  # never from inside start(), even if the kernel is done
    bench.loop.run()
    (sock,) = bench.owner.heard
    accepted, _ = listener.accept()
    sock.send(b"x")
    assert accepted.recv(1) == b"x"
    accepted.close()
    assert sock.gettimeout() == 0.0
    if sock.family != socket.AF_UNIX:
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    pass_time(bench.clock, bench.wheel, 5)
    assert len(bench.owner.heard) == 1


def test_a_closed_port_refuses(closed_port, bench):
    bench.attempt(closed_port).start()
    assert bench.owner.heard == []
    bench.loop.run()
    assert bench.owner.heard == [(CONNECT_FAILURE, "Connection refused")]


def test_a_missing_unix_socket_fails_later_not_inside_start(bench, tmp_path):
    bench.attempt(f"unix:{tmp_path}/none").start()
    assert bench.owner.heard == []
    bench.loop.run()
    assert bench.owner.heard == [(CONNECT_FAILURE, "No such file or directory")]


def test_a_full_unix_queue_is_tried_again_until_the_timeout(bench, tmp_path):
    """connect(2) on a unix socket answers EAGAIN at once, and no event ever says that there is room."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen(0)
        with socket.socket(socket.AF_UNIX) as first:
            first.connect(str(tmp_path / "s"))
            bench.attempt(f"unix:{tmp_path}/s", 1.0).start()
            pass_time(bench.clock, bench.wheel, 0.5)
            bench.loop.run()
            assert bench.owner.heard == []
            listener.accept()[0].close()
            pass_time(bench.clock, bench.wheel, 0.1)
            bench.loop.run()
            assert isinstance(bench.owner.heard[0], socket.socket)
            second = Owner()
            attempt = ConnectAttempt(Endpoint(Address.parse(f"unix:{tmp_path}/s")), 1.0, second, bench.runtime)
            attempt.start()
            pass_time(bench.clock, bench.wheel, 1.1)
            assert second.heard == [(CONNECT_TIMEOUT, "Connection timed out")]


def test_nobody_answers(bench):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        text = f"127.0.0.1:{listener.getsockname()[1]}"
        fillers = []
        for _ in range(3):  # the queue is full: further SYNs are dropped
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
            fillers.append(filler)
        bench.attempt(text, 0.25).start()
        bench.loop.run()
        pass_time(bench.clock, bench.wheel, 0.2)
        assert bench.owner.heard == []
        pass_time(bench.clock, bench.wheel, 0.1)
        assert bench.owner.heard == [(CONNECT_TIMEOUT, "Connection timed out")]
        for filler in fillers:
            filler.close()


@pytest.mark.parametrize("turns", [0, 1])
def test_cancel_is_the_end_of_it(bench, closed_port, turns, tmp_path):
    for text in (closed_port, f"unix:{tmp_path}/none"):
        attempt = bench.attempt(text)
        attempt.start()
        attempt.cancel()
        for _ in range(turns):
            bench.loop.turn()
        attempt.cancel()
    bench.loop.run()
    pass_time(bench.clock, bench.wheel, 2)
    assert bench.owner.heard == []


def test_no_descriptor_left_is_a_failure_of_ours(bench, closed_port):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = max(int(name) for name in os.listdir("/proc/self/fd"))
    holes = [os.open("/dev/null", os.O_RDONLY) for _ in range(used + 1 - bench.fds_before)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(holes or [used]) + 1, hard))
    try:
        while True:
            try:
                holes.append(os.open("/dev/null", os.O_RDONLY))
            except OSError:
                break
        bench.attempt(closed_port).start()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for fd in holes:
            os.close(fd)
    bench.loop.run()
    assert bench.owner.heard == [(LOCAL_CONNECT_FAILURE, os.strerror(errno.EMFILE))]


def test_a_socket_connected_to_itself_is_a_refusal():
    """A connect to a free port of loopback from that very port succeeds (simultaneous open): an echo, no endpoint."""
    with socket.socket() as itself, socket.socket() as spare:
        itself.bind(("127.0.0.1", 0))
        itself.connect(itself.getsockname())
        assert _is_connected_to_itself(itself)
        assert not _is_connected_to_itself(spare)


def test_a_frozen_connect_reports_nothing_and_goes_on_when_it_thaws(bench, listening):
    _, text = listening
    attempt = bench.attempt(text)
    attempt.start()
    attempt.freeze()
    bench.loop.run()
    assert bench.owner.heard == [] and not bench.loop.writers
    pass_time(bench.clock, bench.wheel, 0.5)
    attempt.thaw()
    bench.loop.run()
    (sock,) = bench.owner.heard
    assert isinstance(sock, socket.socket)


def test_its_deadline_is_that_of_before(bench, listening):
    _, text = listening
    attempt = bench.attempt(text)
    attempt.start()
    attempt.freeze()
    pass_time(bench.clock, bench.wheel, 5.0)
    assert bench.owner.heard == []
    bench.loop.add_writer = lambda fd, callback: None  # the SYN is never answered
    attempt.thaw()
    pass_time(bench.clock, bench.wheel, 0.1)
    assert [reason for reason, _ in bench.owner.heard] == [CONNECT_TIMEOUT]


def test_a_failure_that_was_about_to_be_told_is_told_once(bench, closed_port):
    attempt = bench.attempt("unix:/nowhere/at/all")
    attempt.start()
    attempt.freeze()
    bench.loop.run()
    assert bench.owner.heard == []
    attempt.thaw()
    attempt.freeze()
    attempt.thaw()
    bench.loop.run()
    assert [reason for reason, _ in bench.owner.heard] == [CONNECT_FAILURE]


def test_a_frozen_connect_can_be_cancelled(bench, listening):
    _, text = listening
    attempt = bench.attempt(text)
    attempt.start()
    attempt.freeze()
    attempt.cancel()
    bench.loop.run()
    assert bench.owner.heard == []


def test_one_that_waits_for_room_in_a_queue_goes_on_waiting(bench, tmp_path):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen(0)
        with socket.socket(socket.AF_UNIX) as first:
            first.connect(str(tmp_path / "s"))
            attempt = bench.attempt(f"unix:{tmp_path}/s")
            attempt.start()
            attempt.freeze()
            pass_time(bench.clock, bench.wheel, 0.2)
            listener.accept()[0].close()
            assert bench.owner.heard == []
            attempt.thaw()
            pass_time(bench.clock, bench.wheel, 0.1)
            bench.loop.run()
    (sock,) = bench.owner.heard
    assert isinstance(sock, socket.socket)


def test_the_preface_is_out_before_the_owner_hears_of_it(bench, listening):
    listener, text = listening
    bench.attempt(text, preface=b"PROXY UNKNOWN\r\n").start()
    bench.loop.run()
    (sock,) = bench.owner.heard
    sock.send(b"x")
    accepted, _ = listener.accept()
    with accepted:
        accepted.settimeout(5)
        assert accepted.recv(100).startswith(b"PROXY UNKNOWN\r\n")


def test_an_endpoint_that_resets_before_the_preface_cannot_be_reached(bench):
    """Reset between the connect and our look at it: the write says so, and the next endpoint is tried."""
    broken, other = socket.socketpair()
    other.close()
    with broken:
        assert _send_whole(broken, b"PROXY UNKNOWN\r\n") == os.strerror(errno.EPIPE)


def test_a_preface_that_has_no_room_is_never_half_sent_and_used(bench):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        assert _send_whole(ours, bytes(1 << 24)) == "no room for the PROXY header"


def test_the_options_of_the_cluster_are_those_of_the_socket(bench, listening):
    _, text = listening
    bench.attempt(text, tcp_user_timeout_s=7.0, tcp_nodelay=False).start()
    bench.loop.run()
    (sock,) = bench.owner.heard
    if sock.family != socket.AF_UNIX:
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 7000
        assert not sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
