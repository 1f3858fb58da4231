"""The server name in a ClientHello: OpenSSL's own, cut into records and pieces of any size; hostile ones; any bytes."""

from __future__ import annotations

import ssl
import struct
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hotproxy.net.client_hello import MAX_BYTES, MAX_HELLO_BYTES, OTHER, PENDING, TOO_LARGE, WHOLE, ClientHelloReader

NAME = "db.example.com"


@cache
def openssl_hello(name: str | None, **versions: ssl.TLSVersion) -> bytes:
    """What a client says first, as one record."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2", "http/1.1"])
    for which, version in versions.items():
        setattr(context, which, version)
    out = ssl.MemoryBIO()
    client = context.wrap_bio(ssl.MemoryBIO(), out, server_hostname=name)
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return out.read()


def record(body: bytes, kind: int = 22, version: int = 0x0301) -> bytes:
    return struct.pack("!BHH", kind, version, len(body)) + body


def records(hello: bytes, size: int) -> bytes:
    """The message of a whole record in records of `size` bytes."""
    body = hello[5:]
    return b"".join(record(body[at : at + size]) for at in range(0, len(body), size))


def vector(width: int, body: bytes) -> bytes:
    return len(body).to_bytes(width, "big") + body


def extension(kind: int, body: bytes) -> bytes:
    return struct.pack("!H", kind) + vector(2, body)


def sni(*names: bytes, kind: int = 0) -> bytes:
    return extension(0, vector(2, b"".join(bytes((kind,)) + vector(2, name) for name in names)))


def message(extensions: bytes | None, session: bytes = b"", kind: int = 1) -> bytes:
    body = b"\x03\x03" + bytes(32) + vector(1, session) + vector(2, b"\x13\x01") + vector(1, b"\x00")
    if extensions is not None:
        body += vector(2, extensions)
    return record(bytes((kind,)) + vector(3, body))


def read(data: bytes) -> tuple[int, str]:
    reader = ClientHelloReader()
    return reader.read(data), reader.server_name


def read_in_pieces(data: bytes, size: int) -> tuple[int, str]:
    """One reader that is given more and more, until it has an answer."""
    reader = ClientHelloReader()
    came = bytearray()
    for at in range(0, len(data), size):
        came += data[at : at + size]
        found = reader.read(came)
        if found != PENDING:
            return found, reader.server_name
    return PENDING, ""


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("piece", [1, 2, 5, 6, 100, 10_000])
@pytest.mark.parametrize("size", [1, 3, 4, 5, 43, 100, 1000])
def test_openssl_in_records_and_pieces_of_any_size(version: ssl.TLSVersion, piece: int, size: int) -> None:
    hello = openssl_hello(NAME, minimum_version=version, maximum_version=version)
    whole = records(hello, size)
    assert read_in_pieces(whole + b"more", piece) == (WHOLE, NAME)
    for end in range(0, len(whole), 97):
        assert read(whole[:end]) == (PENDING, "")


def test_a_client_that_names_nobody() -> None:
    assert read(openssl_hello(None)) == (WHOLE, "")
    assert read(message(None)) == (WHOLE, "")
    assert read(message(b"")) == (WHOLE, "")
    assert read(message(extension(10, b"x"))) == (WHOLE, "")


@pytest.mark.parametrize(
    ("name", "seen"),
    [(b"DB.Example.COM", NAME), (b"db.example.com.", NAME), (b"a", "a"), (b"x" * 255, "x" * 255), (b"*.a", "*.a")],
)
def test_names_are_compared_in_lower_case_and_without_the_last_dot(name: bytes, seen: str) -> None:
    assert read(message(extension(16, b"h2") + sni(name))) == (WHOLE, seen)
    assert read(message(sni(name) + extension(16, b"h2"), session=bytes(32))) == (WHOLE, seen)


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n", b"\x80\x2e\x01\x03\x01", b"\x16\x02", b"\x15\x03\x01\x00\x02\x01\x00", b"SSH-2.0-x\r\n",
        record(b""), record(bytes(16)), b"\x16\x03\x01\xff\xff", record(b"\x02\x00\x00\x01x"),
        message(sni(b"")), message(sni(b"x" * 256)), message(sni(b"caf\xc3\xa9")), message(sni(b"a b")),
        message(sni(b"a\x00b")), message(sni(b".")), message(extension(0, b"")), message(sni(b"x", kind=1)),
        message(extension(0, b"\x00\x09\x00\x00\x01x")), message(extension(0, b"\x00\x04\x00\x00\x05x")),
        message(b"\x00\x00\x00\x09x"), message(b"\x00"), message(sni(b"a"), kind=2),
        record(b"\x01" + vector(3, b"\x03\x03")), record(b"\x01" + vector(3, b"\x03\x03" + bytes(32) + b"\xff")),
        record(b"\x01" + vector(3, b"\x03\x03" + bytes(32) + b"\x00\xff\xff")),
    ],
)  # fmt: skip
def test_what_no_server_would_take_is_something_else(data: bytes) -> None:
    assert read(data)[0] == OTHER
    assert read_in_pieces(data, 1)[0] == OTHER


def test_a_second_name_of_the_same_kind_is_not_looked_at() -> None:
    assert read(message(sni(b"a", b"b"))) == (WHOLE, "a")


def test_limits_come_first() -> None:
    assert read(record(b"\x01" + (MAX_HELLO_BYTES + 1).to_bytes(3, "big")))[0] == TOO_LARGE
    at_most = message(sni(b"a") + extension(21, bytes(MAX_HELLO_BYTES - 100)))
    assert read(at_most) == (WHOLE, "a")
    one_by_one = b"".join(record(bytes((byte,))) for byte in b"\x01\x00\x3f\xff" + bytes(MAX_HELLO_BYTES))
    assert read_in_pieces(one_by_one[: MAX_BYTES - 100], 100)[0] == PENDING
    assert read_in_pieces(one_by_one, 100)[0] == TOO_LARGE


@st.composite
def nearly_hellos(draw: st.DrawFn) -> bytes:
    hello = bytearray(
        records(draw(st.sampled_from([openssl_hello(NAME), message(sni(b"a"))])), draw(st.integers(1, 600)))
    )
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(hello) - 1))
        if draw(st.booleans()):
            hello[at] = draw(st.integers(0, 255))
        else:
            del hello[at]
    return bytes(hello)


@given(st.one_of(nearly_hellos(), st.binary(max_size=200), st.binary(max_size=100).map(record)), st.integers(1, 50))
@settings(max_examples=300, deadline=None)
def test_any_bytes_have_one_verdict_however_they_come(data: bytes, piece: int) -> None:
    whole = read(data)
    assert read_in_pieces(data, piece) == whole
    assert whole[1] == whole[1].lower() and whole[1].isprintable()
    assert whole[0] == WHOLE or not whole[1]
