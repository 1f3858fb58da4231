"""Is the process that wrote this still the same one? A pid alone can't say: pids are used again.

A process incarnation is its pid and its start time (proc(5), /proc/<pid>/stat field 22: clock ticks since boot),
which no two processes of one boot share.
"""

from __future__ import annotations

import os
from typing import Final

# The kernel's PID_MAX_LIMIT: a larger number in shared memory is garbage.
MAX_PID: Final = 1 << 22


def start_time(pid: int) -> int | None:
    """Clock ticks from boot to the start of process `pid`; None when it is gone or only waits to be reaped."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            stat = file.read()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The second field is the command's name in parentheses, and may itself contain ") R 1".
    fields = stat[stat.rindex(b")") + 2 :].split()
    if fields[0] in (b"Z", b"X"):
        return None
    return int(fields[19])


def is_alive(pid: int, start: int) -> bool:
    """Whether the process `pid` that started at `start` (clock ticks) still runs."""
    if not 0 < pid < MAX_PID:
        return False
    found = start_time(pid)
    if found is not None:
        return found == start
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True  # another user's, and /proc is mounted with hidepid: it can't be told, so it is not declared dead
    except ProcessLookupError:
        pass
    return False


def boot_id() -> bytes:
    """16 bytes that are new at each boot: pids and start times of another boot mean nothing."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return bytes.fromhex(file.read().strip().replace("-", ""))
