"""Socket options as the kernel has them: on fresh sockets, on those of another generation, on listening ones."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from hotproxy.config.model import SocketOptions as Config
from hotproxy.config.model import TcpKeepalive
from hotproxy.net.socket_options import DEFAULT, SocketOptions
from tests.kit.tcp_bench import reset

NAMES = ("TCP_NODELAY", "TCP_USER_TIMEOUT", "TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT")
EVERYTHING = SocketOptions(Config(False, TcpKeepalive(60.0, 10.0, 3), 90.5, 5.0))


def of(sock: socket.socket) -> list[int]:
    found = [sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)]
    return found + [sock.getsockopt(socket.IPPROTO_TCP, getattr(socket, name)) for name in NAMES]


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Of TCP."""
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        accepted, _ = server.accept()
        with accepted:
            yield client, accepted


def test_a_fresh_socket_has_what_the_config_says(pair: tuple[socket.socket, socket.socket]) -> None:
    client, accepted = pair
    kernels = of(client)
    DEFAULT.apply(client)
    assert of(client) == [0, 1, *kernels[2:]]
    EVERYTHING.apply(accepted)
    assert of(accepted) == [1, 0, 90_500, 60, 10, 3]


def test_one_of_another_generation_has_nothing_else(pair: tuple[socket.socket, socket.socket]) -> None:
    sock, other = pair
    kernels = of(sock)
    EVERYTHING.apply_again(sock)
    assert of(sock) == [1, 0, 90_500, 60, 10, 3]
    SocketOptions(Config(tcp_keepalive=TcpKeepalive(keepalive_interval_s=7.0))).apply_again(sock)
    assert of(sock) == [1, 1, 0, kernels[3], 7, kernels[5]]
    DEFAULT.apply_again(sock)
    assert of(sock)[:3] == [0, 1, 0]
    assert of(other) == kernels


def test_a_listening_socket_defers_and_does_not_any_more() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        EVERYTHING.apply_listening(server)
        # The kernel counts in retransmissions of its answer: 1, 3, 7 … seconds.
        assert 5 <= server.getsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT) <= 7
        server.setblocking(False)
        with socket.create_connection(server.getsockname()) as client:
            with pytest.raises(BlockingIOError):
                server.accept()
            client.sendall(b"x")
            server.settimeout(5)
            server.accept()[0].close()
        DEFAULT.apply_listening(server)
        assert server.getsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT) == 0


def test_unix_sockets_and_broken_ones_are_left_alone(pair: tuple[socket.socket, socket.socket]) -> None:
    one, other = socket.socketpair()
    with one, other:
        EVERYTHING.apply_again(one)
    client, accepted = pair
    reset(client)
    EVERYTHING.apply(accepted)
    EVERYTHING.apply_again(accepted)
