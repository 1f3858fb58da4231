"""Whose word about their clients is believed: the networks of `proxy_protocol.trusted`."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Final

# Among the networks: whoever may connect to a unix socket of this listener; its file's mode says who that is.
UNIX: Final = "unix"


class TrustedProxies:
    """`required`: they never come without a PROXY header. Networks are canonical CIDR texts, "10.0.0.0/8"."""

    __slots__ = ("_networks", "_unix_too", "required")

    def __init__(self, networks: Sequence[str], required: bool) -> None:
        self.required = required
        self._unix_too = UNIX in networks
        self._networks = [_network(text) for text in networks if text != UNIX]

    def trusts(self, peer: str, is_tcp: bool) -> bool:
        """`peer` as `filter_chain.address_text` gives it, so that an IPv4 client of a dual-stack socket is one."""
        if not is_tcp:
            return self._unix_too
        family, number = _address(peer.rpartition(":")[0].strip("[]"))
        return any(known == family and number >> shift == network for known, shift, network in self._networks)


def _network(text: str) -> tuple[int, int, int]:
    """Family; how many bits say nothing; those that do."""
    host, _, bits = text.partition("/")
    family, number = _address(host)
    shift = (32 if family == socket.AF_INET else 128) - int(bits)
    return family, shift, number >> shift


def _address(host: str) -> tuple[int, int]:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return int(family), int.from_bytes(socket.inet_pton(family, host.partition("%")[0]), "big")
