"""Binding and keeping listening sockets, with real ones."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from hotproxy.restarter import sockets
from hotproxy.restarter.bind import BindRefused, OursAsker
from hotproxy.restarter.frames import PROTOCOL_VERSION
from hotproxy.restarter.hello import Deadlines, Hello, WantedAddress, WantedListener
from hotproxy.restarter.sockets import SocketTable


def tcp(host: str, port: int = 0, text: str = "") -> WantedAddress:
    return WantedAddress(text or f"{host}:{port}", "tcp", host=host, port=port)


def unix(path: Path, mode: int = -1) -> WantedAddress:
    return WantedAddress(f"unix:{path}", "unix", path=str(path), mode=mode)


def hello(slots: int, **listeners: WantedAddress) -> Hello:
    wanted = tuple(WantedListener(name, (address,)) for name, address in listeners.items())
    return Hello(1, slots, wanted, Deadlines(), [], "", PROTOCOL_VERSION, 1, "", {})


@pytest.fixture
def table() -> Iterator[SocketTable]:
    made = SocketTable(lambda pid: False)
    yield made
    made.close()


def ports(sockets: list[socket.socket]) -> set[int]:
    return {sock.getsockname()[1] for sock in sockets}


def test_slots_share_the_port_that_the_first_one_got(table: SocketTable) -> None:
    lease = table.acquire(hello(3, a=tcp("127.0.0.1")))
    assert len(lease.sockets) == 3
    assert len(ports([owned.sock for owned in lease.sockets])) == 1
    assert not any(owned.listening for owned in lease.sockets)


def test_they_are_found_again_by_the_text_of_the_address_whatever_the_listener_is_called(table: SocketTable) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    first = table.acquire(hello(2, old=tcp("127.0.0.1", port)))
    table.commit(first)
    second = table.acquire(hello(1, new=tcp("127.0.0.1", port)))
    assert second.sockets == first.sockets and second.created == []
    assert second.wire(first.sockets[1])[:3] == ["new", 0, 1]
    assert table.commit(second) == []


def test_a_smaller_number_of_slots_closes_nothing(table: SocketTable) -> None:
    table.commit(table.acquire(hello(4, a=tcp("127.0.0.1"))))
    lease = table.acquire(hello(1, a=tcp("127.0.0.1")))
    assert len(lease.sockets) == 4


def test_every_port_0_is_its_own_listener(table: SocketTable) -> None:
    lease = table.acquire(hello(1, a=tcp("127.0.0.1"), b=tcp("127.0.0.1")))
    assert len(ports([owned.sock for owned in lease.sockets])) == 2


def test_removed_listeners_are_named_at_commit(table: SocketTable) -> None:
    table.commit(table.acquire(hello(2, a=tcp("127.0.0.1"), b=tcp("127.0.0.1"))))
    removed = table.commit(table.acquire(hello(2, b=tcp("127.0.0.1"))))
    assert {owned.identity for owned in removed} == {"a/127.0.0.1:0"}


def test_a_failed_generation_leaves_nothing_but_what_is_known_and_may_listen(table: SocketTable) -> None:
    """Slot 2 listens already, slot 1 will at any moment: whoever it is told to must not take a queue with it."""
    first = table.acquire(hello(1, a=tcp("127.0.0.1")))
    table.commit(first)
    second = table.acquire(hello(3, a=tcp("127.0.0.1"), b=tcp("127.0.0.1")))
    next(owned for owned in second.created if owned.identity.startswith("a/") and owned.slot == 2).sock.listen()
    adopted = table.discard(second, first.names)
    assert [(owned.identity, owned.slot) for owned in adopted] == [("a/127.0.0.1:0", 1), ("a/127.0.0.1:0", 2)]
    assert len(table) == 3


def test_a_generation_that_failed_before_it_was_told_to_accept_leaves_nothing(table: SocketTable) -> None:
    first = table.acquire(hello(1, a=tcp("127.0.0.1")))
    table.commit(first)
    assert table.discard(table.acquire(hello(3, a=tcp("127.0.0.1"))), ()) == []
    assert len(table) == 1


def test_a_slot_more_that_is_refused_changes_nothing(table: SocketTable, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = hello(1, a=tcp("127.0.0.1"), b=tcp("127.0.0.1"))
    lease = table.acquire(wanted)
    table.commit(lease)
    before = list(lease.sockets)
    really = sockets.bind_tcp

    def bind_tcp(address: WantedAddress, port: int, is_ours: OursAsker | None) -> socket.socket:
        if port == before[1].sock.getsockname()[1]:
            raise BindRefused("Too many open files")
        return really(address, port, is_ours)

    monkeypatch.setattr(sockets, "bind_tcp", bind_tcp)
    with pytest.raises(BindRefused):
        table.grow(lease, wanted, 2)
    assert lease.sockets == before and len(table) == 2


def test_one_address_under_two_names_is_refused(table: SocketTable) -> None:
    """Each would have got every second connection."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(BindRefused, match=rf"localhost:{port} of listener 'b' is 127.0.0.1:{port} as well"):
        table.acquire(hello(2, a=tcp("127.0.0.1", port), b=tcp("127.0.0.1", port, f"localhost:{port}")))
    assert len(table) == 0


def test_a_refusal_closes_what_was_bound_for_it(table: SocketTable) -> None:
    with socket.create_server(("127.0.0.1", 0), reuse_port=True) as other:
        port = other.getsockname()[1]
        with pytest.raises(BindRefused, match=rf"listener 'b': 127.0.0.1:{port}: address in use by .*{os.getpid()}"):
            table.acquire(hello(2, a=tcp("127.0.0.1"), b=tcp("127.0.0.1", port)))
    assert len(table) == 0


def test_our_own_processes_that_still_serve_are_joined() -> None:
    table = SocketTable(lambda pid: pid == os.getpid())
    with socket.create_server(("127.0.0.1", 0), reuse_port=True) as other:
        port = other.getsockname()[1]
        assert len(table.acquire(hello(2, a=tcp("127.0.0.1", port))).sockets) == 2
    table.close()


def test_two_listeners_with_one_address(table: SocketTable) -> None:
    with pytest.raises(BindRefused, match=r"listeners 'a' and 'b' both want 127\.0\.0\.1:8080"):
        table.acquire(hello(1, a=tcp("127.0.0.1", 8080), b=tcp("127.0.0.1", 8080)))


def test_every_address_is_both_families_and_explicit_ones_are_not(table: SocketTable) -> None:
    (both,) = table.acquire(hello(1, a=tcp("", 0, ":0"))).sockets
    both.sock.listen()
    port = both.sock.getsockname()[1]
    socket.create_connection(("127.0.0.1", port)).close()
    if both.sock.family == socket.AF_INET6:
        socket.create_connection(("::1", port)).close()
        (six,) = table.acquire(hello(1, b=tcp("::", 0, "[::]:0"))).sockets
        other = six.sock.getsockname()[1]
        assert table.acquire(hello(1, c=tcp("0.0.0.0", other))).sockets  # beside it


def test_an_address_that_is_not_here(table: SocketTable) -> None:
    with pytest.raises(BindRefused, match="Cannot assign requested address"):
        table.acquire(hello(1, a=tcp("192.0.2.1", 8080)))


def test_a_link_local_address_with_its_link(table: SocketTable) -> None:
    """The kernel wants the number of the link beside the address, and said "Invalid argument" to its name in it."""
    addresses = [each.address for found in psutil.net_if_addrs().values() for each in found]
    link_local = next((address for address in addresses if address.startswith("fe80:") and "%" in address), None)
    if link_local is None:
        pytest.skip("no link-local address on this machine")
    (found,) = table.acquire(hello(1, a=tcp(link_local))).sockets
    found.sock.listen()
    zone = link_local.partition("%")[2]
    assert found.sock.getsockname()[3] == socket.if_nametoindex(zone)
    assert table.acquire(hello(1, b=tcp(f"{link_local.partition('%')[0]}%{socket.if_nametoindex(zone)}"))).sockets


def test_a_link_that_is_not_there(table: SocketTable) -> None:
    with pytest.raises(BindRefused, match=r"no interface 'nowhere'"):
        table.acquire(hello(1, a=tcp("fe80::1%nowhere")))


def test_unix_sockets_are_one_for_all_with_their_mode(table: SocketTable, tmp_path: Path) -> None:
    path = tmp_path / "s"
    (owned,) = table.acquire(hello(4, a=unix(path, 0o600))).sockets
    assert owned.shared and stat.S_IMODE(path.stat().st_mode) == 0o600
    table.close()
    assert not path.exists()


def test_a_new_mode_is_applied_when_the_generation_accepts(table: SocketTable, tmp_path: Path) -> None:
    path = tmp_path / "s"
    table.commit(table.acquire(hello(1, a=unix(path, 0o600))))
    lease = table.acquire(hello(1, a=unix(path, 0o666)))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    table.commit(lease)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666


def test_a_file_that_is_no_socket_stays(table: SocketTable, tmp_path: Path) -> None:
    (tmp_path / "s").write_text("mine")
    with pytest.raises(BindRefused, match="the file exists and is no socket"):
        table.acquire(hello(1, a=unix(tmp_path / "s")))
    assert (tmp_path / "s").read_text() == "mine"


def test_a_file_that_another_program_has_put_in_our_place_stays(table: SocketTable, tmp_path: Path) -> None:
    table.acquire(hello(1, a=unix(tmp_path / "s")))
    (tmp_path / "s").unlink()
    (tmp_path / "s").write_text("mine")
    table.close()
    assert (tmp_path / "s").read_text() == "mine"


def test_the_socket_of_our_own_orphans_is_replaced_when_we_accept(tmp_path: Path) -> None:
    path, table = tmp_path / "s", SocketTable(lambda pid: True)
    with socket.socket(socket.AF_UNIX) as orphan, socket.socket(socket.AF_UNIX) as client:
        orphan.bind(str(path))
        orphan.listen()
        lease = table.acquire(hello(1, a=unix(path)))
        client.connect(str(path))  # still served by the orphan
        orphan.accept()[0].close()
        lease.sockets[0].sock.listen()
        table.commit(lease)
        with socket.socket(socket.AF_UNIX) as late:
            late.connect(str(path))
            lease.sockets[0].sock.accept()[0].close()
    table.close()
    assert list(tmp_path.iterdir()) == []


def test_more_slots_while_running(table: SocketTable) -> None:
    wanted = hello(1, a=tcp("127.0.0.1"))
    lease = table.acquire(wanted)
    new = table.grow(lease, wanted, 3)
    assert [owned.slot for owned in new] == [1, 2]
    assert len(lease.sockets) == 3
