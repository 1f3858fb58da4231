"""The socket options of a listener or a cluster, nodes to model."""

from __future__ import annotations

from typing import Final

from hotproxy.config import model, shapes
from hotproxy.config.fields import Fields
from hotproxy.config.scalars import ScalarError, duration_s

# tcp(7), and MAX_TCP_KEEPIDLE and its siblings of include/net/tcp.h.
_MAX_KEEPALIVE_S: Final = 32767
_MAX_PROBES: Final = 127
# Milliseconds in an int.
_MAX_USER_TIMEOUT_S: Final = 2_147_483
# Seconds, made retransmissions of a SYN-ACK, of which there are at most 255: more than any client waits.
_MAX_DEFER_S: Final = 3600


def read_socket_options(fields: Fields, listens: bool) -> model.SocketOptions:
    keepalive = None
    section = fields.section("tcp_keepalive", shapes.TCP_KEEPALIVE)
    if section is not None:
        keepalive = model.TcpKeepalive(
            keepalive_time_s=_seconds(section, "keepalive_time", _MAX_KEEPALIVE_S),
            keepalive_interval_s=_seconds(section, "keepalive_interval", _MAX_KEEPALIVE_S),
            keepalive_probes=section.integer("keepalive_probes", 0, 1, _MAX_PROBES),
        )
    user_timeout_s = fields.duration("tcp_user_timeout", 0.0)
    if user_timeout_s > _MAX_USER_TIMEOUT_S:
        node = fields.get("tcp_user_timeout")
        assert node is not None
        fields.error(node, "this is longer than the kernel counts", "24 days at most", fields.at("tcp_user_timeout"))
    return model.SocketOptions(
        tcp_nodelay=fields.boolean("tcp_nodelay", True),
        tcp_keepalive=keepalive,
        tcp_user_timeout_s=user_timeout_s,
        tcp_defer_accept_s=_seconds(fields, "tcp_defer_accept", _MAX_DEFER_S) if listens else 0.0,
    )


def _seconds(fields: Fields, name: str, highest: int) -> float:
    """Whole seconds; 0.0, also where there is nothing, leaves it to the kernel."""

    def read(text: str) -> float:
        seconds = duration_s(text)
        if seconds != int(seconds) or seconds > highest:
            raise ScalarError(f"'{text}' is not up to {highest} whole seconds", "the kernel takes no others")
        return seconds

    return fields.value(name, read) or 0.0
