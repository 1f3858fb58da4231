"""Bytes to and from real sockets, both ways of doing it."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hotproxy.net import plain_transfer
from hotproxy.net.transfer import READ_BYTES
from tests.kit.kernels import compiled

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture(params=["plain", "compiled"])
def transfer(request: pytest.FixtureRequest) -> Any:
    return plain_transfer if request.param == "plain" else compiled("hotproxy.net._transfer")


@pytest.fixture(params=[socket.AF_INET, socket.AF_UNIX], ids=["tcp", "unix"])
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    if request.param == socket.AF_UNIX:
        ours, theirs = socket.socketpair()
    else:
        with socket.create_server(("127.0.0.1", 0)) as server:
            theirs = socket.create_connection(server.getsockname())
            ours, _ = server.accept()
    ours.setblocking(False)
    with ours, theirs:
        yield ours, theirs


def wait(sock: socket.socket) -> None:
    """Until something has arrived, or is broken."""
    sock.settimeout(10)
    try:
        sock.recv(1, socket.MSG_PEEK)
    except OSError:
        pass
    sock.setblocking(False)


def test_nothing_bytes_and_the_end(transfer: Any, pair: Pair):
    ours, theirs = pair
    assert transfer.receive(ours.fileno()) is None
    assert transfer.is_quiet(ours.fileno())
    theirs.sendall(b"a\0b")
    wait(ours)
    assert not transfer.is_quiet(ours.fileno())
    assert transfer.receive(ours.fileno()) == b"a\0b"
    assert transfer.is_quiet(ours.fileno())
    theirs.shutdown(socket.SHUT_WR)
    wait(ours)
    assert not transfer.is_quiet(ours.fileno())
    assert transfer.receive(ours.fileno()) == b""


def test_a_large_piece_comes_in_reads_of_a_bounded_size(transfer: Any, pair: Pair):
    ours, theirs = pair
    sent = os.urandom(READ_BYTES + 1000)
    theirs.settimeout(10)
    got = b""
    at = 0
    while len(got) < len(sent):
        if at < len(sent):
            at += theirs.send(sent[at:])
        wait(ours)
        piece = transfer.receive(ours.fileno())
        assert len(piece) <= READ_BYTES
        got += piece
    assert got == sent


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_sending_until_nothing_more_is_taken(transfer: Any, pair: Pair, kind: type):
    ours, theirs = pair
    data = kind(b"x" * 100_000)
    taken = 0
    while sent := transfer.transmit(ours.fileno(), data):
        taken += sent
    assert transfer.transmit(ours.fileno(), data) == 0
    ours.shutdown(socket.SHUT_WR)
    theirs.settimeout(10)
    got = 0
    while piece := theirs.recv(1 << 20):
        got += len(piece)
    assert got == taken > 0


def test_a_peer_that_is_gone_is_an_error_and_no_signal(transfer: Any, pair: Pair):
    ours, theirs = pair
    theirs.close()
    with pytest.raises(OSError) as raised:
        for _ in range(1000):
            transfer.transmit(ours.fileno(), b"x")
            wait(ours)
    assert raised.value.errno in (errno.EPIPE, errno.ECONNRESET)
    assert raised.value.strerror
    assert not transfer.is_quiet(ours.fileno())


def test_a_reset_is_an_error_of_its_class(transfer: Any):
    with socket.create_server(("127.0.0.1", 0)) as server:
        theirs = socket.create_connection(server.getsockname())
        ours, _ = server.accept()
    with ours:
        ours.setblocking(False)
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        theirs.close()
        with pytest.raises(ConnectionResetError):
            while transfer.receive(ours.fileno()) is None:
                pass


def test_a_descriptor_that_is_none_is_an_error(transfer: Any):
    for call in (lambda: transfer.receive(-1), lambda: transfer.transmit(-1, b"x")):
        with pytest.raises(OSError) as raised:
            call()
        assert raised.value.errno == errno.EBADF


@pytest.mark.parametrize("wrong", [None, "text", 1])
def test_what_has_no_bytes_is_a_type_error(transfer: Any, pair: Pair, wrong: object):
    with pytest.raises(TypeError):
        transfer.transmit(pair[0].fileno(), wrong)


LISTENING = {
    "IPv4": lambda folder: socket.create_server(("127.0.0.1", 0)),
    "IPv6": lambda folder: socket.create_server(("::1", 0), family=socket.AF_INET6),
    "dual-stack": lambda folder: socket.create_server(
        ("::", 0), family=socket.AF_INET6, dualstack_ipv6=True, backlog=5
    ),
    "unix": lambda folder: socket.create_server(f"{folder}/l", family=socket.AF_UNIX),
}


@pytest.fixture(params=LISTENING)
def listening(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[socket.socket]:
    with LISTENING[request.param](tmp_path) as server:
        server.setblocking(False)
        yield server


def client_of(listening: socket.socket, name: str = "") -> socket.socket:
    """Connected; to a dual-stack socket by IPv4. `name`: its own, where it is a unix socket."""
    address = listening.getsockname()
    if listening.family == socket.AF_UNIX:
        client = socket.socket(socket.AF_UNIX)
        if name:
            client.bind(name)
        client.connect(address)
        return client
    return socket.create_connection(("127.0.0.1" if address[0] == "::" else address[0], address[1]))


@pytest.mark.parametrize("named", [False, True])
def test_a_client_is_accepted(transfer: Any, listening: socket.socket, named: bool, tmp_path: Path):
    assert transfer.accept(listening) is None
    with client_of(listening, f"{tmp_path}/c" if named else "") as client:
        sock, address = transfer.accept(listening)
        with sock:
            assert address == sock.getpeername()
            assert (sock.family, sock.type, sock.proto) == (listening.family, socket.SOCK_STREAM, 0)
            assert not sock.getblocking()
            assert not os.get_blocking(sock.fileno())
            assert not os.get_inheritable(sock.fileno())
            client.sendall(b"hello")
            wait(sock)
            assert sock.recv(9) == b"hello"
        assert client.recv(1) == b""
    assert transfer.accept(listening) is None


def test_a_client_that_has_gone_is_accepted(transfer: Any, listening: socket.socket):
    client_of(listening).close()
    sock, _ = transfer.accept(listening)
    with sock:
        assert sock.recv(1) == b""


def test_a_socket_that_was_shut_accepts_no_more(transfer: Any):
    with LISTENING["IPv4"](None) as server:
        server.setblocking(False)
        server.shutdown(socket.SHUT_RDWR)
        with pytest.raises(OSError) as raised:
            transfer.accept(server)
        assert raised.value.errno == errno.EINVAL
