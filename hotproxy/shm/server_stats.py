"""The statistics that the supervisor itself counts; declared here because it may import nothing above this room."""

from __future__ import annotations

from typing import Final

from hotproxy.shm.schema import COUNTER, GAUGE, Stat

RESTARTS: Final = "server.restarts"  # hot restarts that ended with the new generation serving
RESTARTS_FAILED: Final = "server.restarts_failed"  # those that were refused, or failed on the way
WORKER_CRASHES: Final = "server.worker_crashes"  # workers that ended without having been told to
CRASHED_IN_FLIGHT: Final = "server.crashed_in_flight"  # clients' connections that those held
HANDOFF_MOVED: Final = "server.handoff_moved"  # open connections that another worker went on with
HANDOFF_REFUSED: Final = "server.handoff_refused"  # those that could not move, and were drained
CONFIG_FALLBACK: Final = "server.config_fallback"  # 1: the config on disk is broken, the last good one runs
PURE_KERNEL: Final = "server.pure_kernel"  # 1: workers crashed too often, so that no compiled code of ours runs


def server_stats() -> list[Stat]:
    """Envoy has none of them, so their families begin with our own name."""
    counters = (RESTARTS, RESTARTS_FAILED, WORKER_CRASHES, CRASHED_IN_FLIGHT, HANDOFF_MOVED, HANDOFF_REFUSED)
    kinds = {**dict.fromkeys(counters, COUNTER), CONFIG_FALLBACK: GAUGE, PURE_KERNEL: GAUGE}
    return [Stat(name, kind, (), f"hotproxy_{name.replace('.', '_')}") for name, kind in kinds.items()]
