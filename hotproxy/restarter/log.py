"""One line at a time to stderr, for supervisor, zygote, slots and control process: under systemd with its priority.

Where stderr is the journal, it reads a `<n>` prefix as the priority (sd-daemon(3)) and adds time and process itself;
elsewhere a line begins with the time and the process.
"""

from __future__ import annotations

import os
import select
import time
from typing import Final

ERROR: Final = "error"
WARNING: Final = "warning"
NOTICE: Final = "notice"
INFO: Final = "info"
DEBUG: Final = "debug"

_PRIORITY: Final = {ERROR: 3, WARNING: 4, NOTICE: 5, INFO: 6, DEBUG: 7}  # syslog(3)
_stderr: Final = select.poll()
_stderr.register(2, select.POLLOUT)
_process = "hotproxy"


def name_process(name: str) -> None:
    """What the lines of this process begin with: "supervisor", "zygote 3", "worker 3/0"."""
    global _process
    _process = name


def log(level: str, text: str) -> None:
    """Write `text`, each of its lines as one; a stderr that is gone or full loses it, nothing else."""
    if _is_journal():
        head = f"<{_PRIORITY[level]}>{_process}: "
    else:
        now_s = time.time()
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now_s))
        head = f"{stamp}.{int(now_s * 1000) % 1000:03}Z {level} {_process}: "
    lines = "".join(f"{head}{line}\n" for line in text.splitlines() or [""])
    write_raw(lines.encode(errors="replace"))


def for_stderr(level: str, text: str) -> str:
    """What a person is told, as it is; in the journal each of its lines with its priority."""
    if not _is_journal():
        return text
    return "\n".join(f"<{_PRIORITY[level]}>{line}" for line in text.splitlines())


def _is_journal() -> bool:
    """JOURNAL_STREAM names the stream that systemd has made (systemd.exec(5)); who redirects stderr inherits it too."""
    try:
        status = os.fstat(2)
    except OSError:
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


def write_raw(data: bytes) -> None:
    """`data` as it is. A pipe that is writable takes PIPE_BUF bytes at once (pipe(7)); a full one hangs nobody."""
    for at in range(0, len(data), select.PIPE_BUF):
        try:
            if _stderr.poll(0):
                os.write(2, data[at : at + select.PIPE_BUF])
        except OSError:
            return  # there is nobody left to tell
