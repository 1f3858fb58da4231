"""How long open connections stand still at a restart, and how long moving them takes.

    make moves                    a minute; exit code 1 when a client saw anything but a pause

Connections of every kind live through the restarts, none connects anew. Printed: the restarts' own figures, the slowest
answer of any client, the longest gap in a stream of a piece every 10 ms, and, beside them, the machine's own worst gap
(bench/spin.py).
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.spin import SpinMonitor
from tests.kit import clients, origin
from tests.kit.instance import eventually, instance

CONFIG = """
workers: {workers}
listeners:
  - {{name: web, address: "127.0.0.1:0", cluster: http, timeout: 0s}}
  - {{name: db, address: "127.0.0.1:0", tcp: {{cluster: tcp}}}}
clusters:
  - {{name: http, endpoints: ["127.0.0.1:{http}"]}}
  - {{name: tcp, endpoints: ["127.0.0.1:{tcp}"]}}
"""


@dataclass(slots=True)
class Moved:
    """Of one run; lists have an entry for each restart."""

    moved: list[int]
    restart_ms: list[float]
    move_ms: list[float]
    gone_ms: list[float]  # the old generation, after the restart had ended
    refused: int  # connections that stayed, in all restarts
    counts: dict[str, Any]  # what the clients have seen
    machine_ms: float

    @property
    def worst_ms(self) -> float:
        """The slowest answer of any client, and the longest gap in a stream."""
        return float(max(self.counts["worst_ms"].values()))


def measure(connections: int, restarts: int, workers: int, pace_s: float) -> Moved:
    """Half of the connections keep-alive, the rest of every kind, each asking every `pace_s` or so."""
    found = Moved([], [], [], [], 0, {}, 0.0)
    with tempfile.TemporaryDirectory(prefix="hp-") as name, origin.echo_origin() as ports:
        with instance(Path(name), CONFIG.format(workers=workers, **ports)) as proxy:
            where = {"http": ["127.0.0.1", proxy.port("web")], "tcp": ["127.0.0.1", proxy.port("db")]}
            kinds = {
                "keepalive": connections // 2, "websocket": connections // 4, "tcp_pairs": connections // 4,
                "streams": 4,
            }  # fmt: skip
            with clients.long_lived(**where, origin=ports["http"], **kinds, pace_s=pace_s) as living:
                with SpinMonitor() as machine:
                    for _ in range(restarts):
                        proxy.reload()
                        began_s = time.monotonic()
                        last = proxy.status()["last_restart"]
                        eventually(lambda: len(proxy.status()["generations"]) == 1, "the old generation to be gone")
                        found.gone_ms.append((time.monotonic() - began_s) * 1e3)
                        found.moved.append(last["moved"])
                        found.restart_ms.append(last["ms"])
                        found.move_ms.append(last["move_ms"])
                found.counts = living.stop()
            found.refused = proxy.stats()["server.handoff_refused"]
        found.machine_ms = machine.worst_ms
    return found


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--connections", type=int, default=1000, help="half of them keep-alive, the rest of every kind")
    parser.add_argument("--restarts", type=int, default=20)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--pace", type=float, default=1.0, help="seconds between two rounds of a connection")
    chosen = parser.parse_args()
    found = measure(chosen.connections, chosen.restarts, chosen.workers, chosen.pace)
    low, high = min(found.moved), max(found.moved)
    print(f"{chosen.restarts} restarts, {low} to {high} connections each, {chosen.workers} workers")
    for what, times, after in (
        ("restart", found.restart_ms, ""), ("moving", found.move_ms, ""), ("old gone", found.gone_ms, " after that"),
    ):  # fmt: skip
        print(f"  {what:10} {statistics.median(times):7.0f} ms median{after}, {max(times):.0f} ms worst")
    for kind, worst in sorted(found.counts["worst_ms"].items()):
        print(f"  {kind:10} {worst:7.1f} ms worst answer or gap")
    print(f"  machine    {found.machine_ms:7.1f} ms worst gap of its own")
    print(f"  refused    {found.refused:7}")
    if found.counts["failures"]:
        print(f"moves: {found.counts['failures']}", file=sys.stderr)
    return 1 if found.counts["failures"] else 0


if __name__ == "__main__":
    sys.exit(main())
