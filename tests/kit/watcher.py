"""Somebody who watches a proxy all the time, as dashboards do; a program of its own.

    python watcher.py INSTANCE_DIR SEGMENT [PERIOD_S]       runs until its stdin is closed

Every 50 ms it asks for the statistics in shared memory, for `status` on `supervisor.sock`, and for `/stats` on
`admin.sock`, from a fixed schedule. No counter may ever fall. On stdout, at the end, one JSON object:

    {"answers": {what: how many}, "failures": {what: how often}, "worst_ms": {what: the slowest}, "fell": [names],
     "accepting": most generations that accepted at a time, "alive": most that lived, "late": asked later than planned}
"""

from __future__ import annotations

import collections
import contextlib
import json
import select
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).parents[2]))

from hotproxy.restarter.frames import Channel, ChannelClosed, FrameError
from hotproxy.shm import reader
from hotproxy.shm.schema import COUNTER, HISTOGRAM

PERIOD_S: Final = 0.05
TIMEOUT_S: Final = 5.0
ACCEPTING: Final = ("opening", "active", "orphaned", "yielding")


class Watcher:
    def __init__(self, instance_dir: Path, segment: str) -> None:
        self.instance_dir = instance_dir
        self.segment = segment
        self.answers: collections.Counter[str] = collections.Counter()
        self.failures: collections.Counter[str] = collections.Counter()
        self.worst_s: dict[str, float] = {}
        self.counters: dict[str, int] = {}
        self.fell: set[str] = set()
        self.accepting = self.alive = self.late = 0

    def run(self, period_s: float) -> dict[str, object]:
        print("running", flush=True)
        due_s = time.monotonic()
        while not select.select([sys.stdin], [], [], max(due_s - time.monotonic(), 0.0))[0]:
            if time.monotonic() < due_s:
                continue
            self.ask("stats", self.look_at_stats)
            self.ask("status", self.look_at_status)
            self.ask("admin", self.look_at_admin)
            due_s += period_s
            if due_s < time.monotonic():  # it took longer than that, or the machine was busy
                self.late += 1
                due_s = time.monotonic()
        return {
            "answers": self.answers, "failures": self.failures, "fell": sorted(self.fell),
            "worst_ms": {what: round(seconds * 1e3, 1) for what, seconds in self.worst_s.items()},
            "accepting": self.accepting, "alive": self.alive, "late": self.late,
        }  # fmt: skip

    def ask(self, what: str, look: Callable[[], None]) -> None:
        began_s = time.monotonic()
        try:
            look()
        except (OSError, reader.ShmError, ValueError, ChannelClosed, FrameError) as error:
            self.failures[f"{what}: {type(error).__name__}: {error}"] += 1
            return
        self.answers[what] += 1
        self.worst_s[what] = max(self.worst_s.get(what, 0.0), time.monotonic() - began_s)

    def look_at_stats(self) -> None:
        reading = reader.read(self.segment)
        for name, stat in reading.stats.items():
            value = reading.values[name]
            if stat.kind == HISTOGRAM:
                assert isinstance(value, reader.HistogramValue)
                self.must_not_fall(name, value.count)
            elif stat.kind == COUNTER:
                assert isinstance(value, int)
                self.must_not_fall(name, value)

    def must_not_fall(self, name: str, value: int) -> None:
        if value < self.counters.get(name, 0):
            self.fell.add(f"{name}: {self.counters[name]} -> {value}")
        self.counters[name] = value

    def look_at_status(self) -> None:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with contextlib.closing(sock):
            sock.settimeout(TIMEOUT_S)
            sock.connect(str(self.instance_dir / "supervisor.sock"))
            channel = Channel(sock)
            channel.send("COMMAND", {"verb": "status", "arguments": {}})
            if not select.select([channel], [], [], TIMEOUT_S)[0]:
                raise TimeoutError("no answer")
            message = channel.receive()
        if message is None or message.kind != "RESULT" or not message.fields["ok"]:
            raise ValueError(f"{message}")
        states: list[Any] = [each["state"] for each in message.fields["data"]["generations"]]
        self.alive = max(self.alive, len(states))
        self.accepting = max(self.accepting, sum(state in ACCEPTING for state in states))

    def look_at_admin(self) -> None:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(TIMEOUT_S)
            sock.connect(str(self.instance_dir / "admin.sock"))
            sock.sendall(b"GET /stats?filter=^server HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            answer = b""
            while data := sock.recv(65536):
                answer += data
        if not answer.startswith(b"HTTP/1.1 200 ") or b"server.live: 1\n" not in answer:
            raise ValueError(repr(answer[:100]))


def main() -> None:
    watcher = Watcher(Path(sys.argv[1]), sys.argv[2])
    print(json.dumps(watcher.run(float(sys.argv[3]) if len(sys.argv) > 3 else PERIOD_S)), flush=True)


if __name__ == "__main__":
    main()
