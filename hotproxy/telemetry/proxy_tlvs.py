"""The TLVs behind the addresses of a PROXY header, version 2: their names, and one of them out of all.

Source: proxy-protocol.txt of HAProxy, section 2.2. A connection keeps them as they came, one string of bytes: who does
not log them pays for nothing but that. `net.proxy_protocol` has looked at them, so here each is whole.
"""

from __future__ import annotations

from typing import Final

from hotproxy.config.model import TLV_TYPES

TYPES: Final = TLV_TYPES
CRC32C: Final = TYPES["PP2_TYPE_CRC32C"]
UNIQUE_ID: Final = TYPES["PP2_TYPE_UNIQUE_ID"]
SSL: Final = TYPES["PP2_TYPE_SSL"]

# As Envoy calls the space in which its listener filter leaves them (%DYNAMIC_METADATA(namespace:key)%).
NAMESPACE: Final = "envoy.filters.listener.proxy_protocol"
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


def select(tlvs: bytes, kinds: frozenset[int], limit_bytes: int) -> bytes:
    """Those of these types, in their order, each as it is; what no longer fits is left off, and nothing else for it."""
    selected = b""
    at, size = 0, len(tlvs)
    while at + 3 <= size:
        end = at + 3 + int.from_bytes(tlvs[at + 1 : at + 3], "big")
        if tlvs[at] in kinds and len(selected) + end - at <= limit_bytes:
            selected += tlvs[at:end]
        at = end
    return selected
