"""Listeners of every kind are carried, changed, opened and closed by a reload, and no client of the others sees it."""

from __future__ import annotations

import contextlib
import socket
import stat
from pathlib import Path
from typing import Any

import pytest

from tests.kit import clients
from tests.kit.instance import Instance, eventually, instance
from tests.kit.origin import RecordingOrigin
from tests.restart.test_restart_under_load import one_generation

REQUEST = b"GET /load HTTP/1.1\r\nHost: a\r\nX-Number: 7\r\nConnection: close\r\n\r\n"


def config(origin: str, *listeners: str) -> str:
    told = "".join(f"  - {{name: l{number}, {listener}}}\n" for number, listener in enumerate(listeners))
    return f'workers: 2\nlisteners:\n{told}clusters:\n  - name: origin\n    endpoints: ["{origin}"]\n'


@pytest.fixture
def port() -> int:
    """Free on every address, for listeners whose address changes while the port does not."""
    with socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as free:
        found: int = free.getsockname()[1]
    return found


def assert_no_failures(loads: list[clients.LoadRun], proxy: Instance) -> int:
    """How many requests were answered."""
    counts = [load.stop() for load in loads]
    assert [each["failures"] for each in counts] == [{}] * len(loads), f"{counts}\n{proxy.log_text()}"
    return sum(each["ok"] for each in counts)


def answers(address: Any, family: socket.AddressFamily = socket.AF_INET) -> bool:
    """Whether somebody serves there; False when nobody listens."""
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        try:
            sock.connect(address)
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        sock.sendall(REQUEST)
        return clients.read_to_end(sock).startswith(b"HTTP/1.1 200 ")


def test_dual_stack_and_unix_sockets_are_carried(short_path: Path, nginx_address: str, port: int) -> None:
    path = f"{short_path}/web.sock"
    text = config(nginx_address, f'address: ":{port}", cluster: origin', f'address: "unix:{path}", cluster: origin')
    with instance(short_path, text) as proxy, contextlib.ExitStack() as stack:
        where: list[tuple[str, int | str]] = [("127.0.0.1", port), ("::1", port), ("unix", path)]
        loads = [stack.enter_context(clients.load(at, 150, 20, host=host)) for host, at in where]
        for _ in range(5):
            proxy.reload()
        eventually(lambda: one_generation(proxy), "the old generations to be gone")
        answered = assert_no_failures(loads, proxy)
        assert proxy.stats()["http.l0.downstream_rq_2xx"] + proxy.stats()["http.l1.downstream_rq_2xx"] == answered


def test_an_address_changes_and_its_clients_do_not_notice(short_path: Path, nginx_address: str, port: int) -> None:
    """From every address to one, while the port is served all the time; then to another one."""
    with instance(short_path, config(nginx_address, f'address: ":{port}", cluster: origin')) as proxy:
        with clients.load(port, new_rate=300, keepalive=20) as load:
            for address in (f"127.0.0.1:{port}", f":{port}", f"127.0.0.1:{port}"):
                proxy.write(config(nginx_address, f'address: "{address}", cluster: origin'))
                proxy.reload()
            assert_no_failures([load], proxy)
        assert not answers(("::1", port), socket.AF_INET6)
        proxy.write(config(nginx_address, f'address: "[::1]:{port}", cluster: origin'))
        proxy.reload()
        assert answers(("::1", port), socket.AF_INET6) and not answers(("127.0.0.1", port))


def test_a_listener_that_speaks_something_else_from_now_on(short_path: Path, nginx_address: str, port: int) -> None:
    """The same socket, TCP instead of HTTP and back: whoever comes is served, by the one or the other."""
    as_http = config(nginx_address, f'address: "127.0.0.1:{port}", cluster: origin')
    as_tcp = config(nginx_address, f'address: "127.0.0.1:{port}", tcp: {{cluster: origin}}')
    with instance(short_path, as_http) as proxy:
        with clients.load(port, new_rate=300) as load:
            for text in (as_tcp, as_http, as_tcp):
                proxy.write(text)
                proxy.reload()
            requests = assert_no_failures([load], proxy)
        eventually(lambda: one_generation(proxy), "the old generations to be gone")
        stats = proxy.stats()
        assert stats["http.l0.downstream_rq_2xx"] < requests
        assert stats["listener.l0.downstream_cx_total"] == stats["listener.l0.downstream_cx_destroy"] == requests


def test_unix_sockets_come_change_and_go(short_path: Path, nginx_address: str) -> None:
    first, second = f"{short_path}/1.sock", f"{short_path}/2.sock"

    def listener(path: str, mode: str) -> str:
        return f'address: {{path: "{path}", mode: "{mode}"}}, cluster: origin'

    with instance(short_path, config(nginx_address, listener(first, "0600"))) as proxy:
        with clients.load(first, new_rate=200, keepalive=20, host="unix") as load:
            proxy.write(config(nginx_address, listener(first, "0666"), listener(second, "0600")))
            proxy.reload()
            assert stat.S_IMODE(Path(first).stat().st_mode) == 0o666
            assert answers(second, socket.AF_UNIX)
            assert_no_failures([load], proxy)
        proxy.write(config(nginx_address, listener(second, "0600")))
        proxy.reload()
        eventually(lambda: not Path(first).exists(), "the file of a removed listener to be gone")
        assert answers(second, socket.AF_UNIX)


def timers(local: int | None, remote: int) -> set[str]:
    """Of established connections to this port of 127.0.0.1, from that one or any: 00 none, 01 what was sent is not yet
    acknowledged, 02 a probe is next (proc(5))."""
    lines = (line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:])
    return {
        fields[5][:2]
        for fields in lines
        if fields[2] == f"0100007F:{remote:04X}"
        and fields[3] == "01"
        and (local is None or fields[1] == f"0100007F:{local:04X}")
    }


def test_open_connections_follow_the_socket_options_of_the_config(short_path: Path) -> None:
    """Probes for those that are there already, from clients and to endpoints; and none any more at the next reload."""

    def told(from_clients: str, to_endpoints: str) -> str:
        return f"""
workers: 1
listeners:
  - {{name: web, address: "127.0.0.1:0", cluster: origin{from_clients}}}
  - {{name: db, address: "127.0.0.1:0", tcp: {{cluster: origin}}{from_clients}}}
clusters: [{{name: origin, endpoints: ["{origin.address}"]{to_endpoints}}}]
"""

    def answer(number: int, so_far: bytes) -> bytes | None:
        return b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi" if so_far.endswith(b"\r\n\r\n") else None

    with (
        RecordingOrigin(answer) as origin,
        instance(short_path, told("", "")) as proxy,
        contextlib.ExitStack() as stack,
    ):
        sockets = {name: stack.enter_context(clients.connect(proxy.port(name))) for name in ("web", "db")}
        probes = told(", tcp_keepalive: {keepalive_time: 60s}", ", tcp_keepalive: {}")
        for text, timer in ((told("", ""), "00"), (probes, "02"), (told("", ""), "00")):
            proxy.write(text)
            proxy.reload()
            for name, sock in sockets.items():
                sock.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
                assert clients.read_response(sock)[1] == b"hi"
                at, client = proxy.port(name), sock.getsockname()[1]
                eventually(lambda at=at, client=client, timer=timer: timers(at, client) == {timer}, f"{timer}: {text}")
            port = int(origin.address.rpartition(":")[2])
            eventually(lambda port=port, timer=timer: timers(None, port) == {timer}, f"{timer} to the origin: {text}")
        assert len(origin.received) == 2, "they are the same connections"
        assert proxy.stats()["server.handoff_refused"] == 0
