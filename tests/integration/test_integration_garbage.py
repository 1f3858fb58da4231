"""Workers never collect garbage, so nothing may end in a cycle, whatever clients and endpoints do.

A real proxy, whose worker is made to collect all the time: each collection must find nothing.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from pathlib import Path

import pytest

from bench import collector
from tests.kit import clients, origin
from tests.kit.instance import eventually
from tests.kit.origin import RecordingOrigin

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

CONFIG = """
workers: 1
listeners:
  - name: web
    address: "127.0.0.1:0"
    request_headers_timeout: 1s
    idle_timeout: 1s
    timeout: 1s
    access_log: {{path: {directory}/access.log}}
    routes:
      - {{match: {{prefix: /mute}}, cluster: mute}}
      - {{match: {{prefix: /dead}}, cluster: dead}}
      - {{match: {{prefix: /ws}}, cluster: ws}}
      - {{match: {{path: /old}}, redirect: {{path: /}}}}
      - {{match: {{path: /hi}}, direct_response: {{status: 200, body: hi}}}}
      - {{match: {{prefix: /}}, cluster: origin}}
  - {{name: tcp, address: "127.0.0.1:0", tcp: {{cluster: origin}}}}
  - {{name: tcp-dead, address: "127.0.0.1:0", tcp: {{cluster: dead}}}}
clusters:
  - {{name: origin, endpoints: ["{origin}"]}}
  - {{name: mute, endpoints: ["{mute}"]}}
  - {{name: ws, endpoints: ["{ws}"]}}
  - {{name: dead, endpoints: ["127.0.0.1:1", "127.0.0.1:2"]}}
"""
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nhi"
GET = "GET {} HTTP/1.1\r\nHost: a\r\n{}\r\n"
SAYS = [
    b"",
    b"GET / HTTP/1.1\r\nX: ",
    b"PUT /mute HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nx",
    *(GET.format(path, "").encode() for path in ("/", "/mute", "/dead", "/old", "/hi", "/files/large")),
    GET.format("/ws", "Connection: upgrade\r\nUpgrade: websocket\r\n").encode(),
]
CORPUS = Path(__file__).parent.parent / "corpus" / "http1"


def leave(sock: socket.socket, reset: bool) -> None:
    if reset:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def test_nothing_is_left_for_the_collector(short_path: Path) -> None:
    records = short_path / "collections"
    (short_path / "nginx" / "files").mkdir(parents=True)
    (short_path / "nginx" / "files" / "large").write_bytes(bytes(4 << 20))
    with (
        origin.nginx(short_path / "nginx") as address,
        socket.create_server(("127.0.0.1", 0), backlog=1024) as mute,  # connects, and says nothing
        RecordingOrigin(lambda number, received: SWITCH if received.endswith(b"\r\n\r\n") else b"") as ws,
    ):
        text = CONFIG.format(
            directory=short_path, origin=address, mute=f"127.0.0.1:{mute.getsockname()[1]}", ws=ws.address
        )
        proxy = collector.timed(short_path, text, records, {collector.THRESHOLDS: "200,5,5"})
        try:
            proxy.start()
            (worker,) = proxy.workers()
            ports = {name: proxy.port(name) for name in ("web", "tcp", "tcp-dead")}
            for number, path in enumerate(sorted(CORPUS.rglob("*.request"))):
                sock = clients.connect(ports["web"])
                with contextlib.suppress(OSError):
                    sock.sendall(path.read_bytes())
                    if number % 3 == 0:
                        sock.shutdown(socket.SHUT_WR)
                        clients.read_to_end(sock)
                leave(sock, reset=number % 3 == 1)
            kept = []
            for port, says in [(ports["web"], says) for says in SAYS] + [
                (ports["tcp"], SAYS[3]),
                (ports["tcp-dead"], b""),
            ]:
                for number in range(20):
                    kept.append(clients.connect(port))
                    kept[-1].sendall(says)
                    if number % 4 == 0:
                        leave(kept.pop(), reset=number % 8 == 0)
            stats = proxy.stats
            timeouts = ("http.web.downstream_rq_header_timeout", "http.web.downstream_rq_idle_timeout")
            eventually(lambda: all(stats()[name] for name in timeouts), "timeouts of every kind")
            for number, sock in enumerate(kept):
                leave(sock, reset=number % 2 == 0)
            active = [f"listener.{name}.downstream_cx_active" for name in ports]
            eventually(lambda: not any(stats()[name] for name in active), "all of them to be gone")
            before = len(collector.read(records, worker))
            while len(collector.read(records, worker)) < before + 40:  # more than one of the oldest generation
                assert clients.exchange(ports["web"], SAYS[3].replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
            assert stats()["server.internal_errors"] == 0
            found = collector.read(records, worker)
        finally:
            proxy.end()
    assert {each.generation for each in found} == {0, 1, 2}
    assert sum(each.collected for each in found) == 0
