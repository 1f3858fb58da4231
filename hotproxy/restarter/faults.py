"""Processes that fail on demand, at any message: for tests that kill, hang and lie at every step of a restart.

    HOTPROXY_FAULT=<step>:<exit|hang|kill|garbage>       honoured only with the hidden `hotproxy run --allow-faults`
    step     [zygote.|worker.|control.](send|receive).<KIND>[@<epoch>]

The process of that role (any, if none is named) in the generation of that epoch (any) fails when it is about to send,
or has just received, a message of that kind (`frames.KINDS`). `garbage`: what it sends is no frame; what it received it
answers with no frame. `HOTPROXY_FAULT=@FILE` is read by each generation as it starts. The supervisor never fails.
"""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Final

VARIABLE: Final = "HOTPROXY_FAULT"
EXIT: Final = "exit"
HANG: Final = "hang"
KILL: Final = "kill"
GARBAGE: Final = "garbage"
FAULTS: Final = (EXIT, HANG, KILL, GARBAGE)
ROLES: Final = ("zygote", "worker", "control")
SIDES: Final = ("send", "receive")
# What no other code of ours exits with, so that a log shows whose doing it was.
EXIT_CODE: Final = 99
_GARBAGE: Final = b"\xde\xad\xbe\xef no frame"


@dataclass(frozen=True, slots=True)
class Fault:
    """`role` "" and `epoch` 0: any."""

    role: str
    side: str
    kind: str
    epoch: int
    what: str


class FaultError(ValueError):
    """Not a fault that can be had; says why."""


def parse(text: str, kinds: Collection[str]) -> Fault:
    """Raises FaultError."""
    step, colon, what = text.strip().rpartition(":")
    place, at, epoch = step.partition("@")
    words = place.split(".")
    role = words.pop(0) if words[0] in ROLES else ""
    if not colon or what not in FAULTS:
        raise FaultError(f"{VARIABLE}: {text!r} does not end with one of {', '.join(':' + each for each in FAULTS)}")
    if len(words) != 2 or words[0] not in SIDES or words[1] not in kinds:
        raise FaultError(
            f"{VARIABLE}: {step!r} is no step such as send.PREPARED, worker.receive.COMMIT or send.HELLO@2"
        )
    if at and not epoch.isdecimal():
        raise FaultError(f"{VARIABLE}: {epoch!r} is not the number of a generation")
    return Fault(role, words[0], words[1], int(epoch or 0), what)


def chosen(kinds: Collection[str]) -> Fault | None:
    """What the environment asks for, now. Raises FaultError, OSError."""
    text = os.environ.get(VARIABLE, "")
    if text.startswith("@"):
        text = Path(text[1:]).read_text()
    return parse(text, kinds) if text.strip() else None


class Faults:
    """Of this process. Disarmed, as it always is in production, it costs a look at one attribute."""

    __slots__ = ("armed", "role")

    def __init__(self) -> None:
        self.armed: Fault | None = None
        self.role = ""

    def arm(self, fault: Fault | None, epoch: int, role: str) -> None:
        """This process and its children are of generation `epoch`."""
        self.role = role
        self.armed = fault if fault is not None and fault.epoch in (0, epoch) else None

    def strike(self, side: str, kind: str, sock: socket.socket) -> bool:
        """Called at every message. True: what was to be sent is not sent."""
        fault = self.armed
        if fault is None or (fault.side, fault.kind) != (side, kind) or fault.role not in ("", self.role):
            return False
        if fault.what == EXIT:
            os._exit(EXIT_CODE)
        elif fault.what == KILL:
            os.kill(os.getpid(), signal.SIGKILL)
        elif fault.what == HANG:
            while True:
                signal.pause()
        self.armed = None  # garbage is said once
        try:
            sock.send(_GARBAGE)
        except OSError:
            pass  # full or gone: then it is silence
        return side == "send"


FAULTS_HERE: Final = Faults()
