"""When each answer came and how each connection ended, by CLOCK_MONOTONIC, which all processes of a machine share.

A client that is asked for its diary adds `page()` to the JSON that it prints:

    {"answers": {kind: [[when_s, after_s], ...]}, "losses": [[when_s, kind, how, what], ...]}
"""

from __future__ import annotations

import collections
import json
import time
from typing import Any, Final

# How it ended, from the client's side.
REFUSED: Final = "refused"  # no connection
ASKED: Final = "asked"  # closed or silent while an answer was due, or part of one had come
IDLE: Final = "idle"  # closed while nothing was asked
WRONG: Final = "wrong"  # another status than 200, or another byte than was sent
SENT_AWAY: Final = "sent away"  # a right answer with `Connection: close`: polite, and no loss


class Diary:
    def __init__(self) -> None:
        self.answers: dict[str, list[tuple[float, float]]] = collections.defaultdict(list)
        self.losses: list[tuple[float, str, str, str]] = []

    def answered(self, kind: str, after_s: float) -> None:
        self.answers[kind].append((time.monotonic(), after_s))

    def lost(self, kind: str, how: str, what: str = "") -> None:
        self.losses.append((time.monotonic(), kind, how, what))

    def page(self) -> dict[str, Any]:
        return {"answers": self.answers, "losses": self.losses}


def hand_in(counts: dict[str, Any]) -> None:
    """All of it on stdout, in one line.

    print() does not do: with PYTHONUNBUFFERED nobody takes care of a write that was cut short, and a diary is larger
    than a pipe.
    """
    with open(1, "wb", closefd=False) as stdout:
        stdout.write(json.dumps(counts).encode() + b"\n")
