"""Making a hundred thousand objects at once, all of which are kept."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def no_collections() -> Iterator[None]:
    """Spares what is made inside the collector's visits: each of them walks through all that is there already and
    finds nothing. Unpacking the statistics of 800 clusters takes 45 ms without them, 190 ms with them."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
