"""One of the two connections of a TCP proxy, as the owner of its `Connection`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hotproxy.net.connection import Connection
from hotproxy.proxy.splice import Splice

if TYPE_CHECKING:
    from hotproxy.proxy.tcp_proxy import TcpProxy


class Leg:
    """Passes on to the `other` what it hears. Both have the same rules."""

    __slots__ = ("connection", "large_reads", "is_upstream", "other", "proxy", "splice")

    def __init__(self, proxy: TcpProxy, is_upstream: bool) -> None:
        self.proxy: TcpProxy | None = proxy
        self.is_upstream = is_upstream
        self.connection: Connection | None = None
        self.other: Leg | None = None
        self.large_reads = 0  # less the small ones
        self.splice: Splice | None = None  # what it sends goes this way

    def on_data(self, data: bytes) -> None:
        if self.proxy is not None:
            self.proxy.pass_on(self, data)

    def on_eof(self) -> None:
        if self.proxy is not None:
            self.proxy.pass_eof_on(self)

    def on_lost(self, error: str) -> None:
        if self.proxy is not None:
            self.proxy.lose(self)

    def on_pressure(self, high: bool) -> None:
        other = self.other
        if other is None or other.connection is None:
            return
        if high:
            other.connection.read_disable()
        else:
            other.connection.read_enable()

    def settle(self) -> None:
        """What has not reached the other leg waits in its buffer, and nowhere else."""
        splice, self.splice = self.splice, None
        self.large_reads = 0
        if splice is not None:
            splice.settle()

    def drop(self) -> None:
        """Break the cycles: nothing that ended waits for a garbage collection."""
        splice, self.splice = self.splice, None
        if splice is not None:
            splice.drop()
        self.proxy = None
        self.other = None
        self.connection = None
