"""Starting a zygote: a new interpreter with the code that is on disk now.

It gets one end of a channel and its own stderr. Until the zygote's first line of Python has run, its descriptor 2 is a
pipe to the supervisor, so that "No module named hotproxy" becomes the reason of a refused reload; then it puts the real
one in place, and nothing that a worker writes ever depends on the supervisor.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from hotproxy.restarter.frames import Channel

# The last lines of a traceback; the rest of it goes to stderr like everything else.
TAIL_BYTES: Final = 4096
OF_GROUPS: Final = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2,
                    signal.SIGTTIN, signal.SIGTTOU, signal.SIGWINCH)  # fmt: skip
# The wait status of a process that is no child of ours (an earlier supervisor started it): only its end is seen.
UNKNOWN: Final = -1


@dataclass(slots=True)
class Spawned:
    pid: int
    channel: Channel
    stderr: int  # the pipe's reading end, non-blocking


def spawn(command: Sequence[str], arguments: Sequence[str]) -> Spawned:
    """`command` with the descriptors and `arguments` appended. Raises OSError when it can't be executed."""
    ours, theirs = Channel.pair()
    reading, writing = os.pipe()
    stderr = os.dup(2)
    try:
        os.set_blocking(reading, False)
        for fd in (theirs.fileno(), stderr):
            os.set_inheritable(fd, True)
        handed = ["--fd", str(theirs.fileno()), "--stderr-fd", str(stderr)]
        pid = os.posix_spawn(
            command[0],
            [*command, *handed, *arguments],
            os.environ,
            file_actions=[(os.POSIX_SPAWN_DUP2, writing, 2)],
            # The mask survives exec. Ctrl-C and systemd signal whole groups, and a zygote that does not ignore that yet
            # would die of it: it waits until it does (`zygote.child.ignore_signals`).
            setsigmask=OF_GROUPS,
            setsigdef=signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP},
        )
    except BaseException:
        ours.close()
        os.close(reading)
        raise
    finally:
        theirs.close()
        os.close(writing)
        os.close(stderr)
    return Spawned(pid, ours, reading)


def describe_exit(status: int) -> str:
    """A wait status in words: "exit code 1", "killed by signal 9"."""
    if status == UNKNOWN:
        return "it is gone, and how is not known"
    try:
        code = os.waitstatus_to_exitcode(status)
    except (ValueError, OverflowError):  # somebody says so in a message
        return f"the impossible wait status {status}"
    return f"exit code {code}" if code >= 0 else f"killed by signal {-code}"


def exit_status(pid: int) -> int:
    """Of a process that has ended: its wait status, if it is a child of ours, or UNKNOWN."""
    try:
        found, status = os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return UNKNOWN
    return status if found else UNKNOWN
