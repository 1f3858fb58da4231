"""What the clients have seen, as figures. No measuring here.

A trial has several restarts. What was lost belongs to all that happened from the first of them on: a connection that is
cut a minute later, with the process that held it, was cut by the restart.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Iterable, Sequence

from bench.restart.fleet import DOWNLOAD, KEPT, KINDS, NEW, SLOW, TCP, UPLOAD, Sightings
from tests.kit.diary import ASKED, IDLE, REFUSED, SENT_AWAY, WRONG

# The window in which a restart is looked for in latencies: a reload of any of them begins and ends in it.
WINDOW_S = 1.0
# A pause that a restart made may become visible a little later; what comes after that is somebody else's.
AROUND_S = 2.0
# On how much calm the figures of a restart are measured.
BEFORE_S = 3.0


@dataclasses.dataclass(frozen=True)
class Losses:
    """Everything that did not go as the client wanted, and `sent_away`, which is as it should be."""

    cut: dict[str, int]  # connections that somebody else than the client ended, by kind
    idle: int  # how many of them in a moment in which nothing was asked
    failed: int  # requests without a whole, right answer
    failed_new: int  # how many of them on new connections
    refused: int  # connections that could not be made
    wrong: int  # answers with a wrong status or byte
    sent_away: int  # right answers with Connection: close

    @property
    def cut_in_all(self) -> int:
        return sum(self.cut.values())


def losses(sightings: Sightings, began_s: float, ended_s: float = math.inf) -> Losses:
    """From `began_s` on, and before `ended_s`."""
    found = [(kind, how) for when, kind, how, _ in sightings.losses if began_s <= when < ended_s]
    cut = Counter(kind for kind, how in found if how in (ASKED, IDLE) and kind != NEW)
    ways = Counter(how for _, how in found)
    return Losses(
        cut={kind: cut[kind] for kind in KINDS if kind != NEW},
        idle=ways[IDLE],
        failed=sum(is_request(kind, how) for kind, how in found),
        failed_new=sum(kind == NEW and is_request(kind, how) for kind, how in found),
        refused=ways[REFUSED],
        wrong=ways[WRONG],
        sent_away=ways[SENT_AWAY],
    )


def is_request(kind: str, how: str) -> bool:
    """Was it a request that failed? After an upgrade there are no requests any more, in TCP never."""
    if kind in (NEW, KEPT, DOWNLOAD, SLOW, UPLOAD):
        return how in (ASKED, WRONG, REFUSED)
    return kind != TCP and how in (WRONG, REFUSED)


def lost_counts(answered: int, counted: int) -> int:
    """Requests that were answered, and that the proxy does not remember. It may know of more: those that failed."""
    return max(0, answered - counted)


def windowed(sightings: Sightings, kinds: Iterable[str], windows: Sequence[tuple[float, float]]) -> list[float]:
    """How long whoever waited in one of the windows had to wait in all, in seconds, in ascending order."""
    return sorted(
        after
        for kind in kinds
        for when, after in sightings.answers.get(kind, ())
        if any(begin <= when and when - after < end for begin, end in windows)
    )


def percentile(ascending: Sequence[float], share: float) -> float | None:
    """The smallest value that is at least as large as `share` of all; None of nothing."""
    if not ascending:
        return None
    return ascending[max(0, math.ceil(len(ascending) * share) - 1)]


def latencies(sightings: Sightings, restarts_s: Sequence[float]) -> dict[str, float]:
    """In milliseconds: of short requests the p99 before and at the restarts and the worst, of downloads the stall."""
    short = (NEW, KEPT)
    before = windowed(sightings, short, [(restarts_s[0] - BEFORE_S, restarts_s[0])])
    during = windowed(sightings, short, [(each, each + WINDOW_S) for each in restarts_s])
    around = [(each, each + AROUND_S) for each in restarts_s]
    found = {
        "p99_before_ms": percentile(before, 0.99),
        "p99_ms": percentile(during, 0.99),
        "worst_ms": percentile(windowed(sightings, short, around), 1.0),
        "stall_ms": percentile(windowed(sightings, (DOWNLOAD,), around), 1.0),
    }
    return {name: value * 1e3 for name, value in found.items() if value is not None}


def dip(due_and_after_ns: Sequence[tuple[int, int]], restart_ns: int) -> dict[str, float]:
    """From open_loop's diary: of what was due in the second of the restart, the share that was not answered in it.

    What was late before and is answered in this second counts against it; so a dip may be below zero.
    """
    begin, end = restart_ns, restart_ns + int(WINDOW_S * 1e9)
    due = [after for when, after in due_and_after_ns if begin <= when < end]
    answered = sum(after > 0 and begin <= when + after < end for when, after in due_and_after_ns)
    waited = sorted(after if after > 0 else math.inf for after in due)
    tail = percentile(waited, 0.99)
    if tail is None:
        return {}
    return {"dip": 1 - answered / len(due), "loaded_p99_ms": min(tail / 1e6, AROUND_S * 1e3)}
