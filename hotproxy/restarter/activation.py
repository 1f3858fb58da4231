"""Listening sockets of systemd's (hotproxy.socket): checked, and found by the address that they are bound to.

systemd holds them before, between and after our lives, and so do we as long as we live: they are accepted on by all
slots, and never shut down, because that would end them for systemd and for whoever it starts next.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import struct
from typing import Final

from hotproxy.errors import HotproxyError
from hotproxy.restarter.hello import WantedAddress

# struct timeval: 1 ms, which the kernel rounds up to its next tick.
_NO_WAIT: Final = struct.pack("ll", 0, 1000)


def listening_socket(name: str, fd: int) -> socket.socket:
    """The socket that was passed as `name`. Raises HotproxyError for what can't be accepted on."""
    try:
        sock = socket.socket(fileno=fd)
    except OSError:
        raise HotproxyError(f"systemd has passed '{name}' (descriptor {fd}), which is no socket") from None
    if sock.type != socket.SOCK_STREAM or sock.family not in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX):
        raise HotproxyError(f"systemd has passed '{name}' (descriptor {fd}), which is no stream socket: ListenStream=")
    if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        raise HotproxyError(
            f"systemd has passed '{name}' ({bound_to(sock)}), which does not listen: Accept=no, and nobody shut it down"
        )
    # All copies have one O_NONBLOCK, and without NonBlocking=yes systemd takes it away at each start of the service:
    # workers that a killed supervisor left would hang in accept(). With a timeout they hang for a tick.
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _NO_WAIT)
    sock.setblocking(False)
    return sock


def bound_to(sock: socket.socket) -> str:
    """The address of a socket as a listener's `address` would be spelled."""
    if sock.family == socket.AF_UNIX:
        return f"unix:{os.fsdecode(sock.getsockname())}"
    host, port = sock.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_bound_to(sock: socket.socket, address: WantedAddress) -> bool:
    """Whether the kernel has bound it to what `bind` would make of this address, however that is spelled."""
    if sock.family == socket.AF_UNIX:
        return address.family == "unix" and os.fsdecode(sock.getsockname()) == address.path
    host, port = sock.getsockname()[:2]
    if address.family != "tcp" or address.port != port:  # port 0 asks for a port of its own, which nobody knows
        return False
    both = sock.family == socket.AF_INET6 and not sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
    if not address.host:
        return host == "::" and both
    if host == "::" and both:
        return False  # "[::]:80" leaves room for "0.0.0.0:80" beside it; this socket does not
    return ipaddress.ip_address(host) == ipaddress.ip_address(address.host)
