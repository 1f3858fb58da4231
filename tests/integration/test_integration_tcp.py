"""The example that carries bytes: two endpoints, one of which is down; ends, resets, limits, a reload in the middle."""

from __future__ import annotations

import contextlib
import re
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from hotproxy.net.proxy_protocol import Announced, encode, parse
from tests.kit import clients
from tests.kit.instance import Instance, eventually, instance
from tests.kit.origin import RecordingOrigin

CONFIGS = Path(__file__).parents[2] / "configs"
# struct linger: close() then sends RST.
RESET_ON_CLOSE = struct.pack("ii", 1, 0)


def echo(number: int, so_far: bytes) -> bytes | None:
    return so_far if so_far.endswith(b"?") else None


def example(endpoint: str, closed: str) -> str:
    """configs/tcp.yaml on ports of its own."""
    text = (CONFIGS / "tcp.yaml").read_text()
    for old, new in (
        ("127.0.0.1:5432", "127.0.0.1:0"), ("[::1]:5432", "[::1]:0"), ("127.0.0.1:15432", closed),
        ("127.0.0.1:25432", endpoint), ("max_connections: 500", "max_connections: 3"),
    ):  # fmt: skip
        assert old in text
        text = text.replace(old, new)
    return text


@pytest.fixture
def running(short_path: Path) -> Iterator[tuple[Instance, RecordingOrigin, list[str]]]:
    """One worker, and the addresses that it listens on. A bound port that nobody listens on refuses."""
    with socket.socket() as closed, RecordingOrigin(echo) as endpoint:
        closed.bind(("127.0.0.1", 0))
        refusing = f"127.0.0.1:{closed.getsockname()[1]}"
        with instance(short_path, example(endpoint.address, refusing), "--workers", "1") as proxy:
            (listener,) = (each for each in proxy.status()["listeners"] if each["name"] == "db")
            yield proxy, endpoint, listener["addresses"]


def ask(sock: socket.socket, text: bytes) -> None:
    sock.sendall(text)
    received = b""
    while len(received) < len(text):
        data = sock.recv(65536)
        assert data, f"EOF after {received!r}"
        received += data
    assert received.endswith(text)


def connect(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    return socket.create_connection((host.strip("[]"), int(port)), timeout=60)


def test_the_example(running: tuple[Instance, RecordingOrigin, list[str]]) -> None:
    proxy, endpoint, addresses = running
    assert len(addresses) == 2 and addresses[1].startswith("[::1]:")
    with contextlib.ExitStack() as stack:
        v4, v6 = (stack.enter_context(connect(address)) for address in addresses)
        for sock in (v4, v6):
            ask(sock, b"one?")
        proxy.reload()
        for sock in (v4, v6):
            sock.sendall(b"two?")
            assert sock.recv(100) == b"one?two?"
        third = stack.enter_context(connect(addresses[0]))
        ask(third, b"three?")
        with connect(addresses[0]) as refused, contextlib.suppress(ConnectionResetError):
            assert refused.recv(1) == b""  # max_connections
        v4.shutdown(socket.SHUT_WR)  # the endpoint closes then, and so do we
        assert v4.recv(1) == b""
        v6.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
    eventually(lambda: proxy.stats()["listener.db.downstream_cx_active"] == 0, "all of them gone")
    stats = proxy.stats()
    assert stats["listener.db.downstream_cx_overflow"] == 1
    assert stats["tcp.db.downstream_cx_total"] == 3
    assert stats["tcp.db.downstream_cx_rx_bytes_total"] == stats["cluster.db.upstream_cx_tx_bytes_total"] == 22
    assert stats["tcp.db.downstream_cx_tx_bytes_total"] == stats["cluster.db.upstream_cx_rx_bytes_total"] == 30
    # Round robin: the one that refuses came first for one or two of the three, who then met the other.
    assert stats["cluster.db.upstream_cx_connect_fail"] in (1, 2)
    assert stats["cluster.db.upstream_cx_total"] == 3 + stats["cluster.db.upstream_cx_connect_fail"]
    assert sorted(map(bytes, endpoint.received)) == [b"one?two?", b"one?two?", b"three?"]
    eventually(lambda: proxy.log_text().count('] "- - -" 0 ') == 3, "three lines in the access log")
    lines = re.findall(r'^\[\S+\] "- - -" 0 (\S+) (\d+) (\d+) ', proxy.log_text(), re.MULTILINE)
    assert sorted(lines) == [("-", "6", "6"), ("-", "8", "12"), ("DC", "8", "12")]


def test_a_client_that_is_reset_is_a_reset_for_the_endpoint(short_path: Path) -> None:
    """Sockets of the whole proxy: half a dump must not look like all of it, in either direction."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(60)
        config = f"""
listeners: [{{name: db, address: "127.0.0.1:0", tcp: {{cluster: db}}}}]
clusters: [{{name: db, endpoints: ["127.0.0.1:{listening.getsockname()[1]}"]}}]
"""
        with instance(short_path, config, "--workers", "1") as proxy:
            for broken in ("client", "endpoint"):
                client = clients.connect(proxy.port("db"))
                endpoint, _ = listening.accept()
                endpoint.settimeout(60)
                one, other = (client, endpoint) if broken == "client" else (endpoint, client)
                with one, other:
                    one.sendall(b"half")
                    assert other.recv(100) == b"half"
                    proxy.reload()
                    one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
                    one.close()
                    with pytest.raises(ConnectionResetError):
                        other.recv(1)


def test_a_proxy_header_then_a_server_name_then_a_proxy_header(short_path: Path) -> None:
    """Announced by a balancer, sent on by name without decrypting, announced to the endpoint: in pieces that fit
    nothing, over a reload in the middle of the hello."""
    import ssl

    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(incoming, outgoing, server_hostname="api.example.com").do_handshake()
    hello = outgoing.read()
    header = encode(2, "192.0.2.1:5000", "192.0.2.2:443", b"\x02\x00\x0fapi.example.com\x03\x00\x04sum!")
    with (
        RecordingOrigin(lambda number, so_far: b"!" if so_far.endswith(hello) else None) as api,
        RecordingOrigin(lambda number, so_far: b"?") as rest,
    ):
        config = f"""
listeners:
  - name: tls
    address: 127.0.0.1:0
    proxy_protocol: {{trusted: ["127.0.0.1"]}}
    listener_filters_timeout: 0s
    tcp: {{routes: [{{sni: ["*.example.com"], cluster: api}}], cluster: rest}}
clusters:
  - {{name: api, endpoints: ["{api.address}"], proxy_protocol: {{version: v2, pass_through_tlvs: all}}}}
  - {{name: rest, endpoints: ["{rest.address}"]}}
"""
        with instance(short_path, config, "--workers", "1") as proxy, clients.connect(proxy.port("tls")) as sock:
            sock.sendall(header[:20])
            proxy.reload()
            sock.sendall(header[20:] + hello[:50])
            eventually(lambda: proxy.stats()["proxy_proto.tls.versions.v2.found"] == 1, "the header")
            proxy.reload()
            sock.sendall(hello[50:])
            assert sock.recv(10) == b"!"
            (received,) = api.received
            found = parse(bytes(received))
            assert isinstance(found, Announced) and found.remote == "192.0.2.1:5000"
            assert received == header + hello  # its checksum too: it is the same header
            assert proxy.stats()["server.handoff_refused"] == 0
        assert rest.received == []
