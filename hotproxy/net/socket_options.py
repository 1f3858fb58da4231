"""What the kernel is to do with the connections of a listener or a cluster: Nagle, probes, patience.

A fresh socket needs only what differs from the kernel's defaults. One that comes from another generation may have any
value, so there all are set: a reload applies to open connections too, and what is no longer in the config is undone.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable
from typing import Final

from hotproxy.config import model

_Option = tuple[int, int, int]
_TCP: Final = socket.IPPROTO_TCP


class SocketOptions:
    """Made once; for the sockets of TCP alone, unix sockets have nothing like it."""

    __slots__ = ("_all", "_fresh", "_listening")

    def __init__(self, config: model.SocketOptions) -> None:
        keepalive = config.tcp_keepalive
        unset = _kernels_values() if keepalive is not None else (0, 0, 0)
        self._all: list[_Option] = [
            (_TCP, socket.TCP_NODELAY, int(config.tcp_nodelay)),
            (_TCP, socket.TCP_USER_TIMEOUT, int(config.tcp_user_timeout_s * 1000)),
            (socket.SOL_SOCKET, socket.SO_KEEPALIVE, int(keepalive is not None)),
        ]
        self._fresh = [option for option in self._all if option[2]]
        if keepalive is not None:
            for number, given, kernels in (
                (socket.TCP_KEEPIDLE, int(keepalive.keepalive_time_s), unset[0]),
                (socket.TCP_KEEPINTVL, int(keepalive.keepalive_interval_s), unset[1]),
                (socket.TCP_KEEPCNT, keepalive.keepalive_probes, unset[2]),
            ):
                self._all.append((_TCP, number, given or kernels))
                if given:
                    self._fresh.append((_TCP, number, given))
        self._listening = (_TCP, socket.TCP_DEFER_ACCEPT, int(config.tcp_defer_accept_s))

    def apply(self, sock: socket.socket) -> None:
        """To a socket that this process has just made or accepted."""
        _set(sock, self._fresh)

    def apply_again(self, sock: socket.socket) -> None:
        """To one that another process has used."""
        if sock.family != socket.AF_UNIX:
            _set(sock, self._all)

    def apply_listening(self, sock: socket.socket) -> None:
        """To a listening socket, which has served other generations."""
        _set(sock, (self._listening,))


def _set(sock: socket.socket, options: Iterable[_Option]) -> None:
    try:
        for level, number, value in options:
            sock.setsockopt(level, number, value)
    except OSError:  # EINVAL: the peer has reset it already; reading will tell
        pass


def _kernels_values() -> tuple[int, int, int]:
    """What net.ipv4.tcp_keepalive_time, _intvl and _probes say at this moment."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as fresh:
        return (
            fresh.getsockopt(_TCP, socket.TCP_KEEPIDLE),
            fresh.getsockopt(_TCP, socket.TCP_KEEPINTVL),
            fresh.getsockopt(_TCP, socket.TCP_KEEPCNT),
        )


# What is done where the config says nothing.
DEFAULT: Final = SocketOptions(model.SocketOptions())
