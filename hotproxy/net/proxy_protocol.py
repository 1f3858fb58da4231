r"""The PROXY protocol, versions 1 and 2: what a proxy in front of us says about its client, and what we say about ours.

    PROXY TCP4 192.0.2.1 192.0.2.2 50000 443\r\n                                        version 1, at most 107 bytes
    \r\n\r\n\0\r\nQUIT\n  version|command  family|transport  length  addresses  TLVs    version 2

Source: proxy-protocol.txt of HAProxy. `parse` is given all that has come so far, however it came, and remembers
nothing: so half a header travels to another process as the bytes that it is.
"""

from __future__ import annotations

import socket
from typing import Final

from hotproxy.net.unix_text import unix_text
from hotproxy.telemetry import proxy_tlvs

V1: Final = 1
V2: Final = 2

SIGNATURE_V1: Final = b"PROXY "
SIGNATURE_V2: Final = b"\r\n\r\n\x00\r\nQUIT\n"
# Section 2.1: "a 108-byte buffer is always enough to store all the line and a trailing zero".
MAX_V1_BYTES: Final = 107
HEAD_V2_BYTES: Final = 16

# Of TLVs that are passed on. nginx reads headers of up to 4096 bytes, HAProxy and Envoy longer ones.
MAX_PASSED_BYTES: Final = 4096 - HEAD_V2_BYTES - 36

_LOCAL: Final = 0
_PROXY: Final = 1
_UNSPEC: Final = 0
_INET: Final = 1
_INET6: Final = 2
_UNIX: Final = 3
_STREAM: Final = 1
# By family: source and destination, with their ports.
_ADDRESS_BYTES: Final = (0, 12, 36, 216)
_UNIX_PATH_BYTES: Final = 108
# Section 2.2.8.
_MAX_UNIQUE_ID_BYTES: Final = 128
_MAX_PORT: Final = 65535
_MAPPED: Final = "::ffff:"


class Announced:
    """A whole header. `remote` and `local` are the client's two ends as text, "10.0.0.1:1234", "[::1]:80" or the path
    of a unix socket; `known` is False where the header names none, and the connection's own ends count."""

    __slots__ = ("known", "local", "remote", "size", "tlvs", "version")

    def __init__(self, version: int, size: int, known: bool, remote: str, local: str, tlvs: bytes) -> None:
        self.version = version
        self.size = size  # bytes of the header
        self.known = known
        self.remote = remote
        self.local = local
        self.tlvs = tlvs


class Misfit:
    """Not what it should be. `version` 0: no header at all, not even the beginning of one."""

    __slots__ = ("version", "why")

    def __init__(self, version: int, why: str) -> None:
        self.version = version
        self.why = why


def parse(data: bytes) -> Announced | Misfit | None:
    """The header that `data` begins with. None: so far it may be one, and is not complete."""
    if data.startswith(SIGNATURE_V2):
        return _parse_v2(data)
    if data.startswith(SIGNATURE_V1):
        return _parse_v1(data)
    if SIGNATURE_V2.startswith(data) or SIGNATURE_V1.startswith(data):
        return None
    return Misfit(0, "no PROXY header")


def _parse_v1(data: bytes) -> Announced | Misfit | None:
    end = data.find(b"\r\n", 0, MAX_V1_BYTES)
    if end < 0:
        # A lone carriage return may be all that has come of the end of the line.
        return None if len(data) < MAX_V1_BYTES else Misfit(V1, "a line of more than 107 bytes")
    size = end + 2
    words = data[len(SIGNATURE_V1) : end].split(b" ")
    if words[0] == b"UNKNOWN":  # "the receiver must ignore anything presented before the CRLF is found"
        return Announced(V1, size, False, "", "", b"")
    if words[0] == b"TCP4":
        family = socket.AF_INET
    elif words[0] == b"TCP6":
        family = socket.AF_INET6
    else:
        return Misfit(V1, "neither TCP4, TCP6 nor UNKNOWN")
    if len(words) != 5:
        return Misfit(V1, "not two addresses and two ports")
    remote = _v1_end(family, words[1], words[3])
    local = _v1_end(family, words[2], words[4])
    if not remote or not local:
        return Misfit(V1, "an address or a port that is none")
    return Announced(V1, size, True, remote, local, b"")


def _v1_end(family: int, host: bytes, port: bytes) -> str:
    """One end as text; "" for what is none."""
    # "0" alone may begin with a zero; int() would also take signs, spaces and underscores.
    if not port.isdigit() or len(port) > 5 or (port[0] == 0x30 and len(port) > 1) or int(port) > _MAX_PORT:
        return ""
    try:
        packed = socket.inet_pton(family, host.decode("ascii"))
    except (OSError, ValueError):  # a NUL byte, or no ASCII, is a ValueError
        return ""
    return _text(family, packed, int(port))


def _parse_v2(data: bytes) -> Announced | Misfit | None:
    if len(data) < HEAD_V2_BYTES:
        return None
    version, command = data[12] >> 4, data[12] & 0x0F
    family, transport = data[13] >> 4, data[13] & 0x0F
    if version != V2:
        return Misfit(V2, f"version {version}")
    if command > _PROXY:
        return Misfit(V2, f"the unknown command {command}")
    if command == _PROXY and (family > _UNIX or transport > 2):  # of LOCAL "the family which is ignored"
        return Misfit(V2, f"the unknown family and transport {data[13]:#04x}")
    size = HEAD_V2_BYTES + int.from_bytes(data[14:16], "big")
    # Who says LOCAL, or cannot name its client's ends, is a peer in its own name: what follows is skipped.
    named = command == _PROXY and family != _UNSPEC and transport != _UNSPEC
    if named and transport != _STREAM:
        return Misfit(V2, "datagrams over a stream")
    addresses_end = HEAD_V2_BYTES + (_ADDRESS_BYTES[family] if named else 0)
    if size < addresses_end:
        return Misfit(V2, "too short for its addresses")
    if len(data) < size:
        return None
    if not named:
        return Announced(V2, size, False, "", "", b"")
    header = data[:size]
    why = _check_tlvs(header, addresses_end)
    if why:
        return Misfit(V2, why)
    remote, local = _v2_ends(family, header)
    return Announced(V2, size, True, remote, local, header[addresses_end:])


def _v2_ends(family: int, header: bytes) -> tuple[str, str]:
    at = HEAD_V2_BYTES
    if family == _UNIX:
        middle = at + _UNIX_PATH_BYTES
        return _path(header[at:middle]), _path(header[middle : middle + _UNIX_PATH_BYTES])
    number, host = (socket.AF_INET, 4) if family == _INET else (socket.AF_INET6, 16)
    ports = at + 2 * host
    remote_port = int.from_bytes(header[ports : ports + 2], "big")
    local_port = int.from_bytes(header[ports + 2 : ports + 4], "big")
    return (
        _text(number, header[at : at + host], remote_port),
        _text(number, header[at + host : at + 2 * host], local_port),
    )


def _text(family: int, packed: bytes, port: int) -> str:
    """As `filter_chain.address_text`: an IPv4 client of a dual-stack socket is an IPv4 client."""
    host = socket.inet_ntop(family, packed)
    if family == socket.AF_INET:
        return f"{host}:{port}"
    if host.startswith(_MAPPED) and "." in host:
        return f"{host[len(_MAPPED) :]}:{port}"
    return f"[{host}]:{port}"


def _path(padded: bytes) -> str:
    """Of a unix socket; "" for one without a name, or with one that no log can show."""
    text = padded.partition(b"\x00")[0].decode("utf-8", "replace")
    return unix_text(text) if text.isprintable() else ""


def _check_tlvs(header: bytes, start: int) -> str:
    """What is wrong with the TLVs, "" for nothing: every one is whole, and the checksum is right where there is one."""
    at, size = start, len(header)
    checksum_at = 0
    while at < size:
        if at + 3 > size:
            return "half a TLV"
        kind = header[at]
        value = at + 3
        at = value + int.from_bytes(header[at + 1 : value], "big")
        if at > size:
            return "a TLV that is longer than the header"
        if kind == proxy_tlvs.CRC32C:
            if checksum_at or at - value != 4:
                return "a checksum that is none"
            checksum_at = value
        elif kind == proxy_tlvs.UNIQUE_ID and at - value > _MAX_UNIQUE_ID_BYTES:
            return "a unique id of more than 128 bytes"
        elif kind == proxy_tlvs.SSL and not _is_ssl(header, value, at):
            return "a TLV of TLS that is none"
    if checksum_at:
        given = int.from_bytes(header[checksum_at : checksum_at + 4], "big")
        if crc32c(header[:checksum_at] + bytes(4) + header[checksum_at + 4 :]) != given:
            return "a wrong checksum"
    return ""


def _is_ssl(header: bytes, start: int, end: int) -> bool:
    """Are the flags, and all TLVs behind them, whole?"""
    at = start + proxy_tlvs.SSL_HEAD_BYTES
    while at + 3 <= end:
        at += 3 + int.from_bytes(header[at + 1 : at + 3], "big")
    return at == end


def encode(version: int, remote: str, local: str, tlvs: bytes = b"") -> bytes:
    """The header for a connection with these ends, as `parse` gives them; it names none that are not TCP's.

    `tlvs`: whole ones, for version 2. If there is a checksum among them, it becomes that of this header.
    """
    client, server = _split(remote), _split(local)
    if client is not None and server is not None and client[0] != server[0]:  # one of them is a dual-stack socket's
        client, server = _as_v6(client), _as_v6(server)
    if client is None or server is None:
        return b"PROXY UNKNOWN\r\n" if version == V1 else _encode_v2(_UNSPEC << 4 | _UNSPEC, b"", tlvs)
    is_v4 = client[0] == socket.AF_INET
    if version == V1:
        name = "TCP4" if is_v4 else "TCP6"
        return f"PROXY {name} {client[1]} {server[1]} {client[3]} {server[3]}\r\n".encode()
    family = _INET if is_v4 else _INET6
    ports = client[3].to_bytes(2, "big") + server[3].to_bytes(2, "big")
    return _encode_v2(family << 4 | _STREAM, client[2] + server[2] + ports, tlvs)


def passed_on(tlvs: bytes, kinds: frozenset[int]) -> bytes:
    """Those of a client's TLVs that an endpoint gets to see."""
    return proxy_tlvs.select(tlvs, kinds, MAX_PASSED_BYTES) if tlvs and kinds else b""


def _encode_v2(family: int, addresses: bytes, tlvs: bytes) -> bytes:
    head = bytes((V2 << 4 | _PROXY, family)) + (len(addresses) + len(tlvs)).to_bytes(2, "big")
    header = SIGNATURE_V2 + head + addresses + tlvs
    if not tlvs:
        return header
    at, checksum_at = HEAD_V2_BYTES + len(addresses), 0
    while at < len(header) and not checksum_at:
        if header[at] == proxy_tlvs.CRC32C:
            checksum_at = at + 3
        at += 3 + int.from_bytes(header[at + 1 : at + 3], "big")
    if not checksum_at:
        return header
    blank = header[:checksum_at] + bytes(4) + header[checksum_at + 4 :]
    return blank[:checksum_at] + crc32c(blank).to_bytes(4, "big") + blank[checksum_at + 4 :]


def _split(address: str) -> tuple[int, str, bytes, int] | None:
    """Family, host, packed host, port; None for a unix socket."""
    host, _, port = address.rpartition(":")
    family = socket.AF_INET
    if host.startswith("["):
        family, host = socket.AF_INET6, host[1:-1].partition("%")[0]
    if not port.isdigit() or int(port) > _MAX_PORT:
        return None
    try:
        return family, host, socket.inet_pton(family, host), int(port)
    except OSError:
        return None


def _as_v6(end: tuple[int, str, bytes, int]) -> tuple[int, str, bytes, int]:
    """An IPv4 end as IPv6 has it (RFC 4291 section 2.5.5.2): a header has one family."""
    family, host, packed, port = end
    if family == socket.AF_INET6:
        return end
    return socket.AF_INET6, _MAPPED + host, bytes(10) + b"\xff\xff" + packed, port


def _crc32c_table() -> tuple[int, ...]:
    """By byte; the reflected polynomial of Castagnoli (RFC 3720, appendix B.4)."""
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    return tuple(table)


_TABLE: Final = _crc32c_table()


def crc32c(data: bytes) -> int:
    """The checksum of RFC 3720, appendix B.4. For the 16 to some hundred bytes of a header: 65 KiB take 8 ms."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _TABLE[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF
