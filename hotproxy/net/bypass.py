"""Who moves bytes in the place of a connection's owner: `proxy/splice.py`."""

from __future__ import annotations

from typing import Protocol


class Bypass(Protocol):
    def pump(self) -> bool:
        """The descriptor is readable: take what there is. False: the connection reads it as ever."""


class Feeder(Protocol):
    """Has bytes for a connection, whose own buffer is empty meanwhile."""

    def on_writable(self) -> None: ...
