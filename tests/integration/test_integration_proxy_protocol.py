"""The example config with balancers and endpoints that speak the PROXY protocol; HAProxy on both sides of us."""

from __future__ import annotations

import contextlib
import re
import socket
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from hotproxy.net.proxy_protocol import Announced, crc32c, encode, parse
from tests.kit import clients
from tests.kit.instance import Instance, eventually, instance
from tests.kit.origin import RecordingOrigin, need

CONFIGS = Path(__file__).parents[2] / "configs"
REQUEST = b"GET /path HTTP/1.1\r\nHost: a\r\n\r\n"
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
CLIENT, SERVICE = "192.0.2.1:5000", "192.0.2.2:443"


def answer(number: int, so_far: bytes) -> bytes | None:
    return ANSWER if so_far.endswith(b"\r\n\r\n") else None


def greet(number: int, so_far: bytes) -> bytes | None:
    """Not a header that comes alone."""
    return b"220 hi\r\n" if so_far.endswith((b"HELO a\r\n", b"QUIT\r\n")) else None


def example(app: str, mail: str) -> str:
    """configs/proxy-protocol.yaml on ports of its own, and without a deadline that a slow machine would miss."""
    text = (CONFIGS / "proxy-protocol.yaml").read_text()
    for old, new in (
        ("127.0.0.1:8080", "127.0.0.1:0"), ("127.0.0.1:2525", "127.0.0.1:0"), ("127.0.0.1:9001", app),
        ("127.0.0.1:9002", mail), ("listener_filters_timeout: 5s", "listener_filters_timeout: 0s"),
    ):  # fmt: skip
        assert old in text
        text = text.replace(old, new)
    return text


def with_checksum(header: bytes, *tlvs: tuple[int, bytes]) -> bytes:
    """A header of version 2 with TLVs, and with the checksum of all that."""
    body = header[16:] + b"".join(bytes((kind,)) + struct.pack("!H", len(value)) + value for kind, value in tlvs)
    whole = bytearray(header[:14] + struct.pack("!H", len(body) + 7) + body + b"\x03\x00\x04" + bytes(4))
    whole[-4:] = struct.pack("!I", crc32c(bytes(whole)))
    return bytes(whole)


@pytest.fixture
def running(short_path: Path) -> Iterator[tuple[Instance, RecordingOrigin, RecordingOrigin]]:
    """One worker: of several, a reload may give a client to one and its idle connection to an endpoint to another."""
    with (
        RecordingOrigin(answer) as app,
        RecordingOrigin(greet) as mail,
        instance(short_path, example(app.address, mail.address), "--workers", "1") as proxy,
    ):
        yield proxy, app, mail


def test_the_example_from_a_balancer_to_an_endpoint(running: tuple[Instance, RecordingOrigin, RecordingOrigin]) -> None:
    proxy, app, mail = running
    named = with_checksum(encode(2, CLIENT, SERVICE), (0x02, b"shop.example.com"))
    for header in (encode(1, CLIENT, SERVICE), named):
        with clients.connect(proxy.port("web")) as sock:
            for _ in range(2):
                sock.sendall(header + REQUEST)
                assert clients.read_response(sock)[1] == b"hi"
                header = b""
    # One connection for each client's connection, kept for its second request.
    assert len(app.received) == 2
    for received in app.received:
        assert received.startswith(encode(1, CLIENT, SERVICE) + b"GET /path HTTP/1.1\r\n")
        assert received.count(b"GET ") == 2 and received.count(b"x-forwarded-for: 192.0.2.1\r\n") == 2
    eventually(lambda: proxy.log_text().count(" /path") == 4, "four lines in the access log")
    lines = [line for line in proxy.log_text().splitlines() if line.endswith(" /path")]
    seen = [re.fullmatch(r"192\.0\.2\.1:5000 127\.0\.0\.1:\d+ (\S+) /path", line) for line in lines]
    assert [match and match[1] for match in seen] == ["-", "-", "shop.example.com", "shop.example.com"]

    for header in (encode(2, CLIENT, SERVICE), b""):
        with clients.connect(proxy.port("mail")) as sock:
            ours = "{}:{}".format(*sock.getsockname())
            sock.sendall(header + b"HELO a\r\n")
            assert sock.recv(100) == b"220 hi\r\n"
        remote = CLIENT if header else ours
        found = parse(bytes(mail.received[-1]))
        assert isinstance(found, Announced) and found.remote == remote
        assert mail.received[-1][found.size :] == b"HELO a\r\n"

    with clients.connect(proxy.port("web")) as sock:
        sock.sendall(REQUEST)
        with contextlib.suppress(ConnectionResetError):
            assert sock.recv(100) == b""
    stats = proxy.stats()
    counted = {name: value for name, value in stats.items() if name.startswith("proxy_proto.") and value}
    assert counted == {
        "proxy_proto.web.versions.v1.found": 1, "proxy_proto.web.versions.v2.found": 1,
        "proxy_proto.web.not_found_disallowed": 1, "proxy_proto.mail.versions.v2.found": 1,
        "proxy_proto.mail.not_found_allowed": 1,
    }  # fmt: skip


def test_a_reload_in_the_middle_of_everything(running: tuple[Instance, RecordingOrigin, RecordingOrigin]) -> None:
    """Half a header, a header without a request, a request between two, and a pipe: all go on, with what was said."""
    proxy, app, mail = running
    # Clients of their own: those with the same address may use the same connection to an endpoint, if it is free.
    announced = [f"192.0.2.1:{port}" for port in (5000, 5001, 5002)]
    headers = [encode(2, client, SERVICE) for client in announced]
    with contextlib.ExitStack() as stack:
        half, whole, kept = (stack.enter_context(clients.connect(proxy.port("web"))) for _ in range(3))
        pipe = stack.enter_context(clients.connect(proxy.port("mail")))
        half.sendall(headers[0][:20])
        whole.sendall(headers[1])
        kept.sendall(headers[2] + REQUEST)
        assert clients.read_response(kept)[1] == b"hi"
        pipe.sendall(headers[0] + b"HELO a\r\n")
        assert pipe.recv(100) == b"220 hi\r\n"
        # Its header is read: the other half of the handoff is in the unit tests.
        eventually(lambda: proxy.stats()["proxy_proto.web.versions.v2.found"] == 2, "two whole headers")
        for _ in range(2):
            proxy.reload()
        half.sendall(headers[0][20:] + REQUEST)
        for sock in (whole, kept):
            sock.sendall(REQUEST)
        for sock in (half, whole, kept):
            assert clients.read_response(sock)[1] == b"hi"
        pipe.sendall(b"QUIT\r\n")
        assert pipe.recv(100) == b"220 hi\r\n"
    assert len(app.received) == 3 and len(mail.received) == 1
    for received, client in zip(sorted(map(bytes, app.received)), announced, strict=True):
        assert received.startswith(encode(1, client, SERVICE))
        assert received.count(b"PROXY ") == 1
        requests = 2 if client == announced[2] else 1
        assert received.count(b"GET ") == received.count(b"x-forwarded-for: 192.0.2.1\r\n") == requests
    assert proxy.stats()["server.handoff_refused"] == 0


HAPROXY = """
defaults
  timeout client 30s
  timeout server 30s
  timeout connect 5s
listen front
  mode tcp
  bind 127.0.0.1:{front}
  server us {proxy} send-proxy-v2 {options}
listen back
  mode http
  bind 127.0.0.1:{back} accept-proxy
  http-request return status 200 content-type text/plain lf-string "%[src] %[src_port] %[hdr(x-forwarded-for)]"
"""


@pytest.mark.parametrize("options", ["", "proxy-v2-options crc32c,authority"])
@pytest.mark.parametrize("version", ["v1", "v2"])
def test_haproxy_understands_us_and_we_understand_it(short_path: Path, version: str, options: str) -> None:
    program = need("haproxy")
    reserved = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    front, back = (sock.getsockname()[1] for sock in reserved)
    config = f"""
listeners:
  - {{name: web, address: "127.0.0.1:0", proxy_protocol: {{trusted: [127.0.0.0/8]}}, cluster: back}}
clusters:
  - {{name: back, proxy_protocol: {version}, endpoints: ["127.0.0.1:{back}"]}}
"""
    with instance(short_path, config) as proxy:
        file = short_path / "haproxy.cfg"
        us = f"127.0.0.1:{proxy.port('web')}"
        file.write_text(HAPROXY.format(front=front, back=back, proxy=us, options=options))
        for sock in reserved:
            sock.close()
        process = subprocess.Popen(
            [program, "-db", "-f", str(file)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            eventually(lambda: _answers(back), "HAProxy to listen")
            with clients.connect(front) as sock:
                for _ in range(2):
                    sock.sendall(REQUEST)
                    host, port = sock.getsockname()
                    assert clients.read_response(sock)[1] == f"{host} {port} {host}".encode()
        finally:
            process.kill()
            process.wait()
        assert proxy.stats()["proxy_proto.web.versions.v2.found"] == 1


def _answers(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0
