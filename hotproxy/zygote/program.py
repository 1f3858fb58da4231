"""What a zygote forks: the seam between the process plane and what runs in it."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from hotproxy.restarter.frames import Channel
from hotproxy.restarter.hello import Hello
from hotproxy.restarter.ticket_chain import TicketChain
from hotproxy.shm.cells import Slab


@dataclass(frozen=True, slots=True)
class Orders:
    """What the supervisor wants of a generation. `workers` 0: the config decides. `last_good`: where to keep the config
    once it serves, "": nowhere; `fallback`: take the one that is there when the config is broken. `pure`: why no
    compiled code of ours may run."""

    config: str
    epoch: int
    segment: str
    instance_dir: Path
    workers: int = 0
    last_good: str = ""
    fallback: bool = False
    pure: str = ""


@dataclass(slots=True, eq=False)
class HeldSocket:
    """A listening socket that the supervisor passed. `slot` numbers the sockets of an address, not who accepts."""

    listener: str
    address_index: int
    slot: int
    shared: bool
    sock: socket.socket
    inode: tuple[int, int] = (0, 0)  # device and inode of a unix socket's file, as the supervisor knows it

    @property
    def listening(self) -> bool:
        return bool(self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))

    def wire(self) -> list[Any]:
        return [self.listener, self.address_index, self.slot, self.listening, self.shared]

    def named_in(self, wires: Sequence[Any]) -> bool:
        """Whether one of `wires` (as in SHUT) means this socket."""
        return any(list(wire[:3]) == [self.listener, self.address_index, self.slot] for wire in wires)


@dataclass(slots=True)
class Birth:
    """What a forked process begins with. `slot` is 0 for the control process."""

    slot: int
    channel: Channel
    slab: Slab
    sockets: list[HeldSocket] = field(default_factory=list)
    tickets: TicketChain | None = None  # None: the supervisor is older than they are


class Program(Protocol):
    """One generation's code and config."""

    hello: Hello

    def is_control(self, listener: str) -> bool: ...  # this listener's sockets are the control process's

    def work(self, birth: Birth) -> int: ...  # in the child: the exit code

    def control(self, birth: Birth) -> int: ...
