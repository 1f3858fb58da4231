"""How much a client may ask of an HTTP/2 connection without doing anything with it.

Frames that are legal, cheap to send and dear to handle are paid for from two budgets that fill up again with time:

    glitches   PING, SETTINGS, PRIORITY, unknown frames, DATA without content, CONTINUATION that is not the last one,
               WINDOW_UPDATE beyond what the DATA we sent explains, frames for streams that are gone
    resets     streams that the client has reset before they were answered, and those that we had to refuse or reset
               for what it did, malformed ones included ("rapid reset", CVE-2023-44487; "made you reset", CVE-2025-8671)

A client whose budget is used up is told ENHANCE_YOUR_CALM. The budgets are nghttp2's (stream_reset_rate_limit 1000 and
33/s, glitch_rate_limit 10000 and 330/s), the bursts smaller: a frame costs us more than it costs nghttp2. 500 resets
are Envoy's premature_reset_total_stream_count. Browsers reset at most all of their streams at once, which are 100.
"""

from __future__ import annotations

from typing import Final

from hotproxy.saved import saved_part, saved_seconds

GLITCH_BURST: Final = 1000.0
GLITCHES_PER_S: Final = 330.0
RESET_BURST: Final = 500.0
RESETS_PER_S: Final = 33.0
# For each DATA frame of ours: Envoy's max_inbound_window_update_frames_per_data_frame_sent.
WINDOW_UPDATES_PER_DATA: Final = 10
SMALL_DATA_BYTES: Final = 1024  # one packet's worth
# More than are needed for what one window's worth of DATA explains are not saved up.
MAX_WINDOW_UPDATES: Final = 1000

_KEYS: Final = frozenset(("left", "since_s"))


class Budget:
    """A token bucket. Times are CLOCK_MONOTONIC, so that it moves with its connection."""

    __slots__ = ("_burst", "_left", "_per_s", "_since_s")

    def __init__(self, burst: float, per_s: float, now_s: float = 0.0) -> None:
        self._burst = burst
        self._per_s = per_s
        self._left = burst
        self._since_s = now_s

    def spend(self, now_s: float) -> bool:
        """One of them; False: it is used up."""
        left = self._left
        if now_s > self._since_s:
            left = min(self._burst, left + (now_s - self._since_s) * self._per_s)
            self._since_s = now_s
        self._left = max(0.0, left - 1.0)
        return left >= 1.0

    def dump(self) -> dict[str, object]:
        return {"left": self._left, "since_s": self._since_s}

    @classmethod
    def load(cls, state: object, burst: float, per_s: float) -> Budget:
        """The inverse of `dump`; ValueError for anything else."""
        record = saved_part(state, "budget", _KEYS)
        budget = cls(burst, per_s, saved_seconds(record, "since_s"))
        budget._left = min(burst, saved_seconds(record, "left"))
        return budget
