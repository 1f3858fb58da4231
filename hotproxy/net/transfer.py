"""Who moves bytes: compiled functions, unless they were not built or are switched off (see `shm.kernel`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hotproxy.net import plain_transfer
from hotproxy.net.plain_transfer import READ_BYTES
from hotproxy.shm.kernel import why_failed, why_not

if TYPE_CHECKING:
    from hotproxy.net.plain_transfer import accept, is_quiet, receive, transmit

    WHY_PLAIN: str  # "" when they are compiled
else:
    accept, receive = plain_transfer.accept, plain_transfer.receive
    transmit, is_quiet = plain_transfer.transmit, plain_transfer.is_quiet
    WHY_PLAIN = why_not()
    if not WHY_PLAIN:
        try:
            from hotproxy.net._transfer import accept, is_quiet, receive, transmit
        except ImportError as error:
            WHY_PLAIN = why_failed(error)

__all__ = ["READ_BYTES", "WHY_PLAIN", "accept", "is_quiet", "receive", "transmit"]
