"""Binding one address, so that a clash is an error with a name and never half of the traffic.

SO_REUSEPORT lets a second proxy of the same user bind the same port without an error and take every second connection.
So a port is first bound without it, by a socket that is thrown away; only when that is refused by nobody, or by
processes of this same instance alone (whose supervisor was killed and which still serve), the real socket follows.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from hotproxy.restarter.hello import WantedAddress
from hotproxy.restarter.holders import holders_of_port, name_of

OursAsker = Callable[[int], bool]

# Who refused the first probe may be gone when we look who it was: an orphan that leaves at this very moment.
PROBES: Final = 3


class BindRefused(Exception):
    """An address can't be had; says which and why."""


def bind_tcp(address: WantedAddress, port: int, is_ours: OursAsker | None) -> socket.socket:
    """A bound socket that does not listen. With `is_ours` the port is probed first. Raises BindRefused."""
    try:
        if is_ours is not None:
            _probe(address, port, is_ours)
        return _bind(address.host, port, reuse_port=True)
    except OSError as error:
        raise BindRefused(f"{address.text}: {_why(error)}") from None


def _probe(address: WantedAddress, port: int, is_ours: OursAsker) -> None:
    for _ in range(PROBES):
        try:
            _bind(address.host, port, reuse_port=False).close()
            return
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
        holders = holders_of_port(port)
        strangers = [holder for holder in holders if not is_ours(holder.pid)]
        if strangers:
            raise BindRefused(f"{address.text}: address in use by {', '.join(str(holder) for holder in strangers)}")
        if holders:
            return
    raise BindRefused(f"{address.text}: address in use")


def _bind(host: str, port: int, reuse_port: bool) -> socket.socket:
    if host:
        return _bind_one(socket.AF_INET6 if ":" in host else socket.AF_INET, host, port, reuse_port, v6only=True)
    try:
        return _bind_one(socket.AF_INET6, "::", port, reuse_port, v6only=False)
    except OSError as error:
        # A host without IPv6 has either no such family or no such address.
        if error.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
            raise
    return _bind_one(socket.AF_INET, "0.0.0.0", port, reuse_port, v6only=False)


def _bind_one(family: int, host: str, port: int, reuse_port: bool, v6only: bool) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        # Connections of an earlier proxy in TIME_WAIT must not hold up the start.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            # [::]:80 given explicitly leaves room for 0.0.0.0:80 beside it; ":80" is both in one.
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(v6only))
        sock.bind((host, port) if family == socket.AF_INET else _with_zone(host, port))
    except BaseException:
        sock.close()
        raise
    return sock


def _with_zone(host: str, port: int) -> tuple[str, int, int, int]:
    """A link-local address says which link, "fe80::1%eth0"; `bind` takes that as a number of its own."""
    address, _, zone = host.partition("%")
    if not zone:
        return address, port, 0, 0
    if zone.isdecimal():
        return address, port, 0, int(zone)
    try:
        return address, port, 0, socket.if_nametoindex(zone)
    except OSError:
        raise OSError(errno.ENODEV, f"no interface '{zone}'") from None


@dataclass(slots=True)
class UnixPath:
    """Where a unix socket lies. `staged`: bound there, and moved to `path` only when its generation accepts."""

    path: str
    staged: str = ""
    inode: tuple[int, int] = (0, 0)

    def publish(self) -> None:
        """Replace, in one step, the file of a socket that processes of a dead supervisor still accept on."""
        if self.staged:
            os.rename(self.staged, self.path)
            self.staged = ""

    def set_access(self, address: WantedAddress) -> None:
        """Mode and owner as the config says; raises OSError."""
        at = self.staged or self.path
        if address.owner >= 0 or address.group >= 0:
            os.chown(at, address.owner, address.group)
        # 0660 like the other sockets of an instance, where the config says nothing.
        os.chmod(at, address.mode if address.mode >= 0 else 0o660)

    def remove(self) -> None:
        """Remove the file, if it is still ours."""
        at = self.staged or self.path
        try:
            status = os.lstat(at)
            if (status.st_dev, status.st_ino) == self.inode:
                os.unlink(at)
        except OSError:
            pass  # gone already, or the directory is


def bind_unix(address: WantedAddress, is_ours: OursAsker) -> tuple[socket.socket, UnixPath]:
    """A bound socket that does not listen, with its mode and owner set. Raises BindRefused."""
    where = UnixPath(address.path)
    try:
        if _is_live(address, is_ours):
            where.staged = f"{address.path}.{os.getpid()}"
        return _bind_path(address, where), where
    except OSError as error:
        raise BindRefused(f"{address.text}: {_why(error)}") from None


def _is_live(address: WantedAddress, is_ours: OursAsker) -> bool:
    """True when processes of this instance accept there; a stale file is removed. Raises BindRefused, OSError."""
    try:
        status = os.lstat(address.path)
    except FileNotFoundError:
        return False
    if not stat.S_ISSOCK(status.st_mode):
        raise BindRefused(f"{address.text}: the file exists and is no socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(address.path)
            pid: int = struct.unpack("3i", probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
        except ConnectionRefusedError:
            os.unlink(address.path)  # nobody listens: its process was killed
            return False
        except BlockingIOError:
            pid = 0  # its queue is full: somebody listens, and can't be asked who
    if pid and is_ours(pid):
        return True
    by = f" by {name_of(pid)} (pid {pid})" if pid else ""
    raise BindRefused(f"{address.text}: address in use{by}")


def _bind_path(address: WantedAddress, where: UnixPath) -> socket.socket:
    at = where.staged or where.path
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)  # nobody connects before mode and owner are right
    try:
        sock.setblocking(False)
        sock.bind(at)
        status = os.lstat(at)
        where.inode = (status.st_dev, status.st_ino)
        where.set_access(address)
    except BaseException:
        sock.close()
        where.remove()
        raise
    finally:
        os.umask(before)
    return sock


def _why(error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return "address in use"
    if error.errno == errno.EACCES:
        return "permission denied (a port below 1024 needs CAP_NET_BIND_SERVICE)"
    return error.strerror or str(error)
