"""The end: TERM drains and exits 0, a second one is at once, and nothing stays behind but the counters."""

from __future__ import annotations

import signal
import socket
from pathlib import Path

import pytest

from tests.kit import clients
from tests.kit.instance import eventually, instance, is_running
from tests.restart.test_restart_under_load import config

REQUEST = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT], ids=lambda number: number.name)
def test_a_stop_finishes_what_is_open_and_leaves_only_the_counters(
    short_path: Path, nginx_address: str, number: signal.Signals
) -> None:
    with instance(short_path, config(nginx_address)) as proxy:
        port, pids = proxy.port("web"), proxy.pids()
        with clients.connect(port) as open_one:
            open_one.sendall(REQUEST[:10])
            eventually(lambda: proxy.stats()["http.web.downstream_cx_active"] == 1, "the connection")
            proxy.signal(number)
            eventually(lambda: proxy.command("status").returncode != 0 or proxy.status()["state"] != "LIVE", "draining")
            open_one.sendall(REQUEST[10:])
            head, _ = clients.read_response(open_one)
            assert head.startswith(b"HTTP/1.1 200") and b"connection: close" in head.lower()
        assert proxy.wait() == 0
        for pid in pids:
            assert not is_running(pid)
        with pytest.raises(ConnectionRefusedError):
            clients.connect(port)
        stats = proxy.stats()
        assert stats["http.web.downstream_rq_total"] == 1
        assert stats["server.live"] == 0
        assert not (proxy.directory / "run" / "test" / "supervisor.sock").exists()
        assert len(proxy.shared_memory()) == 1


def test_a_second_signal_does_not_wait_for_open_connections(short_path: Path, nginx_address: str) -> None:
    with instance(short_path, config(nginx_address)) as proxy, clients.connect(proxy.port("web")) as open_one:
        open_one.sendall(REQUEST[:10])
        eventually(lambda: proxy.stats()["http.web.downstream_cx_active"] == 1, "the connection")
        proxy.signal(signal.SIGTERM)
        eventually(lambda: proxy.command("status").returncode != 0 or proxy.status()["state"] != "LIVE", "draining")
        proxy.signal(signal.SIGTERM)
        assert proxy.wait() == 0


def test_stop_returns_when_everything_is_gone_and_a_new_start_counts_anew(short_path: Path, nginx_address: str) -> None:
    with instance(short_path, config(nginx_address)) as proxy:
        pids = proxy.pids()
        clients.exchange(proxy.port("web"), REQUEST.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        answer = proxy.command("stop")
        assert (answer.returncode, answer.stdout) == (0, "stopped\n"), answer.stderr
        assert not any(is_running(pid) for pid in pids[1:])
        assert proxy.wait() == 0
        assert proxy.command("reload").returncode == 3
        proxy.start()
        assert proxy.stats()["http.web.downstream_rq_total"] == 0


def test_a_second_run_of_a_running_instance_is_refused(short_path: Path, nginx_address: str) -> None:
    with instance(short_path, config(nginx_address)) as proxy:
        answer = proxy.command("run", "-c", str(proxy.config))
        assert answer.returncode == 1
        assert str(proxy.process.pid if proxy.process else 0) in answer.stderr


def test_workers_come_and_go_by_signal(short_path: Path, nginx_address: str) -> None:
    with instance(short_path, config(nginx_address)) as proxy:
        with clients.load(proxy.port("web"), new_rate=200, keepalive=50, pace_s=0.1) as load:
            proxy.signal(signal.SIGTTIN)
            eventually(lambda: sum(map(bool, proxy.workers())) == 3, "a third worker")
            for left in (2, 1):
                proxy.signal(signal.SIGTTOU)
                eventually(lambda left=left: sum(map(bool, proxy.workers())) == left, f"{left} workers")
            counts = load.stop()
        assert counts["failures"] == {}, f"{counts}\n{proxy.log_text()}"


def test_listeners_come_and_go_at_a_reload(short_path: Path, nginx_address: str) -> None:
    two = config(nginx_address).replace(
        "clusters:", "  - name: more\n    address: 127.0.0.1:0\n    cluster: origin\nclusters:"
    )
    with instance(short_path, config(nginx_address)) as proxy:
        with clients.load(proxy.port("web"), new_rate=200, keepalive=50) as load:
            proxy.write(two)
            proxy.reload()
            more = proxy.port("more")
            assert clients.exchange(more, REQUEST.replace(b"a\r\n", b"a\r\nConnection: close\r\n")).startswith(
                b"HTTP/1.1 200"
            )
            proxy.write(config(nginx_address))
            proxy.reload()

            def refused() -> bool:
                try:
                    clients.connect(more).close()
                except ConnectionRefusedError:
                    return True
                return False

            eventually(refused, "the removed listener to refuse")
            counts = load.stop()
        assert counts["failures"] == {}, f"{counts}\n{proxy.log_text()}"


def test_drain_tells_the_balancer_and_goes_on_serving(short_path: Path, nginx_address: str) -> None:
    """Readiness said LIVE all the time, so the balancer in front went on sending clients."""
    with instance(short_path, config(nginx_address)) as proxy:
        admin = next(short_path.rglob("admin.sock"))
        web = ("127.0.0.1", proxy.port("web"))

        def ready() -> bytes:
            return _ask(socket.AF_UNIX, str(admin), b"/ready")[0].split(b" ")[1]

        assert ready() == b"200"
        assert proxy.command("drain").returncode == 0
        eventually(lambda: ready() == b"503", "not ready any more")
        head = _ask(socket.AF_INET, web, b"/")
        assert head[0].startswith(b"HTTP/1.1 200 ") and b"connection: close" in [line.lower() for line in head]
        assert proxy.reload().returncode == 0
        eventually(lambda: ready() == b"503", "the next generation is no readier")
        assert proxy.command("drain", "--undo").returncode == 0
        eventually(lambda: ready() == b"200", "ready again")


def _ask(family: socket.AddressFamily, address: object, path: bytes) -> list[bytes]:
    """The lines of the answer's head."""
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.connect(address)
        sock.sendall(b"GET %s HTTP/1.1\r\nHost: a\r\n\r\n" % path)
        received = b""
        while b"\r\n\r\n" not in received and (data := sock.recv(65536)):
            received += data
        return received.partition(b"\r\n\r\n")[0].split(b"\r\n")
