"""Endpoints know how to be reached without asking anybody."""

from __future__ import annotations

import socket

import pytest

from hotproxy.config.address import Address
from hotproxy.upstream.endpoint import Endpoint


@pytest.mark.parametrize(
    ("text", "family", "sockaddr"),
    [
        ("127.0.0.1:80", socket.AF_INET, ("127.0.0.1", 80)),
        ("[::1]:80", socket.AF_INET6, ("::1", 80)),
        ("unix:/run/app.sock", socket.AF_UNIX, "/run/app.sock"),
    ],
)
def test_where_it_is(text, family, sockaddr):
    endpoint = Endpoint(Address.parse(text), 2)
    assert (endpoint.family, endpoint.sockaddr, endpoint.name, endpoint.weight) == (family, sockaddr, text, 2)


@pytest.mark.parametrize(
    ("text", "authority"),
    [("127.0.0.1:80", b"127.0.0.1:80"), ("[::1]:80", b"[::1]:80"), ("unix:/run/app.sock", b"localhost")],
)
def test_what_host_says_without_one(text, authority):
    """HTTP/1.0: nginx as an origin answers 400 to an empty Host."""
    assert Endpoint(Address.parse(text)).authority == authority


def test_a_name_is_refused():
    with pytest.raises(ValueError, match=r"example\.org:80 is no IP address"):
        Endpoint(Address.parse("example.org:80"))
