"""A whole worker process in front of a Python origin, driven over its channel as the zygote does."""

from __future__ import annotations

import contextlib
import os
import random
import select
import signal
import socket
import threading
import time
import traceback
from collections.abc import Iterator

import pytest

from hotproxy.config.address import Address
from hotproxy.config.model import Cluster, Config, EndpointConfig, Listener, Route, Tcp, VirtualHost
from hotproxy.restarter.frames import Channel, Message
from hotproxy.shm.cells import Slab
from hotproxy.worker import main
from hotproxy.worker.build import declare_stats

BIG = random.Random(8).randbytes(3_000_000)


class Origin:
    """Answers HTTP with its request line as the body; its other port sends back what it gets. A thread per client."""

    def __init__(self) -> None:
        self.http = socket.create_server(("127.0.0.1", 0))
        self.echo = socket.create_server(("127.0.0.1", 0))
        for listener, serve in ((self.http, self._serve_http), (self.echo, self._serve_echo)):
            threading.Thread(target=self._accept, args=(listener, serve), daemon=True).start()

    def _accept(self, listener: socket.socket, serve) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = listener.accept()
                threading.Thread(target=serve, args=(sock,), daemon=True).start()

    def _serve_http(self, sock: socket.socket) -> None:
        with sock, contextlib.suppress(OSError), sock.makefile("rb") as lines:
            while line := lines.readline():
                while lines.readline() not in (b"\r\n", b""):
                    pass
                body = BIG if b"/big" in line else line.strip()
                sock.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body))

    def _serve_echo(self, sock: socket.socket) -> None:
        with sock, contextlib.suppress(OSError):
            while data := sock.recv(65536):
                sock.sendall(data)

    def close(self) -> None:
        for listener in (self.http, self.echo):
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()


class Worker:
    """A forked worker with one socket for each listener, and our end of its channel."""

    def __init__(self, config: Config, listening: bool = False) -> None:
        self.sockets: dict[str, socket.socket] = {}
        for listener in config.listeners:
            sock = socket.socket()
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16 * 1024)  # accepted sockets inherit it
            sock.bind(("127.0.0.1", 0))
            if listening:
                sock.listen()
            self.sockets[listener.name] = sock
        self.channel, theirs = Channel.pair()
        self.pid = os.fork()
        if self.pid == 0:
            self._be_the_worker(config, theirs, listening)
        theirs.close()

    def _be_the_worker(self, config: Config, channel: Channel, listening: bool) -> None:
        code = 70
        try:
            self.channel.close()
            sockets = [
                main.ListeningSocket(name, 0, 0, listening, False, sock.dup()) for name, sock in self.sockets.items()
            ]
            for sock in self.sockets.values():
                sock.close()
            slab = Slab.private(declare_stats(config))
            code = main.run(main.WorkerStart(config, 1, 0, sockets, channel, slab, 5.0))
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)

    def address(self, listener: str) -> tuple[str, int]:
        return self.sockets[listener].getsockname()

    def connect(self, listener: str) -> socket.socket:
        sock = socket.create_connection(self.address(listener), timeout=10)
        sock.settimeout(10)
        return sock

    def receive(self, timeout_s: float = 10.0) -> Message:
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            select.select([self.channel], [], [], deadline - time.monotonic())
            message = self.channel.receive()
            if message is not None:
                return message
        raise AssertionError("the worker says nothing")

    def expect(self, kind: str) -> Message:
        message = self.receive()
        assert message.kind == kind, message
        return message

    def expect_settled(self) -> None:
        """Whatever was sent before has been read: a message that it refuses is answered, and nothing else happens."""
        self.channel.send("ACCEPTING")
        assert self.expect("UNKNOWN").fields["kind"] == "ACCEPTING"

    def begin(self) -> None:
        self.expect("READY")
        self.channel.send("ACCEPT_ON")
        self.expect("ACCEPTING")

    def wait(self, timeout_s: float = 20.0) -> int:
        pidfd = os.pidfd_open(self.pid)
        try:
            assert select.select([pidfd], [], [], timeout_s)[0], "the worker does not exit"
        finally:
            os.close(pidfd)
        _, status = os.waitpid(self.pid, 0)
        self.pid = 0
        return os.waitstatus_to_exitcode(status)

    def close(self) -> None:
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        self.channel.close()
        for sock in self.sockets.values():
            sock.close()


@pytest.fixture
def origin() -> Iterator[Origin]:
    made = Origin()
    yield made
    made.close()


@pytest.fixture
def worker(origin: Origin) -> Iterator[Worker]:
    made = Worker(config_for(origin))
    yield made
    made.close()


def address_of(sock: socket.socket) -> Address:
    return Address.parse(f"127.0.0.1:{sock.getsockname()[1]}")


def config_for(origin: Origin) -> Config:
    anywhere = Address.parse("127.0.0.1:0")
    route = Route(name="all", prefix="/", cluster="http")
    return Config(
        listeners=(
            Listener("web", (anywhere,), virtual_hosts=(VirtualHost("any", ("*",), (route,)),)),
            Listener("db", (anywhere,), tcp=Tcp("echo")),
        ),
        clusters=(
            Cluster("http", (EndpointConfig(address_of(origin.http)),)),
            Cluster("echo", (EndpointConfig(address_of(origin.echo)),)),
        ),
    )


def ask(sock: socket.socket, path: str) -> bytes:
    """The head and body of the answer."""
    sock.sendall(f"GET {path} HTTP/1.1\r\nHost: example.org\r\n\r\n".encode())
    return read_answer(sock)


def read_answer(sock: socket.socket) -> bytes:
    got = b""
    while b"\r\n\r\n" not in got:
        data = sock.recv(65536)
        assert data, f"EOF after {got!r}"
        got += data
    head, _, body = got.partition(b"\r\n\r\n")
    length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
    while len(body) < length:
        data = sock.recv(65536)
        assert data, f"EOF after {got!r}"
        body += data
    return head + b"\r\n\r\n" + body


def test_it_serves_http_and_tcp(worker):
    worker.begin()
    with worker.connect("web") as client:
        for path in ("/one", "/two"):
            assert ask(client, path).endswith(f"GET {path} HTTP/1.1".encode())
    with worker.connect("db") as client:
        client.sendall(b"x" * 100_000)
        client.shutdown(socket.SHUT_WR)
        got = b""
        while data := client.recv(65536):
            got += data
        assert got == b"x" * 100_000


def test_sockets_do_not_listen_before_it_is_told_to_accept(worker):
    worker.expect("READY")
    with pytest.raises(ConnectionRefusedError):
        worker.connect("web")
    worker.channel.send("ACCEPT_ON")
    worker.expect("ACCEPTING")
    worker.connect("web").close()


def test_accept_off_keeps_connections_and_the_queue(worker):
    worker.begin()
    with worker.connect("web") as client:
        ask(client, "/before")
        worker.channel.send("ACCEPT_OFF")
        worker.expect("ACCEPT_STOPPED")
        with worker.connect("web") as waiting:  # in the kernel's queue: nobody refuses it
            waiting.sendall(b"GET /queued HTTP/1.1\r\nHost: example.org\r\n\r\n")
            answer = ask(client, "/after")
            assert answer.endswith(b"GET /after HTTP/1.1")
            assert b"connection: close" not in answer.lower()
            assert not select.select([waiting], [], [], 0.2)[0]
            worker.channel.send("ACCEPT_ON")
            worker.expect("ACCEPTING")
            assert read_answer(waiting).endswith(b"GET /queued HTTP/1.1")


def test_drain_ends_with_the_last_connection(worker):
    worker.begin()
    idle, busy, tunnel = worker.connect("web"), worker.connect("web"), worker.connect("db")
    ask(idle, "/")
    busy.sendall(b"GET /slow HTTP/1.1\r\n")
    tunnel.sendall(b"a")
    assert tunnel.recv(1) == b"a"
    worker.channel.send("DRAIN", {"deadline_s": time.monotonic() + 60})
    worker.expect_settled()
    busy.sendall(b"Host: example.org\r\n\r\n")
    for client, answer in ((busy, read_answer(busy)), (idle, ask(idle, "/next"))):
        assert b"connection: close" in answer.lower()
        assert client.recv(100) == b""
    tunnel.sendall(b"b")
    assert tunnel.recv(1) == b"b"
    for client in (idle, busy, tunnel):
        client.close()
    assert worker.wait() == 0


def test_the_last_answer_is_sent_whole_however_slowly_it_is_read(worker):
    """Once the response is complete the worker holds its end; exiting then would have cut it off."""
    worker.begin()
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 * 1024)
    client.connect(worker.address("web"))
    client.settimeout(10)
    ask(client, "/first")
    worker.channel.send("DRAIN", {"deadline_s": time.monotonic() + 60})
    worker.expect_settled()
    client.sendall(b"GET /big HTTP/1.1\r\nHost: example.org\r\n\r\n")
    got = bytearray()
    while len(got) < len(BIG) - 200_000:
        got += client.recv(16 * 1024)
    pidfd = os.pidfd_open(worker.pid)
    assert not select.select([pidfd], [], [], 0.3)[0], "the worker is gone too early"
    os.close(pidfd)
    while data := client.recv(16 * 1024):
        got += data
    assert got.endswith(BIG)
    client.close()
    assert worker.wait() == 0


def test_drain_ends_at_its_deadline(worker):
    worker.begin()
    with worker.connect("db") as tunnel:
        tunnel.sendall(b"a")
        assert tunnel.recv(1) == b"a"
        worker.channel.send("DRAIN", {"deadline_s": time.monotonic() + 0.2})
        assert worker.wait() == 0
        with pytest.raises(ConnectionResetError):  # it was cut, and that was not all
            tunnel.recv(1)


def test_a_soft_drain_still_accepts_and_can_be_undone(worker):
    worker.begin()
    worker.channel.send("DRAIN", {"deadline_s": 0.0})
    worker.expect_settled()
    with worker.connect("web") as client:
        assert b"connection: close" in ask(client, "/").lower()
    worker.channel.send("UNDRAIN")
    worker.expect_settled()
    with worker.connect("web") as client:
        assert b"connection: close" not in ask(client, "/").lower()


def test_it_adopts_releases_and_shuts_sockets(worker):
    worker.begin()
    with socket.create_server(("127.0.0.1", 0)) as surplus:
        worker.channel.send("ADOPT", {"sockets": [["db", 0, 3, True, False]]}, [surplus.fileno()])
        with socket.create_connection(surplus.getsockname()) as client:
            client.settimeout(10)
            client.sendall(b"adopted")
            assert client.recv(7) == b"adopted"
        worker.channel.send("RELEASE", {"sockets": [["db", 0, 3]]})
        worker.channel.send("SHUT", {"sockets": [["web", 0, 0]]})
        worker.expect("SHUT_DONE")
        with pytest.raises(ConnectionRefusedError):
            worker.connect("web")
        with socket.create_connection(surplus.getsockname()):  # released, not shut: it waits for its own slot
            assert surplus.accept()[0].close() is None
    worker.connect("db").close()


def test_shut_serves_who_was_waiting(origin):
    worker = Worker(config_for(origin), listening=True)
    try:
        worker.expect("READY")
        waiting = [worker.connect("db") for _ in range(100)]
        worker.channel.send("SHUT", {"sockets": [["db", 0, 0]]})
        worker.expect("SHUT_DONE")
        for number, client in enumerate(waiting):
            client.sendall(b"%03d" % number)
        for number, client in enumerate(waiting):
            assert client.recv(3) == b"%03d" % number
            client.close()
    finally:
        worker.close()


def test_bad_frames_are_answered_and_change_nothing(worker):
    worker.begin()
    worker.channel.sock.send(b"garbage")
    assert worker.expect("UNKNOWN").fields["why"]
    worker.channel.send("HELLO", {
        "epoch": 1, "protocol": 1, "codecs": {}, "supervisor_digest": "", "layout": 1, "version": "", "slots": 1,
        "listeners": [], "deadlines": {}, "stats": [],
    })  # fmt: skip
    assert worker.expect("UNKNOWN").fields["kind"] == "HELLO"
    worker.channel.send("ADOPT", {"sockets": [["db", 0, 1, True, False]]})  # without its descriptor
    assert worker.expect("UNKNOWN").fields["kind"] == "ADOPT"
    worker.channel.send("UNKNOWN", {"kind": "x", "why": "not answered, or two processes would never stop"})
    with worker.connect("db") as client:
        client.sendall(b"x")
        assert client.recv(1) == b"x"


def test_what_nobody_can_accept_on_is_closed_and_changes_nothing(worker):
    """It stayed among the sockets of its listener, which from then on failed whenever it was told to accept."""
    worker.begin()
    reading, writing = os.pipe()
    connected, other = socket.socketpair()
    worker.channel.send("ADOPT", {"sockets": [["db", 0, 3, True, False]]}, [reading])
    assert "can't be used" in worker.expect("UNKNOWN").fields["why"]
    worker.channel.send("ADOPT", {"sockets": [["db", 0, 3, False, False]]}, [connected.fileno()])
    connected.close()
    assert other.recv(1) == b""
    worker.channel.send("ACCEPT_ON")
    worker.expect("ACCEPTING")
    with worker.connect("db") as client:
        client.sendall(b"x")
        assert client.recv(1) == b"x"
    for fd in (reading, writing):
        os.close(fd)
    other.close()


def test_signals_do_not_move_it(worker):
    worker.begin()
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        os.kill(worker.pid, number)
    with worker.connect("db") as client:
        client.sendall(b"x")
        assert client.recv(1) == b"x"


def test_an_orphan_serves_on(worker):
    worker.begin()
    worker.channel.close()
    with worker.connect("web") as client:
        assert ask(client, "/orphan").endswith(b"GET /orphan HTTP/1.1")


def test_an_orphan_that_was_never_told_to_accept_ends(worker):
    """Its zygote died between fork and the message about it: nobody would ever ask it for anything."""
    worker.channel.close()
    assert worker.wait() == 0
