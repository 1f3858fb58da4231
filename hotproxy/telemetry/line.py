"""Who joins a log's lines: a compiled function, unless it was not built or is switched off (see `shm.kernel`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hotproxy.shm.kernel import why_failed, why_not
from hotproxy.telemetry import plain_line

if TYPE_CHECKING:
    from hotproxy.telemetry.plain_line import tame_line

    WHY_PLAIN: str  # "" when it is compiled
else:
    tame_line = plain_line.tame_line
    WHY_PLAIN = why_not()
    if not WHY_PLAIN:
        try:
            from hotproxy.telemetry._line import tame_line
        except ImportError as error:
            WHY_PLAIN = why_failed(error)

__all__ = ["WHY_PLAIN", "tame_line"]
