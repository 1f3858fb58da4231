"""Accepting: what is taken, refused, put off; what is counted; and that no queue is ever closed with clients in it."""

from __future__ import annotations

import errno
import os
import random
import resource
import socket
import struct

import pytest

from hotproxy.clock import TimerWheel
from hotproxy.config.model import SocketOptions as Config
from hotproxy.config.model import TcpKeepalive
from hotproxy.errors import DRAIN_DEADLINE
from hotproxy.net.socket_options import SocketOptions
from hotproxy.proxy.listener import ACCEPTS_PER_TURN, PAUSE_S, Admission, Listener
from hotproxy.proxy.runtime import Runtime
from hotproxy.proxy.snapshot import Snapshot, TcpListener
from hotproxy.shm.cells import Slab
from hotproxy.telemetry.stats import ListenerStats, TcpStats
from hotproxy.upstream.pool import Pools
from tests.kit.clock import FakeClock, pass_time
from tests.kit.connection import FakeGauge
from tests.kit.loop import FakeLoop


class FakeTerminal:
    """A connection that does nothing but exist."""

    kind = "tcp"

    def __init__(self, sock, peer, listener, owner, runtime):
        self.sock, self.peer, self.listener, self.owner = sock, peer, listener, owner
        self.heard: list[object] = []

    def start(self):
        self.heard.append("start")

    def drain(self):
        self.heard.append("drain")

    def close(self, reason):
        self.heard.append(reason)
        self.end()

    def end(self):
        self.sock.close()
        self.owner.on_connection_closed(self)

    def release(self):
        self.sock.close()
        self.owner.on_connection_moved(self)

    @classmethod
    def load(cls, state, socks, listener, owner, runtime):
        if state != {"kind": "tcp"}:
            raise ValueError("another kind")
        return cls(socks[0], "", listener, owner, runtime)


class Bench:
    def __init__(
        self,
        limit: int = 1000,
        max_connections: int = 0,
        options: Config | None = None,
        backlog: int = 128,
        loop: FakeLoop | None = None,
    ) -> None:
        options = options or Config()
        slab = Slab.private(ListenerStats.declare("web") + TcpStats.declare("web"))
        self.clock = FakeClock()
        self.wheel = TimerWheel(self.clock)
        self.loop = loop or FakeLoop()
        self.stats = ListenerStats(slab, "web")
        config = TcpListener(
            "web", "c", 0.0, 1, max_connections, TcpStats(slab, "web"), self.stats, None, options=SocketOptions(options)
        )
        runtime = Runtime(self.loop, self.wheel, self.clock, random.Random(1), FakeGauge(), Snapshot({}, {}, Pools()))
        self.admission = Admission(limit, self.wheel)
        self.listener = Listener(config, backlog, FakeTerminal, self.admission, self.loop, runtime)
        self.clients: list[socket.socket] = []
        self.held: list[socket.socket] = []  # what the supervisor would keep

    def add_socket(
        self, slot: int = 0, listening: bool = True, family=socket.AF_INET, shared: bool = False
    ) -> socket.socket:
        sock = socket.socket(family)
        sock.bind(("127.0.0.1" if family == socket.AF_INET else "::1", 0))
        if listening:
            sock.listen(128)
        self.held.append(sock)
        self.listener.add_socket(sock.dup(), 0, slot, listening, shared)
        return sock

    def connect(self, sock: socket.socket, count: int = 1) -> list[socket.socket]:
        new = [socket.create_connection(sock.getsockname()[:2], timeout=5) for _ in range(count)]
        self.clients += new
        return new

    @property
    def connections(self) -> list[FakeTerminal]:
        return list(self.listener.connections)

    def counts(self) -> dict[str, int]:
        names = ("total", "active", "destroy", "overflow", "accept_failed")
        return {name: value for name in names if (value := getattr(self.stats, f"downstream_cx_{name}").value)}

    def close(self) -> None:
        for connection in self.connections:
            connection.end()
        self.listener.leave()
        self.admission.close()
        for sock in self.clients + self.held:
            sock.close()
        assert not self.loop.readers and not self.loop.writers
        assert self.stats.downstream_cx_active.value == 0
        assert self.stats.downstream_cx_total.value == self.stats.downstream_cx_destroy.value


@pytest.fixture
def make():
    made: list[Bench] = []

    def build(**kwargs) -> Bench:
        made.append(Bench(**kwargs))
        return made[-1]

    yield build
    for bench in made:
        bench.close()


def test_it_accepts_counts_and_forgets(make):
    bench = make()
    sock = bench.add_socket()
    bench.listener.start_accepting()
    (client,) = bench.connect(sock)
    bench.loop.run()
    (connection,) = bench.connections
    assert connection.heard == ["start"]
    assert connection.peer == "{}:{}".format(*client.getsockname())
    assert connection.sock.getblocking() is False
    assert connection.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    assert bench.counts() == {"total": 1, "active": 1}
    connection.end()
    assert bench.counts() == {"total": 1, "destroy": 1}
    assert bench.admission.open == 0


def test_a_client_is_counted_before_it_is_ours(make):
    """Killed between the two, as one worker in 20 was under load, it had held a client that nobody knew of."""
    seen = []

    class Noting(FakeLoop):
        def accept(self, listening):
            seen.append(bench.counts().get("active", 0))
            return super().accept(listening)

    bench = make(loop=Noting())
    sock = bench.add_socket()
    bench.listener.start_accepting()
    bench.connect(sock)
    bench.loop.run()
    assert seen == [1, 2], "nobody more waits at the second time"
    assert bench.counts() == {"total": 1, "active": 1}


def test_addresses_of_clients_are_text(make):
    bench = make()
    sock = bench.add_socket(family=socket.AF_INET6)
    bench.listener.start_accepting()
    (client,) = bench.connect(sock)
    bench.loop.run()
    assert bench.connections[0].peer == f"[::1]:{client.getsockname()[1]}"


def test_at_most_16_a_turn(make):
    bench = make()
    sock = bench.add_socket()
    bench.listener.start_accepting()
    bench.connect(sock, 40)
    taken = []
    while bench.loop.turn():
        taken.append(len(bench.connections))
    assert taken == [ACCEPTS_PER_TURN, 2 * ACCEPTS_PER_TURN, 40]


def test_a_socket_listens_only_when_it_is_accepted_from(make):
    bench = make()
    sock = bench.add_socket(listening=False)
    with pytest.raises(ConnectionRefusedError):
        bench.connect(sock)
    bench.listener.start_accepting()
    bench.connect(sock)
    bench.loop.run()
    assert len(bench.connections) == 1


def test_a_socket_that_comes_later_is_accepted_from_at_once(make):
    bench = make()
    bench.listener.start_accepting()
    sock = bench.add_socket(slot=7, listening=False)
    bench.connect(sock)
    bench.loop.run()
    assert len(bench.connections) == 1


def test_stopping_closes_nothing(make):
    bench = make()
    sock = bench.add_socket()
    bench.listener.start_accepting()
    bench.listener.stop_accepting()
    bench.connect(sock, 3)
    assert bench.loop.run() == 0
    bench.listener.start_accepting()
    bench.loop.run()
    assert len(bench.connections) == 3


def test_max_connections_refuses(make):
    bench = make(max_connections=2)
    sock = bench.add_socket()
    bench.listener.start_accepting()
    clients = bench.connect(sock, 3)
    bench.loop.run()
    assert bench.counts() == {"total": 2, "active": 2, "overflow": 1}
    assert clients[2].recv(1) == b""
    bench.connections[0].end()
    bench.connect(sock)
    bench.loop.run()
    assert bench.counts() == {"total": 3, "active": 2, "destroy": 1, "overflow": 1}


def test_a_full_worker_leaves_clients_in_the_queue(make):
    bench = make(limit=4)
    sock = bench.add_socket()
    bench.listener.start_accepting()
    bench.connect(sock, 6)
    bench.loop.run()  # does not spin
    assert bench.counts() == {"total": 4, "active": 4}
    bench.connections[0].end()
    bench.loop.run()
    assert bench.counts() == {"total": 5, "active": 4, "destroy": 1}


def test_without_descriptors_it_pauses_and_goes_on(make):
    bench = make()
    sock = bench.add_socket()
    bench.listener.start_accepting()
    refused, waiting = bench.connect(sock, 2)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    fillers: list[int] = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(int(fd) for fd in os.listdir("/proc/self/fd")) + 10, hard))
    try:
        while True:
            try:
                fillers.append(os.open("/dev/null", os.O_RDONLY))
            except OSError:
                break
        turns = bench.loop.run()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for fd in fillers:
            os.close(fd)
    assert turns == 1
    assert refused.recv(1) == b""  # told at once, by means of the reserved descriptor
    assert bench.counts() == {"accept_failed": 1}
    bench.loop.run()
    assert bench.counts() == {"accept_failed": 1}
    pass_time(bench.clock, bench.wheel, PAUSE_S)
    bench.loop.run()
    assert bench.counts() == {"accept_failed": 1, "total": 1, "active": 1}
    waiting.close()


class FailingSocket:
    """A listening socket whose accept() fails in ways that no test can cause otherwise."""

    family = socket.AF_INET

    def __init__(self, sock: socket.socket, errors: list[int]) -> None:
        self._sock = sock
        self._errors = errors

    def accept(self):
        if self._errors:
            number = self._errors.pop(0)
            raise OSError(number, os.strerror(number))
        return self._sock.accept()

    def __getattr__(self, name: str):
        return getattr(self._sock, name)


def test_errors_of_the_waiting_connection_are_passed_over(make):
    bench = make()
    sock = socket.create_server(("127.0.0.1", 0))
    errors = [errno.ECONNABORTED, errno.EPROTO, errno.EHOSTUNREACH, errno.EPERM]
    bench.listener.add_socket(FailingSocket(sock, errors), 0, 0, True, shared=False)
    bench.listener.start_accepting()
    bench.connect(sock)
    bench.loop.run()
    assert bench.counts() == {"total": 1, "active": 1}


def test_release_closes_our_copy_only(make):
    bench = make()
    sock = bench.add_socket(slot=3)
    bench.add_socket(slot=0)
    bench.listener.start_accepting()
    bench.listener.release(0, 3)
    (client,) = bench.connect(sock)
    bench.loop.run()
    assert bench.connections == []
    accepted, _ = sock.accept()
    accepted.close()
    client.close()


def test_shut_takes_who_waits_and_refuses_who_comes(make):
    bench = make()
    sock = bench.add_socket()
    bench.connect(sock, 50)
    bench.listener.shut(0, 0)
    assert len(bench.connections) == 50
    with pytest.raises(ConnectionRefusedError):  # although the supervisor's copy is still open
        bench.connect(sock)


def test_a_shared_socket_outlives_the_last_orphan(make):
    """systemd listens on it, and whoever it starts next accepts there: an orphan's shutdown() would end that too."""
    bench = make()
    systemds, own = bench.add_socket(shared=True), bench.add_socket(slot=1)
    bench.listener.start_accepting()
    for sock in (systemds, own):
        bench.connect(sock, 3)
    bench.listener.shut_all()
    assert len(bench.connections) == 6, "who waits is served"
    assert not bench.loop.readers
    bench.connect(systemds)
    with pytest.raises(ConnectionRefusedError):
        bench.connect(own)


def test_a_socket_that_another_process_shut_is_let_go(make):
    """It reports EPOLLHUP until it is closed: the loop must not spin on it."""
    bench = make()
    sock = bench.add_socket()
    bench.listener.start_accepting()
    sock.shutdown(socket.SHUT_RDWR)
    bench.loop.run()
    assert not bench.loop.readers
    bench.listener.shut(0, 0)


def test_shut_of_a_socket_that_is_shut_already(make):
    """A worker that was stopped meanwhile: the supervisor did not wait for it."""
    bench = make()
    bench.add_socket().shutdown(socket.SHUT_RDWR)
    bench.listener.shut(0, 0)


def test_the_same_socket_once_more_is_closed(make):
    bench = make()
    bench.add_socket()
    bench.listener.start_accepting()
    before = dict(bench.loop.readers)
    again = socket.socket()
    bench.listener.add_socket(again, 0, 0, True, False)
    assert again.fileno() == -1 and bench.loop.readers == before


def test_unix_sockets_are_shared(make, tmp_path):
    bench = make()
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(tmp_path / "s"))
    sock.listen()
    bench.held.append(sock)
    bench.listener.add_socket(sock.dup(), 0, 0, True, shared=True)
    bench.listener.start_accepting()
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(tmp_path / "s"))
        bench.loop.run()
        assert bench.connections[0].peer == ""
        bench.listener.stop_accepting()
        bench.listener.start_accepting()


def test_everybody_is_asked_to_leave_then_told(make):
    bench = make()
    sock = bench.add_socket()
    bench.listener.start_accepting()
    bench.connect(sock, 3)
    bench.loop.run()
    connections = bench.connections
    bench.listener.drain()
    bench.listener.close_connections(DRAIN_DEADLINE)
    assert [connection.heard for connection in connections] == [["start", "drain", DRAIN_DEADLINE]] * 3
    assert bench.connections == []


def test_ending_twice_is_a_bug(make):
    bench = make()
    sock = bench.add_socket()
    bench.listener.start_accepting()
    bench.connect(sock)
    bench.loop.run()
    (connection,) = bench.connections
    connection.end()
    with pytest.raises(KeyError):
        bench.listener.on_connection_closed(connection)


def test_a_connection_moves_from_listener_to_listener(make):
    """Gauges and places go along, totals stay: neither side counts it as begun or ended."""
    old, new = make(limit=2), make(limit=2, max_connections=1)
    sock = old.add_socket()
    old.listener.start_accepting()
    old.connect(sock, 2)
    old.loop.run()
    moving = old.connections
    loaded = [new.listener.adopt({"kind": "tcp"}, [each.sock.dup()]) for each in moving]
    assert all(each.heard == [] for each in loaded)  # whoever adopts starts them
    assert new.admission.paused and new.counts() == {"active": 2}
    for each in moving:
        each.release()
    assert old.connections == [] and old.counts() == {"total": 2}
    assert not old.admission.paused
    old.stats.downstream_cx_destroy.add(2)  # where they end is where they are counted
    for each in loaded:
        each.end()
    assert new.counts() == {"destroy": 2}
    new.stats.downstream_cx_total.add(2)


def test_one_that_is_refused_leaves_nothing_behind(make):
    bench = make()
    ours, theirs = socket.socketpair()
    with ours, theirs, pytest.raises(ValueError, match="another kind"):
        bench.listener.adopt({"kind": "http1"}, [ours])
    assert bench.counts() == {} and bench.connections == [] and bench.admission.open == 0


def test_accepted_sockets_have_the_options_of_the_config(make):
    bench = make(options=Config(tcp_nodelay=False, tcp_keepalive=TcpKeepalive(60.0), tcp_defer_accept_s=1.0))
    sock = bench.add_socket()
    bench.listener.start_accepting()
    (client,) = bench.connect(sock)
    bench.loop.run()
    assert not bench.connections, "the client has not said anything"
    client.sendall(b"x")
    bench.loop.run()
    accepted = bench.connections[0].sock
    assert not accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 60


def backlog_of(sock: socket.socket) -> int:
    """Of a listening socket: tcpi_sacked of struct tcp_info (include/uapi/linux/tcp.h)."""
    found: int = struct.unpack_from("=28xI", sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 64))[0]
    return found


def test_a_socket_that_listens_already_takes_the_new_backlog(make):
    bench = make(backlog=77)
    sock = bench.add_socket()
    assert backlog_of(sock) == 128
    bench.listener.start_accepting()
    assert backlog_of(sock) == 77


def test_one_that_others_have_shut_is_not_opened_again(make):
    bench = make()
    sock = bench.add_socket()
    sock.shutdown(socket.SHUT_RDWR)
    bench.listener.start_accepting()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(sock.getsockname()[:2], timeout=5)
    bench.loop.run()
    assert not bench.connections
