"""The clients: two processes, one for short requests and one for connections that live long, checking every byte.

Whoever is cut connects anew, so that each restart meets the same number of connections of each kind.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator

from bench.peers.processes import pinned
from tests.kit.clients import LoadRun, LongLived, load, long_lived

NEW, KEPT, WEBSOCKET, TCP = "new", "keep-alive", "websocket", "tcp_pairs"
DOWNLOAD, SLOW, UPLOAD = "streams", "slow", "uploads"
KINDS = (NEW, KEPT, WEBSOCKET, TCP, DOWNLOAD, SLOW, UPLOAD)
TITLES = {
    NEW: "new",
    KEPT: "keep-alive",
    WEBSOCKET: "WebSocket",
    TCP: "TCP",
    DOWNLOAD: "download",
    SLOW: "slow reader",
    UPLOAD: "upload",
}


@dataclasses.dataclass(frozen=True)
class Size:
    """How many clients of each kind; `open` of them hold a connection at any time."""

    new_per_s: int = 200
    keepalive: int = 100
    websocket: int = 40
    tcp: int = 40
    downloads: int = 8
    slow: int = 4
    uploads: int = 8
    pace_s: float = 0.2  # between two questions on a connection
    length_s: float = 20.0  # of a download and of an upload

    def open(self, tcp: bool = True) -> int:
        kept = self.keepalive + self.websocket + self.downloads + self.slow + self.uploads
        return kept + (self.tcp if tcp else 0)


@dataclasses.dataclass(frozen=True)
class Sightings:
    """What all clients have seen: the pages of their diaries, and how many requests' answers have begun."""

    answers: dict[str, list[tuple[float, float]]]
    losses: list[tuple[float, str, str, str]]
    answered: int


class Fleet:
    """All clients, at work."""

    def __init__(self, living: LongLived, load: LoadRun) -> None:
        self._parts = (living, load)

    def stop(self) -> Sightings:
        """The clients finish what they have begun, and stop."""
        living, load = (part.stop() for part in self._parts)
        answers: dict[str, list[tuple[float, float]]] = {}
        losses: list[tuple[float, str, str, str]] = []
        for counts in (living, load):
            answers |= {kind: [(when, after) for when, after in made] for kind, made in counts["answers"].items()}
            losses += [(when, kind, how, what) for when, kind, how, what in counts["losses"]]
        return Sightings(answers, sorted(losses), living["answered"] + sum(load["statuses"].values()))


@contextlib.contextmanager
def fleet(size: Size, http_port: int, tcp_port: int | None, origin: int, cpu: int) -> Iterator[Fleet]:
    """The ports are the proxy's, `origin` is where it leads to. Every client has been answered once."""
    kinds = {
        WEBSOCKET: size.websocket,
        TCP: size.tcp if tcp_port else 0,
        DOWNLOAD: size.downloads,
        SLOW: size.slow,
        UPLOAD: size.uploads,
    }
    where = {"http": ["127.0.0.1", http_port], "tcp": ["127.0.0.1", tcp_port], "origin": origin}
    how = {"pace_s": size.pace_s, "length_s": size.length_s, "again": True, "diary": True}
    with contextlib.ExitStack() as stack:
        with pinned(cpu):
            living = stack.enter_context(long_lived(**where, **kinds, **how))
            load_run = stack.enter_context(load(http_port, size.new_per_s, size.keepalive, size.pace_s, diary=True))
        yield Fleet(living, load_run)
