"""The fields of a message: the compiled headers, unless they were not built or are switched off (see `shm.kernel`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hotproxy.http import plain_headers
from hotproxy.shm.kernel import why_failed, why_not

if TYPE_CHECKING:
    from hotproxy.http.plain_headers import Headers

    WHY_PLAIN: str  # "" when they are compiled
else:
    Headers = plain_headers.Headers
    WHY_PLAIN = why_not()
    if not WHY_PLAIN:
        try:
            from hotproxy.http._headers import Headers
        except ImportError as error:
            WHY_PLAIN = why_failed(error)

__all__ = ["WHY_PLAIN", "Headers"]
