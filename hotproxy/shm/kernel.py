"""Which cells count: the compiled ones, unless they were not built or are switched off.

HOTPROXY_KERNEL=pure switches compiled code off here and in `http.kernel`: for tests, and for an emergency. It is read
from the environment of each interpreter (`python -I` ignores PYTHON variables only), so a running instance changes with
its next reload if its supervisor was started with it; there is no key in the config, because the supervisor counts too
and never reads one. A generation whose workers crash too often is started afresh with it (restarter.crash_signals).
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from hotproxy.shm import plain_cells

SWITCH: Final = "HOTPROXY_KERNEL"
PURE: Final = "pure"
SWITCHED_OFF: Final = f"switched off by {SWITCH}={PURE}"
NOT_BUILT: Final = "it was not built"


def why_not() -> str:
    """Why compiled code is not even looked for; "" if it is."""
    return SWITCHED_OFF if os.environ.get(SWITCH) == PURE else ""


def why_failed(error: ImportError) -> str:
    """Why it could not be imported."""
    return NOT_BUILT if isinstance(error, ModuleNotFoundError) else str(error)


if TYPE_CHECKING:
    from hotproxy.shm.plain_cells import Counter, Gauge, Histogram

    WHY_PLAIN: str  # "" when they are compiled
else:
    Counter, Gauge, Histogram = plain_cells.Counter, plain_cells.Gauge, plain_cells.Histogram
    WHY_PLAIN = why_not()
    if not WHY_PLAIN:
        try:
            from hotproxy.shm._cells import Counter, Gauge, Histogram
        except ImportError as error:
            WHY_PLAIN = why_failed(error)

__all__ = [
    "NOT_BUILT",
    "PURE",
    "SWITCH",
    "SWITCHED_OFF",
    "WHY_PLAIN",
    "Counter",
    "Gauge",
    "Histogram",
    "why_failed",
    "why_not",
]
