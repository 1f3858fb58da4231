"""Why things end: the exit codes of the commands, and the one table of reasons for which an exchange ends early.

On the data path a broken peer is a value, never an exception: a `Reason` says who broke it (`side`), what the
client is told (`status`), what the access log shows (`flag` and `details`, with Envoy's meaning), which counter
moves, and whether the request may be tried again on another connection (`retry`).
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final

EXIT_OK: Final = 0
EXIT_REFUSED: Final = 1  # invalid config, reload refused, address in use
EXIT_USAGE: Final = 2
EXIT_UNREACHABLE: Final = 3  # no such instance
EXIT_NOT_PERMITTED: Final = 4
EXIT_INTERNAL: Final = 70
EXIT_INTERRUPTED: Final = 130


class HotproxyError(Exception):
    """Something a user can act on: one message that says what, where and what to do, and the exit code for it."""

    def __init__(self, message: str, exit_code: int = EXIT_REFUSED) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class Side(enum.Enum):
    """Who ended it."""

    DOWNSTREAM = "downstream"
    UPSTREAM = "upstream"
    LOCAL = "local"


class Retry(enum.Enum):
    """May the request be sent again?"""

    NEVER = "never"
    ALWAYS = "always"  # nothing of it reached an endpoint
    IF_SAFE = "if_safe"  # it may have been executed: only where replay is safe


@dataclass(frozen=True, slots=True)
class Reason:
    """One cause, and everything that follows from it.

    `status` is the local reply's status (0: nobody is left to answer). `flag` is Envoy's response flag
    (`%RESPONSE_FLAGS%`), `details` its `%RESPONSE_CODE_DETAILS%`. `counter` is the last part of a stat name;
    the scope (listener or cluster) follows from `side`.
    """

    side: Side
    status: int
    flag: str
    details: str
    counter: str = ""
    retry: Retry = Retry.NEVER
    body: str = ""


# Flags and details: https://www.envoyproxy.io/docs/envoy/latest/configuration/observability/access_log/usage and
# .../http/http_conn_man/response_code_details
NO_ROUTE: Final = Reason(Side.LOCAL, 404, "NR", "route_not_found", "no_route")
NO_CLUSTER: Final = Reason(Side.LOCAL, 503, "NC", "cluster_not_found", "no_cluster")
REDIRECT: Final = Reason(Side.LOCAL, 301, "-", "direct_response", "rq_redirect")
DIRECT_RESPONSE: Final = Reason(Side.LOCAL, 200, "-", "direct_response", "rq_direct_response")
NO_HEALTHY_UPSTREAM: Final = Reason(
    Side.UPSTREAM, 503, "UH", "no_healthy_upstream", "upstream_cx_none_healthy", body="no healthy upstream"
)
CONNECT_FAILURE: Final = Reason(
    Side.UPSTREAM,
    503,
    "UF",
    "upstream_reset_before_response_started{connection_failure}",
    "upstream_cx_connect_fail",
    Retry.ALWAYS,
    "upstream connect error or disconnect/reset before headers. reset reason: connection failure",
)
CONNECT_TIMEOUT: Final = Reason(
    Side.UPSTREAM,
    503,
    "UF",
    "upstream_reset_before_response_started{connection_timeout}",
    "upstream_cx_connect_timeout",
    Retry.ALWAYS,
    "upstream connect error or disconnect/reset before headers. reset reason: connection timeout",
)
# Connected, and no handshake: the details say why (`transport failure reason` is Envoy's word). Counted by the pool.
TLS_FAILURE: Final = Reason(
    Side.UPSTREAM,
    503,
    "UF",
    "upstream_reset_before_response_started{connection_failure|TLS_error}",
    retry=Retry.ALWAYS,
    body="upstream connect error or disconnect/reset before headers. reset reason: connection failure, "
    "transport failure reason: TLS error",
)
# No descriptor or memory for a socket of ours, which says nothing about the endpoint. Counted where it happens.
LOCAL_CONNECT_FAILURE: Final = Reason(
    Side.LOCAL,
    503,
    "UF",
    "upstream_reset_before_response_started{local_connection_failure}",
    retry=Retry.ALWAYS,
    body="upstream connect error or disconnect/reset before headers. reset reason: local connection failure",
)
UPSTREAM_TERMINATION: Final = Reason(
    Side.UPSTREAM,
    503,
    "UC",
    "upstream_reset_before_response_started{connection_termination}",
    "upstream_rq_rx_reset",
    Retry.IF_SAFE,
    "upstream connect error or disconnect/reset before headers. reset reason: connection termination",
)
UPSTREAM_RESET_AFTER_START: Final = Reason(
    Side.UPSTREAM,
    0,
    "UC",
    "upstream_reset_after_response_started{connection_termination}",
    "upstream_rq_rx_reset",
)
UPSTREAM_PROTOCOL_ERROR: Final = Reason(
    Side.UPSTREAM,
    502,
    "UPE",
    "upstream_reset_before_response_started{protocol_error}",
    "upstream_cx_protocol_error",
    body="upstream connect error or disconnect/reset before headers. reset reason: protocol error",
)
RESPONSE_TIMEOUT: Final = Reason(
    Side.UPSTREAM, 504, "UT", "response_timeout", "upstream_rq_timeout", body="upstream request timeout"
)
STREAM_IDLE_TIMEOUT: Final = Reason(
    Side.LOCAL, 504, "SI", "stream_idle_timeout", "downstream_rq_idle_timeout", body="stream timeout"
)
REQUEST_BODY_TIMEOUT: Final = Reason(
    Side.DOWNSTREAM, 408, "SI", "stream_idle_timeout", "downstream_rq_idle_timeout", body="stream timeout"
)
REQUEST_HEADER_TIMEOUT: Final = Reason(
    Side.DOWNSTREAM,
    408,
    "-",
    "request_header_timeout",
    "downstream_rq_header_timeout",
    body="request header timeout",
)
DOWNSTREAM_DISCONNECT: Final = Reason(Side.DOWNSTREAM, 0, "DC", "downstream_remote_disconnect")
DOWNSTREAM_RESET: Final = Reason(Side.DOWNSTREAM, 0, "DR", "http2.remote_reset")
DRAIN_DEADLINE: Final = Reason(Side.LOCAL, 0, "DI", "drain_timeout", "downstream_cx_drain_close")
INTERNAL_ERROR: Final = Reason(
    Side.LOCAL, 500, "-", "internal_error", "downstream_rq_internal_error", body="internal error"
)


def downstream_protocol_error(details: str, status: int = 400) -> Reason:
    """A request that breaks the rules; `details` is a word such as `http1.invalid_content_length`."""
    return Reason(Side.DOWNSTREAM, status, "DPE", details, "downstream_cx_protocol_error", body=details)
