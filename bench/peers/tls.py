"""The TLS cases: requests on kept connections, full and resumed handshakes, memory of idle connections."""

from __future__ import annotations

import json
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from bench.peers.loads import Failed
from bench.peers.origin import HOST, SMALL
from bench.peers.processes import pinned

if TYPE_CHECKING:
    from bench.peers.cases import Machine
    from bench.peers.proxies import Proxy


REQUEST = f"GET {SMALL} HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode()
# Connections before the first weighing: what is allocated once is not counted for each.
WARM = 50


def connect(port: int, context: ssl.SSLContext, session: ssl.SSLSession | None = None) -> ssl.SSLSocket:
    sock = socket.create_connection(("127.0.0.1", port), timeout=10)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return context.wrap_socket(sock, server_hostname=HOST, session=session)


def ask(sock: ssl.SSLSocket) -> None:
    sock.sendall(REQUEST)
    got = sock.recv(65536)
    if not got.startswith(b"HTTP/1.1 200"):
        raise OSError(f"answered with {got[:40]!r}")


def client_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def handshakes(resumed: bool, count: int, metric: str) -> Callable[[Proxy, Machine, int], dict[str, float]]:
    """`count` connections one after the other, each with one request. CPU of all that the proxy does for one."""

    def run(proxy: Proxy, machine: Machine, number: int) -> dict[str, float]:
        assert proxy.tree is not None
        command = [sys.executable, "-m", "bench.peers.tls", str(proxy.tls_port), str(count), str(int(resumed))]
        before_s = proxy.tree.cpu_s()
        with pinned(machine.load_cpu):
            done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=Path(__file__).parents[2])
        spent_s = proxy.tree.cpu_s() - before_s
        if done.returncode:
            raise Failed(done.stderr.strip()[-400:] or f"exit code {done.returncode}")
        said = json.loads(done.stdout)
        if said["resumed"] != (count if resumed else 0):
            raise Failed(f"{said['resumed']} of {count} sessions were resumed")
        return {metric: spent_s / count * 1e6}

    return run


def idle_memory(count: int, metric: str) -> Callable[[Proxy, Machine, int], dict[str, float]]:
    """What all its processes together grow by for each TLS connection that has been served once and is kept."""

    def run(proxy: Proxy, machine: Machine, number: int) -> dict[str, float]:
        proxy.start(machine.directory / "tls-memory", machine.origin, machine.proxy_cpu)
        context = client_context()
        kept = []
        try:
            assert proxy.tree is not None
            before = 0
            for done in range(count + WARM):
                if done == WARM:
                    before = proxy.tree.private_bytes()
                kept.append(connect(proxy.tls_port, context))
                ask(kept[-1])
            return {metric: (proxy.tree.private_bytes() - before) / count}
        finally:
            for sock in kept:
                sock.close()
            proxy.end()

    return run


def main(port: int, count: int, resumed: bool) -> None:
    """The load. Says how many sessions were resumed."""
    context = client_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    session = None
    if resumed:
        with connect(port, context) as sock:
            ask(sock)
            session = sock.session
    found = 0
    for _ in range(count):
        with connect(port, context, session) as sock:
            ask(sock)
            found += bool(sock.session_reused)
            if resumed:
                session = sock.session  # a ticket of TLS 1.3 is for one connection (RFC 8446 appendix C.4)
    print(json.dumps({"resumed": found}))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "1")
