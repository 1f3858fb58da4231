"""One forked process of a generation, seen from its zygote; and the fork itself."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from hotproxy.errors import EXIT_INTERNAL
from hotproxy.restarter.frames import Channel, ChannelClosed, ChannelFull
from hotproxy.restarter.log import ERROR, log
from hotproxy.restarter.outbox import Outbox
from hotproxy.zygote.program import HeldSocket

WORKER: Final = "worker"
CONTROL: Final = "control"

# Ctrl-C and systemd signal whole groups; only messages and EOF move a generation.
IGNORED_SIGNALS: Final = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2,
                          signal.SIGTTIN, signal.SIGTTOU, signal.SIGWINCH, signal.SIGPIPE)  # fmt: skip


@dataclass(slots=True, eq=False)
class Child:
    """`sockets`: those it accepts on, or will once it is told to."""

    role: str
    slot: int
    serial: int
    pid: int
    pidfd: int
    outbox: Outbox
    born_s: float
    state: str = "starting"
    sockets: list[HeldSocket] = field(default_factory=list)
    leaving: bool = False

    def __str__(self) -> str:
        return f"{self.role} {self.slot}" if self.role == WORKER else self.role

    def kill(self) -> None:
        try:
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
        except ProcessLookupError:
            pass  # dead already, reaped in a moment

    def close(self) -> None:
        self.outbox.close()
        os.close(self.pidfd)


def ignore_signals() -> None:
    """In the zygote, and so in all its children: an ignored signal survives fork. The mask does too: reset it."""
    for number in IGNORED_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])


def fork(run: Callable[[Channel], int], close_first: Iterable[Any]) -> tuple[int, int, Channel]:
    """Fork a process that lives in `run` with its end of a channel: (pid, pidfd, our end).

    In the child everything in `close_first` is closed before: a copy of a sibling's channel would hide EOF from it, a
    copy of a listening socket keep a removed listener alive.
    """
    ours, theirs = Channel.pair()
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        _live(run, ours, theirs, close_first)
    theirs.close()
    try:
        return pid, os.pidfd_open(pid), ours
    except OSError:  # no descriptor is left: nobody would hear of its death
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        ours.close()
        raise


def _live(run: Callable[[Channel], int], ours: Channel, theirs: Channel, close_first: Iterable[Any]) -> None:
    """The child; never returns, whatever happens: no line of the zygote may run twice."""
    code = EXIT_INTERNAL
    try:
        ours.close()
        for each in close_first:
            if isinstance(each, int):
                os.close(each)
            else:
                each.close()
        code = run(theirs)
        sys.stdout.flush()
        sys.stderr.flush()
    except ChannelClosed:
        pass  # its zygote died before it could say a word: nobody waits for it
    except BaseException as error:
        log(ERROR, "internal error: " + traceback.format_exc())
        _say_why(theirs, "".join(traceback.format_exception_only(error)).strip())
    finally:
        os._exit(code)


def _say_why(channel: Channel, why: str) -> None:
    """So that a reload that every worker dies of is refused with a reason, and not with "exit code 70"."""
    try:
        channel.send("FAILED", {"why": why[-4000:]})
    except (ChannelClosed, ChannelFull, OSError):
        pass  # closed already: its zygote sees the exit code
