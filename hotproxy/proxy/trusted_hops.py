"""Who the client is when proxies in front of us say so in x-forwarded-for: Envoy's `xff_num_trusted_hops`.

    client --> trusted --> trusted --> hotproxy, 2 hops        x-forwarded-for: forged, client, trusted

Each of them appends the address that it was connected from. So of the addresses that arrive, counted from the right, as
many are true as there are trusted hops, and the last of these is the client; what stands left of it is the client's own
invention, and is not passed on.
"""

from __future__ import annotations

import socket
from typing import NamedTuple

from hotproxy.http.headers import Headers


class Chain(NamedTuple):
    """What is known by the word of trusted hops."""

    client: str  # as an address of the log, whose port nobody knows: "192.0.2.1:0"
    forwarded_for: bytes  # the value to send on, with whoever connected to us at its end
    proto: bytes  # "http" or "https", b"" where they say nothing of it


def trusted_chain(headers: Headers, hops: int, connected_from: bytes) -> Chain | None:
    """`connected_from`: who has connected to us, b"" for a unix socket.

    None: fewer addresses than hops, or something else than addresses: the client is whoever has connected.
    """
    texts = [text.strip() for text in b",".join(headers.get_all(b"x-forwarded-for")).split(b",")]
    if len(texts) < hops:
        return None
    known = texts[len(texts) - hops :]
    addresses = [_address(text) for text in known]
    if not all(addresses):
        return None
    if connected_from:
        known.append(connected_from)
    proto = headers.get(b"x-forwarded-proto") or b""
    return Chain(addresses[0], b", ".join(known), proto if proto in (b"http", b"https") else b"")


def _address(text: bytes) -> str:
    """As the log has it; "" for what is no IP address."""
    host = text.decode("latin-1")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        packed = socket.inet_pton(family, host)
    except (OSError, ValueError):
        return ""
    host = socket.inet_ntop(family, packed)
    return f"{host}:0" if family == socket.AF_INET else f"[{host}]:0"
