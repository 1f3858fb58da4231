"""TLS across restarts: sessions that go on, connections that drain, and the example of the docs, started and driven."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit import origin
from tests.kit.instance import Instance, eventually, instance
from tests.kit.tls import Files, authority, client_context

EXAMPLE = Path(__file__).parents[2] / "configs" / "tls.yaml"
RELOADS = 5


def web(directory: Path, files: Files) -> str:
    return f"""
workers: 3
drain_timeout: 5s
listeners:
  - name: web
    address: 127.0.0.1:0
    tls: {{certificates: [{files.yaml()}]}}
    routes: [{{match: {{prefix: /}}, direct_response: {{status: 200, body: "hello"}}}}]
"""


class Client:
    """Asks on connections of its own, and keeps its session as a browser does."""

    def __init__(self, port: int, version: ssl.TLSVersion) -> None:
        self.port = port
        self.context = client_context()
        self.context.maximum_version = version
        self.session: ssl.SSLSession | None = None

    def connect(self) -> ssl.SSLSocket:
        sock = socket.create_connection(("127.0.0.1", self.port), timeout=60)
        return self.context.wrap_socket(sock, server_hostname="localhost", session=self.session)

    def ask(self, sock: ssl.SSLSocket) -> http.client.HTTPResponse:
        sock.sendall(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n")
        answer = http.client.HTTPResponse(sock)
        answer.begin()
        assert (answer.status, answer.read()) == (200, b"hello")
        return answer

    def visit(self) -> bool:
        """Was the session resumed?"""
        with self.connect() as sock:
            self.ask(sock)
            self.session = sock.session
            return bool(sock.session_reused)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["1.2", "1.3"])
def test_sessions_go_on_with_any_worker_and_generation(tmp_path: Path, version: ssl.TLSVersion) -> None:
    """C14: with nothing configured. Three workers share the clients, so that visits meet all of them."""
    with instance(tmp_path, web(tmp_path, Files(tmp_path, "localhost"))) as proxy:
        client = Client(proxy.port("web"), version)
        assert not client.visit()
        for _ in range(RELOADS):
            assert [client.visit() for _ in range(10)] == [True] * 10
            proxy.reload()
        assert client.visit()
        epoch = proxy.status()["epoch"]
        proxy.signal(signal.SIGUSR2)  # the supervisor replaces its own code as well
        eventually(lambda: proxy.status()["epoch"] == epoch + 1, "the next generation")
        assert client.visit()
        proxy.command("worker", "recycle", "0")
        assert [client.visit() for _ in range(10)] == [True] * 10
        stats = proxy.stats()
        assert stats["listener.web.ssl.handshake"] == 10 * RELOADS + 13
        assert stats["listener.web.ssl.session_reused"] == 10 * RELOADS + 12
        assert b"secret" not in proxy.log.read_bytes().lower()


def test_an_open_connection_drains_and_says_so(tmp_path: Path) -> None:
    with instance(tmp_path, web(tmp_path, Files(tmp_path, "localhost"))) as proxy:
        client = Client(proxy.port("web"), ssl.TLSVersion.TLSv1_3)
        with client.connect() as sock:
            assert client.ask(sock).getheader("connection") is None
            assert "0 connections moved" in (told := proxy.reload().stdout) and "1 drains" in told
            assert client.ask(sock).getheader("connection") == "close"
            assert sock.recv(1) == b""  # with close_notify: Python would raise otherwise
        generations = proxy.status()["generations"]
        assert max(each["epoch"] for each in generations) == 2


def test_a_certificate_that_is_broken_refuses_a_reload(tmp_path: Path) -> None:
    files = Files(tmp_path, "localhost")
    with instance(tmp_path, web(tmp_path, files)) as proxy:
        key = files.key.read_text()
        files.key.write_text("nonsense")
        answer = proxy.command("reload")
        assert answer.returncode == 1
        assert f"no key can be read from '{files.key}'" in answer.stderr
        assert "hotproxy.yaml:7:" in answer.stderr
        assert not Client(proxy.port("web"), ssl.TLSVersion.TLSv1_3).visit()
        files.key.write_text(key)
        proxy.reload()


def test_new_files_are_used_without_a_restart(tmp_path: Path) -> None:
    files = Files(tmp_path, "localhost")
    with instance(tmp_path, web(tmp_path, files)) as proxy:
        client = Client(proxy.port("web"), ssl.TLSVersion.TLSv1_3)

        def serial() -> str:
            with client.connect() as sock:
                found = sock.getpeercert()
                assert found is not None
                return str(found["serialNumber"])

        before = serial()
        new = Files(tmp_path, "localhost", stem="new", days=10)
        new.cert.rename(files.cert)
        new.key.rename(files.key)
        eventually(lambda: proxy.log_text().count("certificates were loaded anew") == 3, "all workers to load it")
        assert serial() != before
        files.cert.write_text("nonsense")
        eventually(lambda: proxy.log_text().count("stay in use") == 3, "all workers to say so")
        assert "no certificate can be read from" in proxy.log_text()
        assert serial() != before


@pytest.mark.parametrize("how", ["recycled", "killed"])
def test_a_worker_starts_though_the_files_are_broken(tmp_path: Path, how: str) -> None:
    """It could not, and with each worker that crashed or was recycled there was one less, until nobody was left."""
    files = Files(tmp_path, "localhost")
    with instance(tmp_path, web(tmp_path, files).replace("workers: 3", "workers: 1")) as proxy:
        client = Client(proxy.port("web"), ssl.TLSVersion.TLSv1_3)
        assert not client.visit()
        files.key.write_text("nonsense")
        eventually(lambda: "stay in use" in proxy.log_text(), "the worker to say so")
        (slot,) = proxy.status()["generations"][0]["slots"]
        if how == "recycled":
            assert proxy.command("worker", "recycle", "0").returncode == 0
        else:
            os.kill(slot["pid"], signal.SIGKILL)

        def another() -> bool:
            (now,) = proxy.status()["generations"][0]["slots"]
            return bool(now["pid"] != slot["pid"] and now["state"] == slot["state"])

        eventually(another, "another worker")
        assert client.visit()  # and by its session
        assert proxy.log_text().count("no key can be read from") == 2  # each of them says so once


# -- configs/tls.yaml


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    """The example with certificates, with ports that are free, and endpoints that answer."""
    directory = tmp_path_factory.mktemp("example")
    certs = directory / "certs"
    certs.mkdir()
    Files(certs, "www.example.com", "localhost", stem="www")
    Files(certs, "www.example.com", stem="www-rsa", rsa=True)
    Files(certs, "api.example.com", stem="api")
    Files(certs, "client.example.com", stem="client")
    Files(certs, "spiffe://example.com/admin/ann", stem="ann")
    Files(certs, "shop.apps.example.com", stem="shop")
    Files(certs, "api.internal", "spiffe://example.com/admin", stem="internal")
    for name in ("clients-ca.pem", "internal-ca.pem"):
        authority(0).cert_pem.write_to_path(certs / name)
    inner = f"""
workers: 1
listeners:
  - name: inner
    address: "unix:{directory}/inner.sock"
    tls: {{certificates: [{{cert: {certs}/internal.pem, key: {certs}/internal.key}}]}}
    routes: [{{match: {{prefix: /}}, direct_response: {{status: 200, body: "from inside\\n"}}}}]
"""
    (directory / "inner").mkdir()

    def echo(number: int, so_far: bytes) -> bytes:
        return so_far

    with instance(directory / "inner", inner), origin.RecordingOrigin(echo) as redis:
        text = EXAMPLE.read_text().replace("0.0.0.0:8443", "127.0.0.1:0").replace("0.0.0.0:8080", "127.0.0.1:0")
        text = text.replace("0.0.0.0:6380", "127.0.0.1:0").replace("127.0.0.1:6379", redis.address)
        text = text.replace("127.0.0.1:9443", f"unix:{directory}/inner.sock")
        with instance(directory, "workers: 1\n" + text) as proxy:
            yield proxy


def get(proxy: Instance, path: str, stem: str = "", name: str = "www.example.com") -> tuple[int, bytes, object]:
    """Status, body, and the names in the certificate that the client was shown."""
    context = client_context()
    if stem:
        certs = proxy.directory / "certs"
        context.load_cert_chain(certs / f"{stem}.pem", certs / f"{stem}.key")
    with socket.create_connection(("127.0.0.1", proxy.port("secure")), timeout=60) as plain:
        with context.wrap_socket(plain, server_hostname=name) as sock:
            sock.sendall(f"GET {path} HTTP/1.1\r\nhost: {name}\r\nconnection: close\r\n\r\n".encode())
            answer = http.client.HTTPResponse(sock)
            answer.begin()
            found = sock.getpeercert()
            assert found is not None
            return answer.status, answer.read(), found["subjectAltName"]


def test_the_example_serves(example: Instance) -> None:
    www = (("DNS", "www.example.com"), ("DNS", "localhost"))
    assert get(example, "/") == (200, b"from inside\n", www)
    assert get(example, "/", name="api.example.com") == (200, b"from inside\n", (("DNS", "api.example.com"),))
    assert get(example, "/admin") == (403, b"a certificate is needed\n", www)
    assert get(example, "/admin", "client") == (403, b"a certificate is needed\n", www)
    assert get(example, "/admin", "ann") == (200, b"from inside\n", www)


def test_plain_http_leads_to_the_example(example: Instance) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", example.port("plain"), timeout=60)
    connection.request("GET", "/x", headers={"host": "www.example.com"})
    answer = connection.getresponse()
    assert (answer.status, answer.getheader("location")) == (301, "https://www.example.com:8443/x")
    connection.close()


def test_bytes_in_tls(example: Instance) -> None:
    certs = example.directory / "certs"
    context = client_context()
    context.load_cert_chain(certs / "shop.pem", certs / "shop.key")
    with socket.create_connection(("127.0.0.1", example.port("redis")), timeout=60) as plain:
        with context.wrap_socket(plain, server_hostname="www.example.com") as sock:
            sock.sendall(b"PING\r\n")
            assert sock.recv(100) == b"PING\r\n"
