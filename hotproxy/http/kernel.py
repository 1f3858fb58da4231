"""Who reads and writes heads: compiled code, unless it was not built or is switched off (see `shm.kernel`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from hotproxy.http import head_encoder
from hotproxy.http.head_parser import HTTPTOOLS, HeadParser
from hotproxy.http.headers import Headers
from hotproxy.shm.kernel import why_failed, why_not

Encode = Callable[[bytes, Headers, list[bytes]], bytes]


def _choose() -> tuple[HeadParser, Encode, str]:
    why = why_not()
    if not why:
        try:
            from hotproxy.http._kernel import CompiledHeadParser, encode_head

            return CompiledHeadParser(), encode_head, ""
        except ImportError as error:
            why = why_failed(error)
    return HTTPTOOLS, head_encoder.encode_head, why


_chosen = _choose()
PARSER: Final[HeadParser] = _chosen[0]
encode_head: Final[Encode] = _chosen[1]
WHY_PURE: Final[str] = _chosen[2]  # "" when they are compiled
