"""Names that the clients of unix sockets give themselves."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from hotproxy.net.proxy_protocol import V1, V2, Announced, encode, parse
from hotproxy.net.unix_text import unix_text
from hotproxy.proxy.filter_chain import address_text
from hotproxy.proxy.forwarding import client_host


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("", ""),
        ("/run/a.sock", "/run/a.sock"),
        ("@abstract", "@abstract"),
        ("a.sock", "./a.sock"),
        ("10.0.0.1:80", "./10.0.0.1:80"),
        ("/run/a\nb\x1b[2J", "/run/a?b?[2J"),
        ("\r\n", "./??"),
    ],
)
def test_names(path: str, text: str) -> None:
    assert unix_text(path) == text


@pytest.mark.parametrize("name", ["10.9.9.9:80", "[2001:db8::1]:80", "10.9.9.9:80\n", "a, 10.9.9.9:80"])
def test_a_client_cannot_call_itself_an_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Its end bound to a file of that name, a client of a unix socket was 10.9.9.9 for x-forwarded-for, for the access
    log and for the endpoint that gets a PROXY header."""
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as listening, socket.socket(socket.AF_UNIX) as client:
        listening.bind("listening")
        listening.listen()
        client.bind(name)
        client.connect("listening")
        accepted, address = listening.accept()
        accepted.close()
    peer = address_text(address)
    assert peer.startswith("./") and peer.isprintable()
    assert client_host(peer) == b""
    for version in (V1, V2):
        found = parse(encode(version, peer, "127.0.0.1:80"))
        assert isinstance(found, Announced) and not found.known


def test_nor_can_the_client_of_a_trusted_proxy() -> None:
    body = b"10.9.9.9:80".ljust(108, b"\0") + b"/run/hotproxy.sock".ljust(108, b"\0")
    found = parse(b"\r\n\r\n\0\r\nQUIT\n\x21\x31\x00\xd8" + body)
    assert isinstance(found, Announced) and found.remote == "./10.9.9.9:80"
    assert client_host(found.remote) == b""
