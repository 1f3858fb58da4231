"""What an operator does around a running proxy: log rotation, the admin API, `drain`, `stats` with everything dead."""

from __future__ import annotations

import json
import os
import signal
import socket
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from tests.kit import clients
from tests.kit.instance import eventually, instance, is_running

CONFIG = """
workers: 2
admin: {{address: "127.0.0.1:{admin}"}}
listeners:
  - name: web
    address: 127.0.0.1:0
    access_log: {{path: {directory}/access.log, format: json}}
    routes: [{{match: {{prefix: /}}, direct_response: {{status: 200, body: "hi"}}}}]
"""
KEPT = b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n"
LAST = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"


def config(directory: Path) -> str:
    return CONFIG.format(directory=directory, admin=0)


def test_a_rotated_log_goes_on_in_a_new_file_with_no_line_lost(short_path: Path) -> None:
    log, rotated = short_path / "access.log", short_path / "access.log.1"
    with instance(short_path, config(short_path)) as proxy, clients.connect(proxy.port("web")) as sock:
        for number in range(60):
            sock.sendall(KEPT % number)
            clients.read_response(sock)
            if number == 20:
                log.rename(rotated)
            if number == 40:
                proxy.signal(signal.SIGUSR1)
                eventually(log.exists, "the new file")
        eventually(lambda: "/59" in log.read_text(), "the last line")
        lines = [json.loads(line) for path in (rotated, log) for line in path.read_text().splitlines()]
    assert [line["path"] for line in lines] == [f"/{number}" for number in range(60)]
    assert len(rotated.read_text().splitlines()) >= 40


def test_the_admin_api_on_its_socket_and_its_address(short_path: Path) -> None:
    def ask(path: str) -> tuple[int, str]:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(short_path / "run" / "test" / "admin.sock"))
            sock.sendall(f"GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
            answer = clients.read_to_end(sock).decode()
        return int(answer.split(" ")[1]), answer.partition("\r\n\r\n")[2]

    with instance(short_path, config(short_path)) as proxy:
        for _ in range(3):
            assert clients.exchange(proxy.port("web"), LAST).endswith(b"hi")
        assert ask("/ready") == (200, "LIVE\n")
        assert "http.web.downstream_rq_total: 3\n" in ask("/stats?filter=rq_total")[1]
        assert json.loads(ask("/stats?format=json")[1])["http.web.downstream_rq_total"] == 3
        assert json.loads(ask("/server_info")[1])["state"] == "LIVE"
        assert ask("/nothing")[0] == 404
        scraped = clients.exchange(proxy.port("admin"), LAST.replace(b"/ ", b"/stats/prometheus ")).decode()
        assert scraped.startswith("HTTP/1.1 200 ")
        # Before and after a restart the same path answers for all generations at once.
        proxy.reload()
        assert json.loads(ask("/stats?format=json")[1])["http.web.downstream_rq_total"] == 3
        assert json.loads(ask("/server_info")[1])["hot_restart_epoch"] == 2
        families = list(text_string_to_metric_families(proxy.command("stats", "--prometheus").stdout))
        assert any(family.name.startswith("envoy_http_downstream_rq") for family in families)


def test_drain_says_close_on_every_answer_and_undo_takes_it_back(short_path: Path) -> None:
    kept = KEPT % 1
    with instance(short_path, config(short_path)) as proxy:

        def closes() -> bool:
            with clients.connect(proxy.port("web")) as sock:
                sock.sendall(kept)
                return b"connection: close" in clients.read_response(sock)[0].lower()

        assert not closes()
        assert proxy.command("drain").returncode == 0
        eventually(closes, "draining")
        proxy.reload()
        assert closes(), "a new generation drains too"
        assert proxy.command("drain", "--undo").returncode == 0
        eventually(lambda: not closes(), "the end of draining")


def test_stats_answer_with_every_process_dead(short_path: Path) -> None:
    with instance(short_path, config(short_path)) as proxy:
        for _ in range(5):
            clients.exchange(proxy.port("web"), LAST)
        pids = proxy.pids()
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        proxy.kill_all()
        assert not any(is_running(pid) for pid in pids)
        stats = proxy.stats()
        assert stats["http.web.downstream_rq_total"] == 5
        assert stats["http.web.downstream_rq_time"]["count"] == 5
        assert stats["http.web.downstream_cx_active"] == 0
        assert stats["server.live"] == 0
