"""What the data path needs of an event loop: `Poller`, a `TlsLoop` for one connection of it, or a test's."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Protocol


class Loop(Protocol):
    def add_reader(self, fd: int, callback: Callable[[], None]) -> None: ...

    def remove_reader(self, fd: int) -> object: ...

    def add_writer(self, fd: int, callback: Callable[[], None]) -> None: ...

    def remove_writer(self, fd: int) -> object: ...

    def call_soon(self, callback: Callable[[], None]) -> object: ...

    def receive(self, fd: int) -> bytes | None:
        """See `plain_transfer`, as for the next two."""

    def transmit(self, fd: int, data: bytes | bytearray) -> int: ...

    def is_quiet(self, fd: int) -> bool: ...

    def half_close(self, sock: socket.socket) -> None:
        """Nothing more will be sent. OSError when the peer has reset it."""

    def forget(self, fd: int) -> None:
        """Watch it no longer: always before it is closed, for a dup held anywhere would keep a registration alive."""

    def is_movable(self, fd: int) -> bool:
        """Could another process go on with this descriptor?"""
