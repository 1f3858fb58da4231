"""One address of a cluster, and what this worker has in progress there."""

from __future__ import annotations

import socket

from hotproxy.config.address import Address
from hotproxy.net.socket_options import DEFAULT, SocketOptions


class Endpoint:
    """`active` counts the requests (TCP: connections) of this worker; whoever uses the endpoint keeps it right."""

    __slots__ = ("active", "address", "authority", "family", "name", "options", "sockaddr", "weight")

    def __init__(self, address: Address, weight: int = 1, options: SocketOptions = DEFAULT) -> None:
        """Raises ValueError for a host that is no IP address: nothing on the data path may wait for a name."""
        self.address = address
        self.name = str(address)
        # RFC 9110 section 7.2: what Host says where the request has none (HTTP/1.0).
        self.authority = b"localhost" if address.family == "unix" else self.name.encode()
        self.weight = weight
        self.options = options  # of every connection to it
        self.active = 0
        self.family, self.sockaddr = _socket_address(address)

    def __repr__(self) -> str:
        return f"<Endpoint {self.name} weight={self.weight} active={self.active}>"


def _socket_address(address: Address) -> tuple[int, tuple[str, int] | str]:
    if address.family == "unix":
        return socket.AF_UNIX, address.path
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, address.host)
        except OSError:
            continue
        return family, (address.host, address.port)
    raise ValueError(f"the endpoint {address} is no IP address")
