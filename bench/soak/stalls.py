"""How long open connections stand still, and when the old generation is gone: 1,000 and 5,000 of every kind."""

from __future__ import annotations

import statistics
from pathlib import Path

from bench import moves
from bench.soak.figures import Figure, at_most, none

# Connections, restarts, seconds between two rounds of a connection, and the longest pause that is promised.
RUNS = ((1000, 20, 1.0, 100.0), (5000, 10, 5.0, 250.0))


def run(directory: Path, share: float) -> list[Figure]:
    figures = []
    for connections, restarts, pace_s, bar_ms in RUNS:
        restarts = max(round(restarts * share), 2)
        found = moves.measure(connections, restarts, 2, pace_s)
        machine_ms, gone_ms = found.machine_ms, statistics.median(found.gone_ms)
        what = f"{connections} connections, {restarts} restarts"
        kind = max(found.counts["worst_ms"], key=found.counts["worst_ms"].__getitem__)
        figures += [
            none("C3, C4", f"{what}: clients that saw anything", found.counts["failures"], f"{connections}"),
            none("C3", "  connections that stayed behind", found.refused, f"{sum(found.moved)} moves"),
            at_most("C4", f"  worst stall ({kind})", found.worst_ms, bar_ms, "ms", machine_ms),
            at_most(
                "C4", "  all of them moved, median", statistics.median(found.move_ms), bar_ms * 2, "ms", machine_ms
            ),
            at_most("C7, C13", "  old generation gone, median", gone_ms, 2000, "ms", machine_ms),
        ]
    return figures
