"""What a supervisor hands to its next version over execve: descriptors that stay open, and what nobody else remembers.

The lock and `supervisor.sock` are arguments (`--lock-fd`, `--commands-fd`), so that a version that can't read the rest
still has them; the rest is msgpack in a memfd (`--resume`). Generations are not in it: they come back by themselves, as
to any supervisor (`survivors`). The listening sockets are, so that their queues outlive even a zygote that dies now.
"""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Collection
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import msgpack

from hotproxy.restarter.log import WARNING, log

VERSION: Final = 1
MAX_BYTES: Final = 1024 * 1024


class ResumeError(Exception):
    """Not what a supervisor hands over; says why."""


@dataclass(frozen=True, slots=True)
class Inherited:
    """The descriptors that are arguments; -1: none."""

    lock: int = -1
    commands: int = -1
    resume: int = -1


NOTHING: Final = Inherited()


@dataclass(frozen=True, slots=True)
class Resume:
    started_s: float  # CLOCK_MONOTONIC
    soft_drain: bool
    last_restart: dict[str, Any] | None
    sockets: list[list[Any]] = field(default_factory=list)  # `OwnedSocket.to_wire`
    tickets: list[Any] = field(default_factory=list)  # `TicketChain.to_wire`; an older version has none

    def write(self) -> int:
        """A memfd with it."""
        fd = os.memfd_create("hotproxy-resume", os.MFD_CLOEXEC)
        os.write(fd, msgpack.packb({"version": VERSION, **asdict(self)}))
        return fd


def read(fd: int) -> Resume:
    """What `write` has written. Raises ResumeError."""
    try:
        fields = msgpack.unpackb(os.pread(fd, MAX_BYTES, 0))
    except Exception as error:  # msgpack raises a dozen unrelated types
        raise ResumeError(f"{type(error).__name__}: {error}") from None
    if not isinstance(fields, dict) or fields.pop("version", None) != VERSION:
        raise ResumeError(f"it is no version {VERSION}")
    fields.setdefault("tickets", [])  # an older version has none
    wanted: dict[str, tuple[type, ...]] = {
        "started_s": (float,),
        "soft_drain": (bool,),
        "last_restart": (dict, type(None)),
        "sockets": (list,),
        "tickets": (list,),
    }
    for name, kinds in wanted.items():
        if not isinstance(fields.get(name), kinds):
            raise ResumeError(f"{name} is {type(fields.get(name)).__name__}")
    return Resume(**{name: fields[name] for name in wanted})  # a newer version may say more


def read_or_none(inherited: Inherited) -> Resume | None:
    """What was handed over. If that makes no sense, the start is one after a crash: generations come back all the same,
    and the listening sockets, whose names are not known, are closed here; those who accept on them have their own."""
    if inherited.resume < 0:
        return None
    try:
        return read(inherited.resume)
    except ResumeError as error:
        log(WARNING, f"what the last version handed over can't be read: {error}")
        _close_sockets({inherited.lock, inherited.commands})
        return None
    finally:
        os.close(inherited.resume)


def _close_sockets(but: Collection[int]) -> None:
    for name in os.listdir("/proc/self/fd"):
        fd = int(name)
        try:
            # What was opened since has its close-on-exec flag, and is ours.
            if fd > 2 and fd not in but and os.get_inheritable(fd) and stat.S_ISSOCK(os.fstat(fd).st_mode):
                socket.socket(fileno=fd).close()
        except OSError:
            pass  # the directory that was listed
