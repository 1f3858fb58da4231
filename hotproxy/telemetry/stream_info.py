"""The one record of an exchange: what the stats, the access log and the last line of a bug report are made of.

The name and the meaning of its fields are Envoy's StreamInfo. Times are CLOCK_MONOTONIC seconds, 0.0 = has not
happened; `start_wall_s` is the only wall-clock time.
"""

from __future__ import annotations


class StreamInfo:
    """Plain attributes, filled on the way, read once by `finish()`; `dump()` carries it across a handoff."""

    __slots__ = (
        "start_wall_s", "start_s", "request_complete_s", "upstream_first_byte_s", "response_first_byte_s", "end_s",
        "protocol", "method", "authority", "path", "original_path", "user_agent", "x_forwarded_for", "request_id",
        "status", "flags", "details", "rx_bytes", "tx_bytes",
        "downstream_remote", "downstream_local", "upstream_remote", "upstream_local",
        "listener", "virtual_host", "route", "cluster", "attempts", "upstream_connect_s", "upstream_service_time_ms",
    )  # fmt: skip

    def __init__(self, start_wall_s: float = 0.0, start_s: float = 0.0) -> None:
        self.start_wall_s = start_wall_s
        self.start_s = start_s
        self.request_complete_s = 0.0  # last byte of the request read
        self.upstream_first_byte_s = 0.0  # first byte of the response read from upstream
        self.response_first_byte_s = 0.0  # first byte of the response written downstream
        self.end_s = 0.0
        self.protocol = ""  # "HTTP/1.1", "HTTP/1.0"; "" for TCP
        self.method = ""
        self.authority = ""
        self.path = ""  # as sent upstream
        self.original_path = ""  # as the client sent it
        self.user_agent = ""
        self.x_forwarded_for = ""
        self.request_id = ""
        self.status = 0  # 0: nothing was answered
        self.flags: tuple[str, ...] = ()  # Envoy's response flags
        self.details = ""
        self.rx_bytes = 0  # body bytes from downstream (TCP: all bytes)
        self.tx_bytes = 0  # body bytes to downstream (TCP: all bytes)
        self.downstream_remote = ""  # "10.0.0.1:1234", "[::1]:1234", "" for a unix socket without a name
        self.downstream_local = ""
        self.upstream_remote = ""
        self.upstream_local = ""
        self.listener = ""
        self.virtual_host = ""
        self.route = ""
        self.cluster = ""
        self.attempts = 0
        self.upstream_connect_s = 0.0
        self.upstream_service_time_ms = -1  # -1: no upstream answered

    def dump(self) -> list[object]:
        """The values in the order of `__slots__`."""
        return [getattr(self, name) for name in self.__slots__]

    @classmethod
    def load(cls, values: list[object]) -> StreamInfo:
        info = cls()
        for name, value in zip(cls.__slots__, values, strict=True):
            setattr(info, name, tuple(value) if name == "flags" else value)  # type: ignore[arg-type]
        return info
