"""What ends the chain of an HTTP listener: which of the two protocols does a connection speak?

TLS has agreed upon one (ALPN). Without TLS every connection begins as HTTP/1, and becomes HTTP/2 when that is what its
first bytes are (`ConnectionManager`).
"""

from __future__ import annotations

import socket
from collections.abc import Sequence

from hotproxy.net.proxy_protocol import Announced
from hotproxy.net.tls_loop import TlsLoop
from hotproxy.proxy.connection_manager import ConnectionManager
from hotproxy.proxy.filter_chain import DownstreamConnection, DownstreamOwner, TerminalConnection
from hotproxy.proxy.http2_connection_manager import Http2ConnectionManager
from hotproxy.proxy.runtime import Runtime
from hotproxy.proxy.snapshot import HttpListener

H2 = "h2"  # RFC 9113 section 3.2


class HttpTerminal:
    """A `Terminal`."""

    __slots__ = ()

    def __call__(
        self,
        sock: socket.socket,
        peer: str,
        listener: HttpListener,
        owner: DownstreamOwner,
        runtime: Runtime,
        announced: Announced | None = None,
        secure: TlsLoop | None = None,
    ) -> TerminalConnection:
        if secure is not None and secure.info.alpn == H2:
            return Http2ConnectionManager(sock, peer, listener, owner, runtime, announced, secure)
        return ConnectionManager(sock, peer, listener, owner, runtime, announced, secure)

    def load(
        self,
        state: dict[str, object],
        socks: Sequence[socket.socket],
        listener: HttpListener,
        owner: DownstreamOwner,
        runtime: Runtime,
    ) -> DownstreamConnection:
        if state.get("kind") == Http2ConnectionManager.kind:
            return Http2ConnectionManager.load(state, socks, listener, owner, runtime)
        return ConnectionManager.load(state, socks, listener, owner, runtime)
