"""python -m bench.soak [PART ...] [--quick]: all parts, one after the other, and one table at the end."""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time
from pathlib import Path

from bench.soak import kills, leaks, new_connections, queues, serving, slow_clients, stalls
from bench.soak.figures import Figure, table

PARTS = {
    "new": new_connections.run,
    "queues": queues.run,
    "kills": kills.run,
    "serving": serving.run,
    "stalls": stalls.run,
    "leaks": leaks.run,
    "slow": slow_clients.run,
}
QUICK = 0.1


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.soak")
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; without, all of them")
    parser.add_argument("--quick", action="store_true", help="a tenth of each, which proves nothing")
    chosen = parser.parse_args()
    if unknown := set(chosen.parts) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    figures: list[Figure] = []
    for name in chosen.parts or PARTS:
        began_s = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="hp-") as directory:
            found = PARTS[name](Path(directory), QUICK if chosen.quick else 1.0)
        print(f"\n{name}, {time.monotonic() - began_s:.0f} s\n{table(found)}", flush=True)
        figures += found
    print(f"\nall\n{table(figures)}")
    missed = sum(figure.fails for figure in figures)
    if missed:
        print(f"soak: {missed} bars that are counted were missed", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
