"""Messages whose end matters: what of an endpoint behind TLS is taken for complete, and what for cut.

A whole proxy, for it takes all of it: the record layer tells ends from cuts, the codec knows whether one was due, and
the client must be able to see it.
"""

from __future__ import annotations

import http.client
import socket
import ssl
import threading
from collections.abc import Iterator

import pytest

from tests.kit.instance import Instance, eventually, instance
from tests.kit.tls import Files, client_context

CONFIG = """
workers: 1
listeners:
  - name: plain
    address: 127.0.0.1:0
    cluster: api
  - name: secure
    address: 127.0.0.1:0
    tls: {{certificates: [{certificate}]}}
    cluster: api
clusters:
  - name: api
    endpoints: ["{origin}"]
    tls: {{ca: {ca}, sni: web.example}}
"""
BODY = b"0123456789" * 5000
ANSWERS = {
    "length": (b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY, b""),
    "chunked": (b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n" % (len(BODY), BODY), b"0\r\n\r\n"),
    "until the end": (b"\r\n" + BODY, b""),
}


class TlsOrigin:
    """Answers GET /framing/whole-or-part/end?version as that says, and writes down all requests."""

    def __init__(self, files: Files) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(files.cert, files.key)
        self.address = "{}:{}".format(*self._listener.getsockname())
        self.requests: list[bytearray] = []
        self.ended = 0
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def use(self, version: ssl.TLSVersion) -> None:
        self._context.maximum_version = version

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self._threads.append(threading.Thread(target=self._serve, args=(sock,)))
            self._threads[-1].start()

    def _serve(self, plain: socket.socket) -> None:
        with plain:
            plain.settimeout(60)
            request = bytearray()
            self.requests.append(request)
            try:
                sock = self._context.wrap_socket(plain, server_side=True, suppress_ragged_eofs=False)
                while not (request.startswith(b"GET") and request.endswith(b"\r\n\r\n")):
                    data = sock.recv(65536)
                    if not data:
                        raise ssl.SSLZeroReturnError
                    request += data
                self._answer(sock, request.split()[1].decode().replace("%20", " "))
            except OSError:  # SSLError is one
                self.ended += 1

    def _answer(self, sock: ssl.SSLSocket, path: str) -> None:
        _, framing, extent, end = path.split("/")
        most, last = ANSWERS[framing]
        sock.sendall(b"HTTP/1.1 200 OK\r\n" + (most + last if extent == "whole" else most[: -len(BODY) // 2]))
        if end == "close_notify":
            sock.unwrap()
            return
        raw = socket.socket(fileno=sock.detach())
        with raw:
            raw.shutdown(socket.SHUT_WR)
            while raw.recv(65536):
                pass

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(60)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Instance, TlsOrigin]]:
    directory = tmp_path_factory.mktemp("ends")
    files = Files(directory, "web.example")
    origin = TlsOrigin(files)
    text = CONFIG.format(certificate=files.yaml(), ca=files.ca, origin=origin.address)
    try:
        with instance(directory, text) as proxy:
            yield proxy, origin
    finally:
        origin.close()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["1.2", "1.3"])
@pytest.mark.parametrize(
    ("framing", "extent", "end", "complete"),
    [
        ("length", "whole", "close_notify", True),
        ("length", "whole", "cut", True),
        ("length", "part", "close_notify", False),
        ("length", "part", "cut", False),
        ("chunked", "whole", "close_notify", True),
        ("chunked", "whole", "cut", True),
        ("chunked", "part", "close_notify", False),
        ("chunked", "part", "cut", False),
        ("until the end", "whole", "close_notify", True),
        ("until the end", "whole", "cut", False),
    ],
)
def test_an_answer(
    served: tuple[Instance, TlsOrigin], version: ssl.TLSVersion, framing: str, extent: str, end: str, complete: bool
) -> None:
    proxy, origin = served
    origin.use(version)
    client = http.client.HTTPConnection("127.0.0.1", proxy.port("plain"), timeout=60)
    client.request("GET", f"/{framing}/{extent}/{end}".replace(" ", "%20"))
    answer = client.getresponse()
    assert answer.status == 200
    if complete:
        assert answer.read() == BODY
    else:
        with pytest.raises((http.client.IncompleteRead, ConnectionResetError)):
            answer.read()
    client.close()


@pytest.mark.parametrize("end", ["close_notify", "cut"])
@pytest.mark.parametrize(
    "head", [b"content-length: 10\r\n\r\nhalf ", b"transfer-encoding: chunked\r\n\r\n5\r\nhalf \r\n"]
)
def test_a_request_that_was_cut_is_never_complete(served: tuple[Instance, TlsOrigin], head: bytes, end: str) -> None:
    proxy, origin = served
    number, ended = len(origin.requests), origin.ended
    plain = socket.create_connection(("127.0.0.1", proxy.port("secure")), timeout=60)
    sock = client_context().wrap_socket(plain, server_hostname="web.example")
    sock.sendall(b"POST /x HTTP/1.1\r\nhost: a\r\n" + head)
    eventually(lambda: len(origin.requests) > number and b"half" in origin.requests[number], "the first half")
    if end == "close_notify":
        sock.settimeout(0)
        with pytest.raises(ssl.SSLWantReadError):  # ours is on its way, and that is all
            sock.unwrap()
    raw = socket.socket(fileno=sock.detach())
    raw.shutdown(socket.SHUT_WR)
    raw.close()
    eventually(lambda: origin.ended == ended + 1, "the endpoint's connection to end")
    assert not origin.requests[number].endswith(b"0\r\n\r\n")


def test_after_them_nothing_is_open(served: tuple[Instance, TlsOrigin]) -> None:
    proxy, _ = served
    eventually(lambda: proxy.stats()["listener.secure.downstream_cx_active"] == 0, "clients to be gone")
    assert proxy.stats()["server.internal_errors"] == 0
