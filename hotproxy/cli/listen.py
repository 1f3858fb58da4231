"""Addresses given on the command line: `:port` means loopback here, so that trying things out exposes nothing."""

from __future__ import annotations

import errno
import socket
from dataclasses import replace

from hotproxy.config.address import Address
from hotproxy.errors import EXIT_USAGE, HotproxyError


def parse(text: str, option: str) -> Address:
    """Raises HotproxyError (usage) that names the option."""
    try:
        return Address.parse(text)
    except ValueError as error:
        raise HotproxyError(f"{option} '{text}': {error}", EXIT_USAGE) from None


def loopback_addresses(text: str, option: str = "--listen") -> list[Address]:
    """One address, or, for `:port`, loopback's two (the second only where there is IPv6, and a fixed port)."""
    address = parse(text, option)
    if address.family == "unix" or address.host:
        return [address]
    addresses = [Address.parse(f"127.0.0.1:{address.port}")]
    if address.port and _has_ipv6_loopback():
        addresses.append(Address.parse(f"[::1]:{address.port}"))
    return addresses


def open_listener(address: Address) -> socket.socket:
    """A listening, non-blocking socket. Raises HotproxyError when the address can't be had."""
    if address.family == "unix":
        sock, target = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM), address.path
    else:
        family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        sock, target = socket.socket(family, socket.SOCK_STREAM), (address.host, address.port)  # type: ignore[assignment]
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind(target)
        sock.listen(1024)
    except OSError as error:
        sock.close()
        why = "address in use" if error.errno == errno.EADDRINUSE else error.strerror
        raise HotproxyError(f"can't listen on {address}: {why}") from None
    sock.setblocking(False)
    return sock


def with_free_port(address: Address) -> Address:
    """For port 0 the same address with a port that nobody has now, so that it can be told before it is bound."""
    if address.family == "unix" or address.port:
        return address
    with open_listener(address) as probe:
        return replace(address, port=probe.getsockname()[1])


def _has_ipv6_loopback() -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True
