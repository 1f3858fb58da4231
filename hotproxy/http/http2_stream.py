r"""One stream of an HTTP/2 connection as its codec sees it: windows, what waits to be sent, and how far both sides are.

    the client's side   HEAD --END_STREAM--> remote_ended         our side   nothing --head--> body --END_STREAM--> over

A stream is forgotten when both have ended, or when either side has reset it. Data waits here, and not in the socket's
buffer, for as long as its window is shut: so a stream whose client does not read stalls nobody but itself.
"""

from __future__ import annotations

from typing import Final

from hotproxy.http.http2_frames import DEFAULT_WINDOW, MAX_STREAM_ID, MAX_WINDOW, NO_ERROR
from hotproxy.http.syntax import MAX_LENGTH
from hotproxy.saved import saved_bool, saved_bytes, saved_int, saved_part

UNKNOWN: Final = -1  # a length that nobody has announced

_KEYS: Final = frozenset(
    (
        "id", "remote_ended", "send_window", "receive_window", "owed_window", "held", "pending", "ending", "trailers",
        "remaining", "answering_head", "head_sent", "without_body", "broken", "reset_code", "to_send",
    )
)  # fmt: skip


class Http2Stream:
    """Plain attributes; `Http2ServerCodec` changes them."""

    __slots__ = (
        "answering_head", "broken", "ending", "head_sent", "held", "id", "owed_window", "pending", "queued",
        "receive_window", "remaining", "remote_ended", "reset_code", "send_window", "to_send", "trailers",
        "without_body",
    )  # fmt: skip

    def __init__(self, stream_id: int, send_window: int) -> None:
        self.id = stream_id
        self.remote_ended = False
        self.send_window = send_window  # bytes that the client lets us send
        self.receive_window = DEFAULT_WINDOW  # bytes that the client may send
        self.owed_window = 0  # of those that came: taken, and not given back yet
        self.held = False  # nothing is given back: the endpoint does not take what it is sent
        self.remaining = UNKNOWN  # bytes of the request's body that were announced and have not come
        self.broken = False  # a violation: what the client still sends is thrown away
        # Of the response:
        self.answering_head = False
        self.head_sent = False
        self.without_body = False
        self.to_send = UNKNOWN  # bytes of its body that were announced and not given to us yet
        self.pending = bytearray()
        self.ending = False  # nothing comes behind `pending` but the end
        self.trailers = b""  # their block, for the end
        self.queued = False  # among those whose `pending` is sent in turn
        self.reset_code = NO_ERROR  # if the response ends before the request

    def dump(self) -> dict[str, object]:
        return {
            "id": self.id,
            "remote_ended": self.remote_ended,
            "send_window": self.send_window + MAX_WINDOW,  # a number that is never negative
            "receive_window": self.receive_window,
            "owed_window": self.owed_window,
            "held": self.held,
            "remaining": self.remaining + 1,
            "broken": self.broken,
            "answering_head": self.answering_head,
            "head_sent": self.head_sent,
            "without_body": self.without_body,
            "to_send": self.to_send + 1,
            "pending": bytes(self.pending),
            "ending": self.ending,
            "trailers": self.trailers,
            "reset_code": self.reset_code,
        }

    @classmethod
    def load(cls, state: object) -> Http2Stream:
        """The inverse of `dump`; ValueError for anything else."""
        record = saved_part(state, "stream", _KEYS)
        stream = cls(saved_int(record, "id", MAX_STREAM_ID), 0)
        if not stream.id % 2:
            raise ValueError("id: clients have the odd ones")
        stream.remote_ended = saved_bool(record, "remote_ended")
        stream.send_window = saved_int(record, "send_window", 2 * MAX_WINDOW) - MAX_WINDOW
        stream.receive_window = saved_int(record, "receive_window", DEFAULT_WINDOW)
        stream.owed_window = saved_int(record, "owed_window", DEFAULT_WINDOW - stream.receive_window)
        stream.held = saved_bool(record, "held")
        stream.remaining = saved_int(record, "remaining", MAX_LENGTH + 1) - 1
        stream.broken = saved_bool(record, "broken")
        stream.answering_head = saved_bool(record, "answering_head")
        stream.head_sent = saved_bool(record, "head_sent")
        stream.without_body = saved_bool(record, "without_body")
        stream.to_send = saved_int(record, "to_send", MAX_LENGTH + 1) - 1
        stream.pending += saved_bytes(record, "pending")
        stream.ending = saved_bool(record, "ending")
        stream.trailers = saved_bytes(record, "trailers")
        stream.reset_code = saved_int(record, "reset_code", 2**32 - 1)
        if (stream.pending or stream.ending) and not stream.head_sent:
            raise ValueError("head_sent: a body without a head")
        if stream.ending and not stream.pending:
            raise ValueError("ending: a response that has ended")
        if stream.remote_ended and stream.remaining > 0:
            raise ValueError("remaining: of a request that has ended")
        return stream
