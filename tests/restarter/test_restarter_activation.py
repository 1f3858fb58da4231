"""Sockets that systemd listens on: found by their address, shared by all slots, never shut down, never left idle."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hotproxy.errors import HotproxyError
from hotproxy.restarter.bind import BindRefused
from hotproxy.restarter.hello import WantedAddress
from hotproxy.restarter.sockets import SocketTable, bound_text
from tests.restarter.test_restarter_sockets import hello, tcp, unix


@pytest.fixture
def table() -> Iterator[SocketTable]:
    made = SocketTable(lambda pid: False)
    yield made
    made.close()


@pytest.fixture
def systemds() -> Iterator[socket.socket]:
    """systemd's own copy."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield sock


def pass_on(table: SocketTable, sock: socket.socket, name: str = "web") -> int:
    """To the table, as systemd does; the port."""
    table.activate(name, os.dup(sock.fileno()))
    return int(sock.getsockname()[1]) if sock.family != socket.AF_UNIX else 0


def can_connect(sock: socket.socket) -> bool:
    with socket.socket(sock.family) as client:
        return client.connect_ex(sock.getsockname()) == 0


def test_it_is_found_by_its_address_however_that_is_spelled(table: SocketTable, systemds: socket.socket) -> None:
    port = pass_on(table, systemds)
    lease = table.acquire(hello(3, a=tcp("127.0.0.1", port, text=f"localhost:{port}")))
    (owned,) = lease.sockets
    assert owned.shared and owned.listening and lease.created == []
    assert lease.wire(owned) == ["a", 0, 0, True, True]
    assert bound_text(owned) == f"127.0.0.1:{port}"
    assert table.bound(lease, "a") == [f"127.0.0.1:{port}"]


@pytest.mark.parametrize(
    ("bound", "v6only", "wanted", "found"),
    [
        ("::", False, "", True),  # ListenStream=80 is what ":80" is
        ("::", True, "::", True),
        ("::", False, "::", False),
        ("::", True, "", False),
        ("::1", False, "::1", True),
        ("::1", False, "0:0:0:0:0:0:0:1", True),
        ("::1", False, "127.0.0.1", False),
    ],
)
def test_both_families_are_not_one(table: SocketTable, bound: str, v6only: bool, wanted: str, found: bool) -> None:
    with socket.socket(socket.AF_INET6) as systemds:
        systemds.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, v6only)
        systemds.bind((bound, 0))
        systemds.listen()
        port = pass_on(table, systemds)
        if found:
            assert len(table.acquire(hello(2, a=tcp(wanted, port))).sockets) == 1
        else:
            with pytest.raises(BindRefused):
                table.acquire(hello(2, a=tcp(wanted, port)))


def test_a_unix_socket_is_found_by_its_path_and_its_file_is_systemds(table: SocketTable, short_path: Path) -> None:
    path = short_path / "s"
    with socket.socket(socket.AF_UNIX) as systemds:
        systemds.bind(str(path))
        systemds.listen()
        path.chmod(0o604)
        pass_on(table, systemds)
        table.commit(table.acquire(hello(2, a=unix(path, mode=0o600))))
        table.close()
        assert path.stat().st_mode & 0o777 == 0o604
        assert can_connect(systemds)


def test_what_systemd_holds_is_never_shut_down(table: SocketTable, systemds: socket.socket) -> None:
    port = pass_on(table, systemds)
    lease = table.acquire(hello(2, a=tcp("127.0.0.1", port), b=tcp("127.0.0.1")))
    table.commit(lease)
    for owned in lease.sockets:
        table.shut(owned)
    assert len(table) == 0
    assert can_connect(systemds)


def test_it_is_kept_by_reloads_and_more_slots(table: SocketTable, systemds: socket.socket) -> None:
    port = pass_on(table, systemds)
    first = table.acquire(hello(1, a=tcp("127.0.0.1", port)))
    table.commit(first)
    wanted = hello(2, other=tcp("127.0.0.1", port))
    second = table.acquire(wanted)
    assert second.sockets == first.sockets
    assert table.commit(second) == []
    assert table.grow(second, wanted, 4) == []
    assert second.sockets == first.sockets


def test_a_config_without_its_address_is_refused_and_changes_nothing(
    table: SocketTable, systemds: socket.socket
) -> None:
    port = pass_on(table, systemds)
    table.commit(table.acquire(hello(1, a=tcp("127.0.0.1", port))))
    with pytest.raises(BindRefused, match=f"systemd listens on web 127.0.0.1:{port}, and no listener has this address"):
        table.acquire(hello(1, b=tcp("127.0.0.1")))
    assert len(table) == 1


def test_several_at_one_address_are_all_accepted_on(table: SocketTable) -> None:
    with socket.socket() as one, socket.socket() as other:
        for sock in (one, other):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            sock.bind(("127.0.0.1", one.getsockname()[1]))
            sock.listen()
        port = pass_on(table, one)
        pass_on(table, other)
        lease = table.acquire(hello(4, a=tcp("127.0.0.1", port)))
        assert [lease.wire(owned) for owned in lease.sockets] == [["a", 0, 0, True, True], ["a", 0, 1, True, True]]


def not_a_socket() -> int:
    return os.open("/dev/null", os.O_RDONLY)


def datagram() -> int:
    return socket.socket(socket.AF_INET, socket.SOCK_DGRAM).detach()


def not_listening() -> int:
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    return sock.detach()


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (not_a_socket, "'web' .* is no socket"),
        (datagram, "'web' .* is no stream socket"),
        (not_listening, r"'web' \(127.0.0.1:\d+\), which does not listen"),
    ],
)
def test_what_nobody_can_accept_on_is_refused(table: SocketTable, make: Callable[[], int], why: str) -> None:
    fd = make()
    with pytest.raises(HotproxyError, match=why):
        table.activate("web", fd)
    with contextlib.suppress(OSError):  # a socket was closed with its object
        os.close(fd)


def test_nobody_hangs_in_accept_when_systemd_makes_it_blocking(table: SocketTable, systemds: socket.socket) -> None:
    """systemd did so at each start of the service, and the workers of a killed supervisor accepted for ever."""
    pass_on(table, systemds)
    workers = socket.socket(fileno=os.dup(systemds.fileno()))
    with workers:
        assert not os.get_blocking(workers.fileno())
        os.set_blocking(systemds.fileno(), True)
        assert os.get_blocking(workers.fileno()), "one flag for all copies"
        with pytest.raises(BlockingIOError):
            workers.accept()


def test_port_0_is_never_systemds(table: SocketTable, systemds: socket.socket) -> None:
    pass_on(table, systemds)
    with pytest.raises(BindRefused, match="no listener has this address"):
        table.acquire(hello(1, a=WantedAddress("127.0.0.1:0", "tcp", host="127.0.0.1")))
