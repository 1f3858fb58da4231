"""PROXY headers of both versions: each form of the specification, byte by byte; broken ones; any bytes at all."""

from __future__ import annotations

import itertools
import socket
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hotproxy.net.proxy_protocol import (
    MAX_PASSED_BYTES,
    MAX_V1_BYTES,
    SIGNATURE_V2,
    Announced,
    Misfit,
    crc32c,
    encode,
    parse,
    passed_on,
)
from hotproxy.telemetry import proxy_tlvs

PROXY, LOCAL = 0x21, 0x20
TCP4, TCP6, UNIX, NOTHING = 0x11, 0x21, 0x31, 0x00
V4 = socket.inet_aton("192.0.2.1") + socket.inet_aton("192.0.2.2") + struct.pack("!HH", 56324, 443)
V6 = socket.inet_pton(socket.AF_INET6, "2001:db8::1") + bytes(15) + b"\x01" + struct.pack("!HH", 1, 65535)


def v2(command: int, family: int, body: bytes, length: int | None = None) -> bytes:
    return SIGNATURE_V2 + bytes((command, family)) + struct.pack("!H", len(body) if length is None else length) + body


def tlv(kind: int, value: bytes) -> bytes:
    return bytes((kind,)) + struct.pack("!H", len(value)) + value


def path(text: bytes) -> bytes:
    return text.ljust(108, b"\0")


def checked(body: bytes, family: int = TCP4) -> bytes:
    """With its checksum as the last TLV."""
    header = bytearray(v2(PROXY, family, body + tlv(proxy_tlvs.CRC32C, bytes(4))))
    header[-4:] = struct.pack("!I", crc32c(bytes(header)))
    return bytes(header)


SSL = tlv(0x20, b"\x07" + bytes(4) + tlv(0x21, b"TLSv1.3") + tlv(0x22, b"anna"))
UNKNOWN_LONG = b"PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n"

HEADERS = [
    (b"PROXY TCP4 192.0.2.1 192.0.2.2 56324 443\r\n", "192.0.2.1:56324", "192.0.2.2:443", b""),
    (b"PROXY TCP4 0.0.0.0 255.255.255.255 0 65535\r\n", "0.0.0.0:0", "255.255.255.255:65535", b""),
    (b"PROXY TCP6 2001:DB8:0:0::1 ::1 1 2\r\n", "[2001:db8::1]:1", "[::1]:2", b""),
    (b"PROXY TCP6 ::ffff:192.0.2.1 ::ffff:192.0.2.2 1 2\r\n", "192.0.2.1:1", "192.0.2.2:2", b""),
    (b"PROXY UNKNOWN\r\n", None, None, b""),
    (UNKNOWN_LONG, None, None, b""),
    (b"PROXY UNKNOWN " + b"x" * (MAX_V1_BYTES - 16) + b"\r\n", None, None, b""),
    (v2(PROXY, TCP4, V4), "192.0.2.1:56324", "192.0.2.2:443", b""),
    (v2(PROXY, TCP6, V6), "[2001:db8::1]:1", "[::1]:65535", b""),
    (v2(PROXY, UNIX, path(b"/run/a.sock") + path(b"")), "/run/a.sock", "", b""),
    (v2(PROXY, UNIX, path(b"/run/\n") + path(b"\xff" * 108)), "", "./" + "�" * 108, b""),
    (v2(LOCAL, NOTHING, b""), None, None, b""),
    (v2(LOCAL, TCP4, V4 + SSL), None, None, b""),
    (v2(LOCAL, UNIX, b"whatever"), None, None, b""),
    (v2(LOCAL, 0xFF, b"of no family at all"), None, None, b""),
    (v2(PROXY, NOTHING, b""), None, None, b""),
    (v2(PROXY, NOTHING, b"anything"), None, None, b""),
    (v2(PROXY, TCP4, V4 + tlv(0x02, b"example.org")), "192.0.2.1:56324", "192.0.2.2:443", tlv(0x02, b"example.org")),
    (v2(PROXY, TCP4, V4 + SSL + tlv(0xEA, b"")), "192.0.2.1:56324", "192.0.2.2:443", SSL + tlv(0xEA, b"")),
    (v2(PROXY, TCP4, V4 + tlv(0x05, bytes(128))), "192.0.2.1:56324", "192.0.2.2:443", tlv(0x05, bytes(128))),
]


@pytest.mark.parametrize(("header", "remote", "local", "tlvs"), HEADERS)
def test_each_form_in_pieces_of_any_size(header: bytes, remote: str | None, local: str | None, tlvs: bytes) -> None:
    for size in range(len(header)):
        assert parse(header[:size]) is None, size
    for behind in (b"", b"G", b"\r\n", header):
        found = parse(header + behind)
        assert isinstance(found, Announced)
        assert found.size == len(header)
        assert found.known == (remote is not None)
        assert (found.remote, found.local) == (remote or "", local or "")
        assert found.tlvs == tlvs
        assert found.version == (1 if header.startswith(b"PROXY") else 2)


def test_the_largest_header_there_can_be() -> None:
    header = v2(PROXY, TCP4, V4 + tlv(0xE0, bytes(65535 - 12 - 3)))
    found = parse(header + b"x")
    assert isinstance(found, Announced) and found.size == 16 + 65535
    assert parse(header[:-1]) is None


@pytest.mark.parametrize(
    ("header", "version"),
    [
        (b"GET / HTTP/1.1\r\n", 0), (b"PROXX", 0), (b"proxy TCP4", 0), (b"\r\n\r\nGET", 0), (b"\x00", 0),
        (b" PROXY ", 0),
        (b"PROXY TCP4 192.0.2.1 192.0.2.2 56324 443 \r\n", 1),
        (b"PROXY  TCP4 192.0.2.1 192.0.2.2 56324 443\r\n", 1),
        (b"PROXY TCP4 192.0.2.1 192.0.2.2 56324\r\n", 1),
        (b"PROXY TCP4 192.0.2.1 192.0.2.2 65536 443\r\n", 1),
        (b"PROXY TCP4 192.0.2.1 192.0.2.2 056 443\r\n", 1),
        (b"PROXY TCP4 192.0.2.1 192.0.2.2 +1 443\r\n", 1),
        (b"PROXY TCP4 192.0.2.1 192.0.2.2 1_0 443\r\n", 1),
        (b"PROXY TCP4 192.0.2.1 192.0.2.2 \xb2 443\r\n", 1),
        (b"PROXY TCP4 192.0.2.1 192.0.2.2  443\r\n", 1),
        (b"PROXY TCP4 192.0.2.01 192.0.2.2 1 2\r\n", 1),
        (b"PROXY TCP4 192.0.2 192.0.2.2 1 2\r\n", 1),
        (b"PROXY TCP4 ::1 ::1 1 2\r\n", 1),
        (b"PROXY TCP6 192.0.2.1 ::1 1 2\r\n", 1),
        (b"PROXY TCP6 fe80::1%lo ::1 1 2\r\n", 1),
        (b"PROXY TCP4 192.0.2.1\x00 192.0.2.2 1 2\r\n", 1),
        (b"PROXY TCP4 \xff 192.0.2.2 1 2\r\n", 1),
        (b"PROXY UDP4 192.0.2.1 192.0.2.2 1 2\r\n", 1),
        (b"PROXY \r\n", 1), (b"PROXY TCP4\r\n", 1),
        (b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\nGET / HTTP/1.1\r\n", 1),
        (b"PROXY UNKNOWN" + b"x" * 100, 1),
        (b"PROXY TCP4" + b" " * 97, 1),
        (v2(0x11, TCP4, V4), 2), (v2(0x31, TCP4, V4), 2), (v2(0x22, TCP4, V4), 2), (v2(0x2F, TCP4, V4), 2),
        (v2(PROXY, 0x41, V4), 2), (v2(PROXY, 0x13, V4), 2), (v2(PROXY, 0xFF, b""), 2),
        (v2(PROXY, 0x12, V4), 2),  # datagrams
        (v2(PROXY, TCP4, V4[:-1]), 2), (v2(PROXY, TCP6, V4), 2), (v2(PROXY, UNIX, V6), 2), (v2(PROXY, TCP4, b""), 2),
        (v2(PROXY, TCP4, V4 + b"\x01"), 2), (v2(PROXY, TCP4, V4 + b"\x01\x00"), 2),
        (v2(PROXY, TCP4, V4 + b"\x01\x00\x05h2"), 2),
        (v2(PROXY, TCP4, V4 + tlv(0x05, bytes(129))), 2),
        (v2(PROXY, TCP4, V4 + tlv(0x20, b"\x01\x00")), 2),
        (v2(PROXY, TCP4, V4 + tlv(0x20, bytes(5) + b"\x21\x00\x09x")), 2),
        (v2(PROXY, TCP4, V4 + tlv(0x03, bytes(4))), 2), (v2(PROXY, TCP4, V4 + tlv(0x03, b"")), 2),
        (checked(V4)[:-1] + bytes((checked(V4)[-1] ^ 1,)), 2),
    ],
)  # fmt: skip
def test_what_breaks_the_rules_is_refused_as_soon_as_it_shows(header: bytes, version: int) -> None:
    found = parse(header)
    assert isinstance(found, Misfit) and found.version == version and found.why
    verdicts = [parse(header[:size]) for size in range(1, len(header) + 1)]
    assert not any(isinstance(verdict, Announced) for verdict in verdicts)
    refused = [isinstance(verdict, Misfit) for verdict in verdicts]
    assert refused == sorted(refused), "a refusal that was taken back"


def test_the_checksum_is_that_of_the_rfc() -> None:
    # RFC 3720, appendix B.4.
    assert crc32c(bytes(32)) == 0x8A9136AA
    assert crc32c(b"\xff" * 32) == 0x62A8AB43
    assert crc32c(bytes(range(32))) == 0x46DD794E


@given(st.binary(max_size=40), st.integers(0), st.integers(1, 255))
def test_a_checksum_finds_any_wrong_byte(value: bytes, at: int, change: int) -> None:
    header = bytearray(checked(V4 + tlv(0xEA, value)))
    found = parse(bytes(header))
    assert isinstance(found, Announced) and proxy_tlvs.find(found.tlvs, 0xEA) == value
    at = 16 + at % (len(header) - 16)
    header[at] ^= change
    found = parse(bytes(header))
    if isinstance(found, Announced):  # the type of a TLV: there is no checksum any more, or it is another one
        assert at == len(header) - 7


ports = st.integers(0, 65535)
v4_ends = st.builds(lambda host, port: f"{host}:{port}", st.ip_addresses(v=4), ports)
v6_ends = st.builds(
    lambda host, port: f"[{host}]:{port}", st.ip_addresses(v=6).filter(lambda host: host.ipv4_mapped is None), ports
)


@given(st.one_of(st.tuples(v4_ends, v4_ends), st.tuples(v6_ends, v6_ends)), st.sampled_from([1, 2]), st.binary())
def test_what_is_written_is_read(ends: tuple[str, str], version: int, rest: bytes) -> None:
    header = encode(version, *ends)
    assert len(header) <= (MAX_V1_BYTES if version == 1 else 52)
    found = parse(header + rest)
    assert isinstance(found, Announced)
    assert (found.version, found.size, found.known) == (version, len(header), True)
    assert [_same(one) for one in (found.remote, found.local)] == [_same(one) for one in ends]


def _same(address: str) -> tuple[bytes, str]:
    """However it is spelled: Python and the C library shorten ::1.2.3.4 differently."""
    host, _, port = address.rpartition(":")
    return socket.inet_pton(socket.AF_INET6 if "[" in host else socket.AF_INET, host.strip("[]")), port


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize(
    ("remote", "local"),
    [
        pair
        for pair in itertools.permutations(["1.2.3.4:5", "[::1]:5", "", "/run/x", "@x"], 2)
        if {*pair} & {"", "/run/x", "@x"}
    ],
)
def test_ends_that_are_not_two_of_tcp_are_not_named(version: int, remote: str, local: str) -> None:
    found = parse(encode(version, remote, local))
    assert isinstance(found, Announced) and not found.known


def test_a_zone_is_no_part_of_an_address_elsewhere() -> None:
    found = parse(encode(2, "[fe80::1%eth0]:5", "[fe80::2%eth0]:6"))
    assert isinstance(found, Announced) and (found.remote, found.local) == ("[fe80::1]:5", "[fe80::2]:6")


@st.composite
def nearly_headers(draw: st.DrawFn) -> bytes:
    """A header with some of its bytes changed, taken out, or doubled; and something behind it."""
    header = bytearray(draw(st.sampled_from([each[0] for each in HEADERS] + [checked(V4 + SSL)])))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, max(0, len(header) - 1)))
        what = draw(st.sampled_from(["change", "remove", "double"]))
        if what == "change" and header:
            header[at] = draw(st.integers(0, 255))
        elif what == "remove":
            del header[at : at + draw(st.integers(1, 4))]
        else:
            header[at:at] = header[at : at + draw(st.integers(1, 4))]
    return bytes(header) + draw(st.binary(max_size=20))


@given(st.one_of(nearly_headers(), st.binary(max_size=300), st.binary(max_size=40).map(lambda b: SIGNATURE_V2 + b)))
@settings(max_examples=500)
def test_any_bytes_have_one_verdict_however_they_come(data: bytes) -> None:
    """The first verdict is the last one, its text can be logged, and it never takes more than there is."""
    whole = parse(data)
    for size in range(len(data) + 1):
        found = parse(data[:size])
        if found is None:
            continue
        assert type(found) is type(whole)
        if isinstance(found, Announced) and isinstance(whole, Announced):
            assert found.size == whole.size == size
            assert (found.remote, found.local, found.tlvs) == (whole.remote, whole.local, whole.tlvs)
            assert found.remote.isprintable() and found.local.isprintable()
        break
    else:
        assert whole is None


TLVS = st.lists(
    st.tuples(st.integers(0, 255).filter(lambda kind: kind not in (3, 5, 0x20)), st.binary(max_size=1500)), max_size=6
)


@given(TLVS, st.frozensets(st.integers(0, 255)), st.booleans(), st.sampled_from(["192.0.2.1:5", "[::1]:5", "/run/a"]))
def test_tlvs_that_are_passed_on(found: list[tuple[int, bytes]], kinds: frozenset[int], sums: bool, end: str) -> None:
    """Whole ones of these types in their order, never more than nginx reads, and with a checksum that is right."""
    chosen = [tlv(kind, value) for kind, value in found]
    tlvs = b"".join(chosen) + (tlv(3, b"old!") if sums else b"")
    passed = passed_on(tlvs, kinds)
    header = encode(2, end, end, passed)
    assert len(header) <= 4096
    again = parse(header)
    assert isinstance(again, Announced) and again.size == len(header)
    if end == "/run/a":
        return
    wanted = b"".join(part for part in chosen if part[0] in kinds)
    if len(wanted) + 7 <= MAX_PASSED_BYTES:
        assert again.tlvs.startswith(wanted)
        assert len(again.tlvs) == len(wanted) + (7 if sums and 3 in kinds else 0)


def test_what_does_not_fit_is_left_off_alone() -> None:
    large, small = tlv(0xEA, bytes(MAX_PASSED_BYTES)), tlv(2, b"a.example")
    assert passed_on(large + small, frozenset({0xEA, 2})) == small
    assert passed_on(small + large + small, frozenset({0xEA, 2})) == small + small


@pytest.mark.parametrize(("remote", "local"), [("192.0.2.1:5", "[2001:db8::1]:6"), ("[2001:db8::1]:5", "192.0.2.1:6")])
@pytest.mark.parametrize("version", [1, 2])
def test_ends_of_two_families_are_written_in_one(version: int, remote: str, local: str) -> None:
    """A header of version 1 with TCP6 may say so; what was read as IPv4 was forgotten then, and the client with it."""
    found = parse(encode(version, remote, local))
    assert isinstance(found, Announced) and (found.remote, found.local) == (remote, local)
