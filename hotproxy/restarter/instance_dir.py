"""The directory of an instance: its lock, which one supervisor holds."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Final

from hotproxy.errors import EXIT_NOT_PERMITTED, EXIT_REFUSED, HotproxyError

SUPERVISOR_SOCKET: Final = "supervisor.sock"


class InstanceLock:
    """`<instance dir>/lock`, held by flock(2) for as long as the process lives; inside, its pid.

    The descriptor is closed on exec, so that no zygote holds the lock of a supervisor that was killed.
    """

    __slots__ = ("_fd", "path")

    def __init__(self, directory: Path, instance: str, inherited: int = -1) -> None:
        """Raises HotproxyError when another supervisor runs this instance: names its pid. `inherited`: the descriptor
        with which this process's earlier code holds it."""
        self.path = directory / "lock"
        if inherited >= 0:
            self._fd = inherited
            os.set_inheritable(inherited, False)
            if self._is_there():
                return
            os.close(inherited)  # somebody has removed the file
        while True:
            try:
                self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o640)
            except OSError as error:
                raise HotproxyError(f"{self.path}: {error.strerror}", EXIT_NOT_PERMITTED) from None
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = os.pread(self._fd, 32, 0).decode(errors="replace").strip()
                os.close(self._fd)
                raise HotproxyError(
                    f"instance '{instance}' is already running (pid {holder or 'unknown'}, {self.path})", EXIT_REFUSED
                ) from None
            if self._is_there():
                break
            os.close(self._fd)
        try:
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)
        except OSError as error:
            self.release()
            raise HotproxyError(f"{self.path}: {error.strerror}") from None

    def fileno(self) -> int:
        return self._fd

    def _is_there(self) -> bool:
        """False when the file that is locked was removed by its last holder between our open and our lock: the next
        supervisor would lock another file of that name."""
        try:
            return os.path.samestat(os.fstat(self._fd), os.lstat(self.path))
        except FileNotFoundError:
            return False

    def release(self) -> None:
        """At a clean end: the file goes first, while nobody else can hold it."""
        self.path.unlink(missing_ok=True)
        os.close(self._fd)
