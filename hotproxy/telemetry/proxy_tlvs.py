"""The TLVs behind the addresses of a PROXY header, version 2: their names, and one of them out of all.

Source: proxy-protocol.txt of HAProxy, section 2.2. A connection keeps them as they came, one string of bytes: who does
not log them pays for nothing but that. `net.proxy_protocol` has looked at them, so here each is whole.
"""

from __future__ import annotations

from typing import Final

CRC32C: Final = 0x03
UNIQUE_ID: Final = 0x05
SSL: Final = 0x20

# As Envoy calls the space in which its listener filter leaves them (%DYNAMIC_METADATA(namespace:key)%).
NAMESPACE: Final = "envoy.filters.listener.proxy_protocol"
TYPES: Final = {
    "PP2_TYPE_ALPN": 0x01,
    "PP2_TYPE_AUTHORITY": 0x02,
    "PP2_TYPE_CRC32C": CRC32C,
    "PP2_TYPE_NOOP": 0x04,
    "PP2_TYPE_UNIQUE_ID": UNIQUE_ID,
    "PP2_TYPE_SSL": SSL,
    "PP2_TYPE_NETNS": 0x30,
}
# Inside of PP2_TYPE_SSL, behind one byte of flags and four that say whether a client's certificate was verified.
SSL_TYPES: Final = {
    "PP2_SUBTYPE_SSL_VERSION": 0x21,
    "PP2_SUBTYPE_SSL_CN": 0x22,
    "PP2_SUBTYPE_SSL_CIPHER": 0x23,
    "PP2_SUBTYPE_SSL_SIG_ALG": 0x24,
    "PP2_SUBTYPE_SSL_KEY_ALG": 0x25,
}
SSL_HEAD_BYTES: Final = 5


def find(tlvs: bytes, kind: int, start: int = 0) -> bytes:
    """The value of the first TLV of this type, b"" for none; `start`: where the first one begins."""
    at, size = start, len(tlvs)
    while at + 3 <= size:
        end = at + 3 + int.from_bytes(tlvs[at + 1 : at + 3], "big")
        if tlvs[at] == kind:
            return tlvs[at + 3 : end]
        at = end
    return b""


def find_in_ssl(tlvs: bytes, kind: int) -> bytes:
    """As `find`, among those inside of PP2_TYPE_SSL."""
    return find(find(tlvs, SSL), kind, SSL_HEAD_BYTES)
