"""Addresses: what is accepted, and how it is written back."""

from __future__ import annotations

import pytest

from hotproxy.config.address import TCP, UNIX, Address, AddressError


@pytest.mark.parametrize(
    ("text", "host", "port", "canonical"),
    [
        ("127.0.0.1:80", "127.0.0.1", 80, "127.0.0.1:80"),
        (":8080", "", 8080, ":8080"),
        ("0.0.0.0:0", "0.0.0.0", 0, "0.0.0.0:0"),
        ("[::1]:80", "::1", 80, "[::1]:80"),
        ("[2001:DB8:0:0::1]:080", "2001:db8::1", 80, "[2001:db8::1]:80"),
        ("[::ffff:1.2.3.4]:1", "::ffff:102:304", 1, "[::ffff:102:304]:1"),
        ("Example.ORG:65535", "example.org", 65535, "example.org:65535"),
    ],
)
def test_tcp(text: str, host: str, port: int, canonical: str) -> None:
    address = Address.parse(text)
    assert (address.family, address.host, address.port) == (TCP, host, port)
    assert str(address) == canonical
    assert Address.parse(canonical) == address
    assert hash(Address.parse(canonical)) == hash(address)


def test_unix() -> None:
    address = Address.parse("unix:/run/a b.sock")
    assert (address.family, address.path, address.mode) == (UNIX, "/run/a b.sock", 0o660)
    assert str(address) == "unix:/run/a b.sock"


@pytest.mark.parametrize(
    "text",
    [
        "", ":", "80", "127.0.0.1", "127.0.0.1:", "127.0.0.1:x", "127.0.0.1:-1", "127.0.0.1:65536", "127.0.0.1:٣",
        "256.0.0.1:80", "1.2.3:80", "::1", "::1:80", "[::1]", "[::1]80", "[1.2.3.4]:80", "[x]:80", "[]:80", "*:80",
        "http://a:80", "a b:80", "-a:80", "a..b:80", "unix:", "unix:run/x", "unix:@abstract", "unix:/run/",
        "unix:/" + "x" * 107, "unix:/a\0b", "/run/x.sock", "a:1:2",
    ],
)  # fmt: skip
def test_refused(text: str) -> None:
    with pytest.raises(AddressError):
        Address.parse(text)


def test_a_password_in_a_url_is_not_repeated() -> None:
    with pytest.raises(AddressError) as caught:
        Address.parse("http://joe:hunter2@example.org:80/")
    assert "hunter2" not in str(caught.value) + caught.value.hint


@pytest.mark.parametrize(
    ("text", "is_name"), [("a.org:80", True), ("1.1.1.1:80", False), (":80", False), ("unix:/a", False)]
)
def test_names_need_resolving(text: str, is_name: bool) -> None:
    assert Address.parse(text).is_name is is_name
