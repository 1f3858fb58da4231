"""How long open connections stand still at a restart, and how long moving them takes.

    make moves                    a minute; exit code 1 when a client saw anything but a pause

Connections of every kind live through the restarts, none connects anew. Printed: the restarts' own figures, the slowest
answer of any client, the longest gap in a stream of a piece every 10 ms, and, beside them, the worst gap of a thread
that does nothing but read the clock: what the machine itself took away.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.startup import SpinMonitor
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


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--connections", type=int, default=1000, help="half of them keep-alive, the rest of every kind")
    parser.add_argument("--restarts", type=int, default=20)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--pace", type=float, default=1.0, help="seconds between two rounds of a connection")
    chosen = parser.parse_args()
    count = chosen.connections
    with tempfile.TemporaryDirectory(prefix="hp-") as name, origin.echo_origin() as ports:
        with instance(Path(name), CONFIG.format(workers=chosen.workers, **ports)) as proxy:
            where = {"http": ["127.0.0.1", proxy.port("web")], "tcp": ["127.0.0.1", proxy.port("db")]}
            kinds = {"keepalive": count // 2, "websocket": count // 4, "tcp_pairs": count // 4, "streams": 4}
            with clients.long_lived(**where, origin=ports["http"], **kinds, pace_s=chosen.pace) as living:
                restarts, gone_s = [], []
                with SpinMonitor() as machine:
                    for _ in range(chosen.restarts):
                        proxy.reload()
                        began_s = time.monotonic()
                        restarts.append(proxy.status()["last_restart"])
                        eventually(lambda: len(proxy.status()["generations"]) == 1, "the old generation to be gone")
                        gone_s.append(time.monotonic() - began_s)
                counts = living.stop()
            stats = proxy.stats()
    moved, ms, move_ms = ([each[what] for each in restarts] for what in ("moved", "ms", "move_ms"))
    print(f"{chosen.restarts} restarts, {min(moved)} to {max(moved)} connections each, {chosen.workers} workers")
    print(f"  restart    {statistics.median(ms):7.0f} ms median, {max(ms)} ms worst")
    print(f"  moving     {statistics.median(move_ms):7.0f} ms median, {max(move_ms)} ms worst")
    print(
        f"  old gone   {statistics.median(gone_s) * 1e3:7.0f} ms after that at most, {max(gone_s) * 1e3:.0f} ms worst"
    )
    for kind, worst in sorted(counts["worst_ms"].items()):
        print(f"  {kind:10} {worst:7.1f} ms worst answer or gap")
    print(f"  machine    {machine.worst_ms:7.1f} ms worst gap of its own")
    print(f"  refused    {stats['server.handoff_refused']:7}")
    if counts["failures"]:
        print(f"moves: {counts['failures']}", file=sys.stderr)
    return 1 if counts["failures"] else 0


if __name__ == "__main__":
    sys.exit(main())
