"""What a stream and its router ask of the client's side, whatever protocol the client speaks.

    HTTP/1    the `ConnectionManager` itself: one stream at a time
    HTTP/2    an `Http2Lane` for each of the streams that share a connection

Bytes are nobody's business here: heads, pieces of body and ends go down, and each codec frames them in its own way.
A base class and not a Protocol, because calls through it are native where the data path is compiled.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from hotproxy.http.codec import ResponseHead
from hotproxy.http.headers import Headers
from hotproxy.telemetry.tls_info import TlsInfo
from hotproxy.upstream.cluster import Cluster


class Downstream(ABC):
    """One client as one stream sees it. What is sent is collected, and written at the end of the turn."""

    __slots__ = ("client_host", "direct_peer", "local", "peer", "pressed", "protocol", "tls", "tlvs")

    def __init__(self) -> None:
        self.peer = ""  # "10.0.0.1:1234"
        self.local = ""
        self.direct_peer = ""  # of the proxy that has announced `peer` and `local`, if one has
        self.tlvs = b""  # of its header
        self.client_host = b""  # `peer` as x-forwarded-for has it
        self.tls: TlsInfo | None = None
        self.protocol = "HTTP/1.1"  # for the log
        self.pressed = False  # the client does not take what it is sent: the endpoint is not read

    # -- sending

    @abstractmethod
    def send_interim(self, head: ResponseHead) -> None:
        """100, 102, 103; clients that would not understand are spared."""

    @abstractmethod
    def send_head(self, head: ResponseHead, close: bool) -> None:
        """The final response head; `close` when no other request may follow, where requests follow one another."""

    @abstractmethod
    def send_data(self, data: bytes) -> bool:
        """A piece of body; False where none may follow (HEAD, 204, 304), and nothing is sent."""

    @abstractmethod
    def send_end(self, trailers: Headers | None) -> None: ...

    @abstractmethod
    def send_raw(self, data: bytes) -> None:
        """Behind a 101."""

    # -- pressure

    @abstractmethod
    def pause(self) -> None:
        """Let the client send no more of this request's body than is under way. Not twice before `resume`."""

    @abstractmethod
    def resume(self) -> None: ...

    @property
    @abstractmethod
    def taken_bytes(self) -> int:
        """How much has left for the client: a number that grows while it reads."""

    @property
    @abstractmethod
    def waiting_bytes(self) -> int:
        """How much of what was sent has not left yet."""

    # -- time

    @abstractmethod
    def touch(self) -> None:
        """Something has moved: the stream's idle timeout begins anew."""

    @abstractmethod
    def arm_response_timer(self, timeout_s: float) -> None: ...

    @abstractmethod
    def disarm_stream_timers(self) -> None: ...

    # -- turns and ends

    @abstractmethod
    def on_upstream_turn_end(self) -> None:
        """All that one read of the endpoint has brought was sent: write it."""

    @abstractmethod
    def on_stream_end(self, request_read: bool) -> None:
        """The response is complete; the request too, if `request_read`."""

    @abstractmethod
    def on_stream_aborted(self, ends_by_close: bool) -> None:
        """The response cannot be completed, and the client must notice."""

    def preface(self, cluster: Cluster) -> bytes:
        """The PROXY header that says whose requests these are."""
        return cluster.preface(self.peer, self.local, self.tlvs)
