"""C6: HTTP/2 connections move in a hot restart, with all their open streams."""

from __future__ import annotations

import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from hotproxy.http import http2_frames as h2
from tests.kit import origin
from tests.kit.http2 import frames, headers, preface
from tests.kit.http2_crowd import crowd
from tests.kit.instance import PATIENCE_S, eventually, instance
from tests.kit.tls import Files
from tests.restart.test_restart_handoff import assert_gauges_zero, config
from tests.restart.test_restart_under_load import one_generation

WORKERS = [2, 3, 1, 2]


@pytest.fixture
def ports() -> Iterator[dict[str, int]]:
    with origin.echo_origin() as made:
        yield made


@pytest.mark.timeout(600)
@pytest.mark.parametrize("restarts", [4, pytest.param(40, marks=pytest.mark.slow)])
def test_connections_with_open_streams_live_through_restarts(
    short_path: Path, ports: dict[str, int], restarts: int
) -> None:
    connections = 6
    with instance(short_path, config(ports)) as proxy:
        with crowd(proxy.port("web"), connections) as living:
            living.wait_for_more(2)
            for number in range(restarts):
                proxy.write(config(ports, WORKERS[(number + 1) % len(WORKERS)]))
                said = proxy.reload().stdout
                assert "connections moved in" in said and "drain" not in said, said
                living.wait_for_more(4)
            counts = living.stop()
        assert counts["failures"] == [], f"{counts}\n{proxy.log_text()}"
        eventually(lambda: one_generation(proxy), "the old generations to be gone")
        assert_gauges_zero(proxy)
        stats = proxy.stats()
        assert stats["server.internal_errors"] == 0, proxy.log_text()
        assert stats["server.handoff_moved"] == restarts * connections and stats["server.handoff_refused"] == 0
        assert stats["http.web.downstream_cx_http2_total"] == connections
        assert stats["http.web.downstream_rq_http2_total"] == stats["http.web.downstream_rq_total"] == counts["streams"]
        assert stats["http.web.downstream_rq_2xx"] == counts["streams"]
        assert stats["http.web.http2.goaway_sent"] == stats["http.web.http2.rx_reset"] == 0


def test_h2load_sees_nothing_of_restarts(short_path: Path, nginx_address: str) -> None:
    program = origin.need("h2load")
    text = f"""
workers: 2
listeners:
  - name: web
    address: 127.0.0.1:0
    cluster: origin
clusters:
  - name: origin
    endpoints: ["{nginx_address}"]
"""
    requests = 4000
    with instance(short_path, text) as proxy:
        url = f"http://127.0.0.1:{proxy.port('web')}/"
        load = subprocess.Popen(
            [program, "-n", str(requests), "-c", "8", "-m", "10", url], stdout=subprocess.PIPE, text=True
        )
        try:
            for number in range(1, 4):
                wanted = requests * number // 5
                eventually(
                    lambda wanted=wanted: proxy.stats()["http.web.downstream_rq_total"] >= wanted, "some requests"
                )
                proxy.reload()
            said, _ = load.communicate(timeout=120)
        finally:
            load.kill()
            load.wait()
        assert f"{requests} succeeded, 0 failed, 0 errored, 0 timeout" in said, said + proxy.log_text()
        assert proxy.stats()["http.web.downstream_rq_2xx"] == requests
        assert proxy.stats()["listener.web.downstream_cx_total"] == 8


def test_over_tls_a_connection_is_told_and_ends_with_its_last_stream(short_path: Path, ports: dict[str, int]) -> None:
    """Its keys do not move. A request that was under way when the client was told is served as well."""
    files = Files(short_path, "localhost")
    text = config(ports, workers=1).replace(
        "    timeout: 0s\n", f"    timeout: 0s\n    tls: {{certificates: [{files.yaml()}], alpn: [h2, http/1.1]}}\n"
    )
    context = ssl.create_default_context(cafile=str(files.ca))
    context.set_alpn_protocols(["h2"])
    get = [(":method", "GET"), (":scheme", "https"), (":authority", "a"), (":path", "/load"), ("x-number", "7")]
    with instance(short_path, text) as proxy:
        with (
            socket.create_connection(("127.0.0.1", proxy.port("web")), PATIENCE_S) as plain,
            context.wrap_socket(plain, server_hostname="localhost") as sock,
        ):
            assert sock.selected_alpn_protocol() == "h2"
            reader = _Reader(sock)
            sock.sendall(preface() + headers(1, get))
            assert reader.until(h2.DATA, 1) == b"7\n"
            assert "1 drain" in proxy.reload().stdout
            assert reader.until(h2.GOAWAY, 0)[:4] == h2.number(h2.MAX_STREAM_ID)
            ping = reader.until(h2.PING, 0)
            sock.sendall(headers(3, get) + h2.frame(h2.PING, h2.ACK, 0, ping))
            assert reader.until(h2.DATA, 3) == b"7\n"
            assert reader.until(h2.GOAWAY, 0)[:4] == h2.number(3)
            assert sock.recv(100) == b""


class _Reader:
    def __init__(self, sock: ssl.SSLSocket) -> None:
        self._sock = sock
        self._data = b""
        self._seen: list[tuple[int, int, int, bytes]] = []

    def until(self, kind: int, stream_id: int) -> bytes:
        """The payload of the next frame of this kind; the ones before it are kept for later."""
        while True:
            for number, (its_kind, _, its_stream, payload) in enumerate(self._seen):
                if (its_kind, its_stream) == (kind, stream_id):
                    del self._seen[number]
                    return payload
            more = self._sock.recv(65536)
            assert more, "the connection was closed"
            self._data += more
            while len(self._data) >= 9 and len(self._data) >= (end := 9 + int.from_bytes(self._data[:3], "big")):
                self._seen += frames(self._data[:end])
                self._data = self._data[end:]
