"""A stand-in generation that forges frames to its supervisor. Its config is the stand-in's, and in it:

    {"forge": {"at": "HELLO", "seed": 7, "count": 100}}

`at` HELLO: before it says it; SOCKETS, ACCEPT_ON: when it has heard it; ACCEPTING: when it has said so, and serves.
"""

from __future__ import annotations

import json
import os
import select
import sys
from pathlib import Path
from typing import Any, ClassVar

sys.path.insert(0, str(Path(__file__).parents[2]))

from hotproxy.restarter.frames import Channel, FrameError, Message
from hotproxy.restarter.instance_dir import SUPERVISOR_SOCKET
from hotproxy.zygote import __main__ as entry
from hotproxy.zygote import begin
from hotproxy.zygote.child import Child
from hotproxy.zygote.main import Zygote
from hotproxy.zygote.program import Orders
from tests.kit.forger import Forger
from tests.kit.stand_in import StandIn

KINDS = (
    "HELLO", "SLAB", "FORKED", "DIED", "SLOT", "READY", "FAILED", "ACCEPTING", "ACCEPT_STOPPED", "SHUT_DONE", "MOVED",
    "STUCK", "UNKNOWN",
)  # fmt: skip
LIKELY = {
    "serial": (1, 2, 3, 4, 5, 6, 7), "slot": (0, 1, 2, -1, 99), "role": ("worker", "control", "nobody"),
    "pid": (1 << 22, 0, -1), "status": (0, 9, 256, -1, 1 << 40),
    "state": ("accepting", "leaving", "draining", "ready", "x" * 300),
    "pair": (0, 1, 2, 3), "moved": (0, 5, -1), "refused": (0, 5, -1), "committed": (True, False),
    "epoch": (1, 2, 99), "protocol": (1, 2), "layout": (1, 2, -1), "slots": (0, 1, 2, 1024, 1025),
    "deadlines": ({}, {"drain_s": -1.0}, {"drain_s": float("nan")}, {"ready_s": 1e300}),
    "listeners": ([], [{"name": 7}], [{"name": "z", "addresses": [{"text": "x", "family": "tcp", "port": 70_000}]}]),
    "stats": ([], [["a.b", 1]], [[7]], [["a" * 5000, "counter", [], ""]]),
    "codecs": ({}, {"handoff": 1}, {"handoff": []}),
}  # fmt: skip


class Forging(Zygote):
    forge: ClassVar[dict[str, Any]] = {}

    def run(self) -> int:
        self._forge_at("HELLO")
        return super().run()

    def _obey(self, message: Message) -> None:
        super()._obey(message)
        self._forge_at(message.kind)

    def _on_accepting(self, child: Child) -> None:
        before = self._phase
        super()._on_accepting(child)
        if self._phase is not before:
            self._forge_at("ACCEPTING")

    def _forge_at(self, moment: str) -> None:
        if moment != self.forge["at"]:
            return
        forger = Forger(self.forge["seed"], KINDS, LIKELY)
        channel = self._supervisor.channel
        while forger.forged < self.forge["count"]:
            if not forger.send(channel.sock):
                select.select([channel], [channel], [])
            self._hear(channel)
        forger.close()
        os.write(2, f"forged {forger.forged} frames\n".encode())

    @staticmethod
    def _hear(channel: Channel) -> None:
        """What the supervisor says to it is nothing to us."""
        try:
            while (message := channel.receive()) is not None:
                message.close_fds()
        except FrameError:
            raise AssertionError("the supervisor says nonsense") from None


def load_and_live(channel: Channel, orders: Orders) -> int:
    """What `hotproxy.zygote.begin.begin` is to hotproxy."""
    wishes = json.loads(Path(orders.config).read_text())
    program = StandIn(wishes, orders)
    if "forge" in wishes:
        Forging.forge = wishes["forge"]
        begin.Zygote = Forging  # type: ignore[misc]
    return begin.live(
        channel, lambda: program, orders.epoch, orders.segment, orders.instance_dir / SUPERVISOR_SOCKET
    )  # fmt: skip


if __name__ == "__main__":
    begin.begin = load_and_live
    sys.exit(entry.main())
