"""The example that sends TLS on by name: OpenSSL at both ends, its handshake through us, untouched."""

from __future__ import annotations

import contextlib
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit import clients
from tests.kit.instance import instance
from tests.kit.origin import need

CONFIGS = Path(__file__).parents[2] / "configs"
PORTS = {"api": 9001, "api-new": 9002, "web": 9003, "rest": 9004}


class NamedServer:
    """TLS that answers with its own name, or plain text to who speaks no TLS."""

    def __init__(self, name: str, context: ssl.SSLContext) -> None:
        self.name = name.encode()
        self._context = context
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listening.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                sock, _ = self._listening.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(sock,), daemon=True).start()

    def _answer(self, sock: socket.socket) -> None:
        with contextlib.suppress(OSError), sock:
            if sock.recv(1, socket.MSG_PEEK) != b"\x16":
                sock.recv(100)
                sock.sendall(b"plain " + self.name)
                return
            with self._context.wrap_socket(sock, server_side=True) as secure:
                while data := secure.recv(1000):
                    secure.sendall(self.name + b" " + data)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._thread.join(10)


@pytest.fixture
def servers(short_path: Path) -> Iterator[dict[str, NamedServer]]:
    key, certificate = short_path / "key.pem", short_path / "cert.pem"
    subprocess.run(
        [
            need("openssl"), "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
            "-keyout", str(key), "-out", str(certificate), "-subj", "/CN=test",
        ],
        check=True, capture_output=True,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    made = {name: NamedServer(name, context) for name in PORTS}
    yield made
    for server in made.values():
        server.close()


def tls(port: int, name: str | None) -> ssl.SSLSocket:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    sock = clients.connect(port)
    try:
        return context.wrap_socket(sock, server_hostname=name)
    except BaseException:
        sock.close()
        raise


def ask(port: int, name: str | None) -> bytes:
    with tls(port, name) as secure:
        secure.sendall(b"x")
        return secure.recv(100)


def test_the_example_sends_each_name_where_it_belongs(short_path: Path, servers: dict[str, NamedServer]) -> None:
    text = (CONFIGS / "sni.yaml").read_text().replace("127.0.0.1:8443", "127.0.0.1:0")
    for name, number in PORTS.items():
        text = text.replace(f"127.0.0.1:{number}", servers[name].address)
    with instance(short_path, text) as proxy:
        port = proxy.port("tls")
        assert ask(port, "www.example.com") == ask(port, "a.b.example.com") == b"web x"
        assert ask(port, "example.com") == ask(port, "other.org") == ask(port, None) == b"rest x"
        answers = {ask(port, "api.example.com") for _ in range(60)}
        assert answers == {b"api x", b"api-new x"}  # one in ten is new: all old is a chance of 1 in 500
        with clients.connect(port) as sock:
            sock.sendall(b"HELO a\r\n")
            assert clients.read_to_end(sock) == b"plain rest"

        kept = tls(port, "www.example.com")
        proxy.write(text.replace("  cluster: rest", "  # nothing else"))
        proxy.reload()
        with kept:
            kept.sendall(b"y")
            assert kept.recv(100) == b"web y"
        with pytest.raises((ssl.SSLError, ConnectionError)):
            ask(port, "other.org")
        assert proxy.stats()["tcp.tls.downstream_cx_no_route"] == 1
