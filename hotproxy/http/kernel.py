"""Which head parser serves: the compiled one, unless it was not built or is switched off (see `shm.kernel`)."""

from __future__ import annotations

from typing import Final

from hotproxy.http.head_parser import HTTPTOOLS, HeadParser
from hotproxy.shm.kernel import why_failed, why_not


def _choose() -> tuple[HeadParser, str]:
    why = why_not()
    if not why:
        try:
            from hotproxy.http._kernel import CompiledHeadParser

            return CompiledHeadParser(), ""
        except ImportError as error:
            why = why_failed(error)
    return HTTPTOOLS, why


_chosen = _choose()
PARSER: Final[HeadParser] = _chosen[0]
WHY_PURE: Final[str] = _chosen[1]  # "" when it is compiled
