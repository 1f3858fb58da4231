"""What flows for long: upgraded connections, TCP and unix sockets, and large bodies through slow readers."""

from __future__ import annotations

import asyncio
import hashlib
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from websockets.asyncio.client import connect as websocket_connect
from websockets.asyncio.server import ServerConnection
from websockets.asyncio.server import serve as websocket_serve

from tests.kit import clients
from tests.kit.instance import Instance, eventually, instance

CONFIG = """
workers: 1
listeners:
  - name: web
    address: 127.0.0.1:0
    routes:
      - match: {{prefix: /no-upgrade}}
        cluster: origin
        upgrades: []
      - match: {{prefix: /}}
        cluster: origin
        timeout: 0s # as long as the reader takes
  - name: local
    address: {{path: {directory}/web.sock, mode: "0600"}}
    cluster: origin
  - name: bytes
    address: 127.0.0.1:0
    tcp: {{cluster: origin}}
clusters:
  - name: origin
    endpoints: ["{origin}"]
"""
GROWTH_LIMIT_KIB = 2048


def test_websockets_through_the_proxy(short_path: Path) -> None:
    async def echo(connection: ServerConnection) -> None:
        async for message in connection:
            await connection.send(message)

    async def talk() -> None:
        async with websocket_serve(echo, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            text = CONFIG.format(directory=short_path, origin=f"127.0.0.1:{port}")
            with instance(short_path, text) as proxy:
                url = f"ws://127.0.0.1:{proxy.port('web')}"
                async with websocket_connect(f"{url}/chat") as client:
                    for size in (1, 125, 126, 65_536, 1_000_000):
                        message = os.urandom(size)
                        await client.send(message)
                        assert await client.recv() == message
                with pytest.raises(Exception, match="HTTP 4"):
                    await websocket_connect(f"{url}/no-upgrade")
                await asyncio.to_thread(gauges_return_to_zero, proxy)

    asyncio.run(talk())


def gauges_return_to_zero(proxy: Instance) -> None:
    def at_rest() -> bool:
        stats = proxy.stats()
        return all(stats[f"http.web.downstream_{what}_active"] == 0 for what in ("cx", "rq"))

    eventually(at_rest, "the gauges to be zero")
    assert proxy.stats()["server.internal_errors"] == 0


@pytest.fixture
def echo_port() -> Iterator[int]:
    """Sends back what it receives, and half-closes when the other side has."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve_one(sock: socket.socket) -> None:
            with sock:
                while data := sock.recv(65536):
                    sock.sendall(data)
                sock.shutdown(socket.SHUT_WR)

        def accept() -> None:
            while True:
                try:
                    sock, _ = listening.accept()
                except OSError:
                    return
                threading.Thread(target=serve_one, args=(sock,), daemon=True).start()

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield listening.getsockname()[1]
        listening.shutdown(socket.SHUT_RDWR)
        thread.join(10)


def test_a_tcp_listener_carries_bytes_and_half_closes(short_path: Path, echo_port: int) -> None:
    text = CONFIG.format(directory=short_path, origin=f"127.0.0.1:{echo_port}")
    with instance(short_path, text) as proxy:
        payload = os.urandom(5_000_000)
        with clients.connect(proxy.port("bytes")) as sock:
            sender = threading.Thread(target=lambda: (sock.sendall(payload), sock.shutdown(socket.SHUT_WR)))
            sender.start()
            assert clients.read_to_end(sock) == payload
            sender.join(10)
        eventually(lambda: proxy.stats()["listener.bytes.downstream_cx_active"] == 0, "the connection to be gone")
        stats = proxy.stats()
        assert stats["tcp.bytes.downstream_cx_total"] == 1
        assert stats["tcp.bytes.downstream_cx_rx_bytes_total"] == len(payload)
        assert stats["tcp.bytes.downstream_cx_tx_bytes_total"] == len(payload)
        assert stats["cluster.origin.upstream_cx_active"] == 0


def test_a_unix_socket_is_listened_on_with_its_mode(short_path: Path, echo_port: int) -> None:
    text = CONFIG.format(directory=short_path, origin=f"127.0.0.1:{echo_port}").replace(
        "cluster: origin\n  - name: bytes",
        "routes: [{match: {prefix: /}, direct_response: {status: 200, body: hi}}]\n  - name: bytes",
    )
    with instance(short_path, text) as proxy:
        path = short_path / "web.sock"
        assert path.stat().st_mode & 0o777 == 0o600
        for _ in range(2):
            with socket.socket(socket.AF_UNIX) as sock:
                sock.connect(str(path))
                sock.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
                assert clients.read_to_end(sock).endswith(b"\r\n\r\nhi")
            proxy.reload()
        proxy.command("stop")
        assert not path.exists()


def body_origin(total: int) -> tuple[socket.socket, threading.Thread]:
    """Answers one request with `total` bytes of a repeating block, as fast as it is taken."""
    listening = socket.create_server(("127.0.0.1", 0))
    block = bytes(range(256)) * 256

    def serve() -> None:
        sock, _ = listening.accept()
        with sock:
            sock.recv(65536)
            sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % total)
            for _ in range(total // len(block)):
                sock.sendall(block)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    return listening, thread


@pytest.mark.parametrize("mebibytes", [64, pytest.param(1024, marks=pytest.mark.slow)])
def test_a_large_body_through_a_slow_reader_costs_little_memory(short_path: Path, mebibytes: int) -> None:
    total = mebibytes << 20
    listening, thread = body_origin(total)
    text = CONFIG.format(directory=short_path, origin=f"127.0.0.1:{listening.getsockname()[1]}")
    with listening, instance(short_path, text) as proxy, socket.socket() as sock:
        worker = psutil.Process(proxy.workers()[0])
        before = worker.memory_full_info().uss
        # A small window makes the reader slow without any waiting: the proxy is always ahead of it.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 * 1024)
        sock.connect(("127.0.0.1", proxy.port("web")))
        sock.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        digest, received, worst = hashlib.sha256(), 0, 0
        head_and_more = sock.recv(4096)
        body = head_and_more.partition(b"\r\n\r\n")[2]
        while True:
            digest.update(body)
            received += len(body)
            if received % (4 << 20) < len(body):
                worst = max(worst, worker.memory_full_info().uss - before)
            body = sock.recv(16 * 1024)
            if not body:
                break
        thread.join(10)
        assert received == total
        assert digest.digest() == hashlib.sha256(bytes(range(256)) * (total // 256)).digest()
        assert worst // 1024 < GROWTH_LIMIT_KIB
