"""The conversation with systemd: sd_notify(3) and sd_listen_fds(3) without a library.

READY=1 is sent when every slot accepts, RELOADING=1 with MONOTONIC_USEC when a restart begins (Type=notify-reload
hangs without it), STOPPING=1 at the end, WATCHDOG=1 at half of the interval that WATCHDOG_USEC asks for.
"""

from __future__ import annotations

import os
import socket
import struct
import time
from collections import deque
from collections.abc import Mapping, MutableMapping
from typing import Final

from hotproxy.errors import HotproxyError

# systemd ignores a whole message above PIPE_BUF (4096 bytes; NOTIFY_BUFFER_MAX), and READY=1 with it.
MAX_STATUS_BYTES: Final = 2000
# What waits for a manager that does not read now; a reload is two messages.
MAX_WAITING: Final = 16
# SD_LISTEN_FDS_START: 0, 1 and 2 are the standard streams.
FIRST_PASSED: Final = 3
# How many descriptors systemd stores for us: it says so since version 254, and our units for those before.
STORE_VARIABLE: Final = "FDSTORE"
# Also to zygotes and workers: what is stored they let go of, and never shut it down.
STORED: Final = bool(os.environ.get(STORE_VARIABLE))


def passed_descriptors(environment: MutableMapping[str, str] = os.environ) -> list[tuple[str, int]]:
    """What systemd has passed to this process: (FileDescriptorName= or FDNAME=, descriptor), in its order.

    They are ours from now on: no child inherits them, and the variables are gone, so that nobody takes them twice.
    Raises HotproxyError when the variables contradict each other or the descriptors are not there: a socket that is
    passed and not accepted on would be a black hole.
    """
    pid = environment.pop("LISTEN_PID", "")
    count = environment.pop("LISTEN_FDS", "")
    names = environment.pop("LISTEN_FDNAMES", "")
    environment.pop("LISTEN_PIDFDID", None)  # says the same as LISTEN_PID, since systemd 259
    if pid != str(os.getpid()):
        return []  # meant for a process before us that did not clean up
    if not count.isascii() or not count.isdigit():
        raise HotproxyError(f"LISTEN_FDS is {count!r}, not a number")
    fds = range(FIRST_PASSED, FIRST_PASSED + int(count))
    named = names.split(":") if names else ["unknown"] * len(fds)  # so systemd calls what has no name
    if len(named) != len(fds):
        raise HotproxyError(f"LISTEN_FDS is {count}, and LISTEN_FDNAMES has {len(named)} names")
    for fd in fds:
        try:
            os.set_inheritable(fd, False)
        except OSError as error:
            raise HotproxyError(f"LISTEN_FDS is {count}, and descriptor {fd} is not open: {error.strerror}") from None
    return list(zip(named, fds, strict=True))


class Notifier:
    """Sends to $NOTIFY_SOCKET; without one every call does nothing. Never blocks and never raises.

    What does not fit into the manager's queue waits for the next `flush` (or message): a READY=1 that is lost would
    leave the unit "reloading" until it is killed.
    """

    __slots__ = ("_address", "_sock", "_storing", "_waiting", "watchdog_s")

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        address = environment.get("NOTIFY_SOCKET", "")
        # "@name" is the abstract namespace (sd_notify(3)).
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) if address else None
        self._waiting: deque[bytes] = deque(maxlen=MAX_WAITING)
        self._storing: deque[tuple[bytes, int]] = (
            deque()
        )  # after those: what is stored, with our copy, or taken out (-1)
        self.watchdog_s = self._watchdog_s(environment)

    @staticmethod
    def _watchdog_s(environment: Mapping[str, str]) -> float:
        """How often to pet, in seconds: half of the limit; 0 when nobody asks."""
        if environment.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
            return 0.0
        try:
            return max(int(environment.get("WATCHDOG_USEC", "0")) / 2e6, 0.0)
        except ValueError:
            return 0.0

    def ready(self, status: str) -> None:
        self._send("READY=1", f"STATUS={status}")

    def reloading(self) -> None:
        microseconds = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._send("RELOADING=1", f"MONOTONIC_USEC={microseconds}", "STATUS=restarting")

    def stopping(self) -> None:
        self._send("STOPPING=1", "STATUS=draining")

    def status(self, text: str) -> None:
        self._send(f"STATUS={text}")

    @property
    def active(self) -> bool:
        return self._sock is not None

    def store(self, name: str, fd: int) -> None:
        """Into the descriptor store; systemd takes it out by itself when it is shut down (FDPOLL=1, the default)."""
        if self._sock is not None:
            self._storing.append((f"FDSTORE=1\nFDNAME={name}".encode(), os.dup(fd)))
            self.flush()

    def forget(self, name: str) -> None:
        if self._sock is not None:
            self._storing.append((f"FDSTOREREMOVE=1\nFDNAME={name}".encode(), -1))
            self.flush()

    def pet(self) -> None:
        if not self._waiting:  # what waits matters more, and tells as well that we live
            self._send("WATCHDOG=1")

    def close(self) -> None:
        if self._sock is not None:
            self.flush()
            self._sock.close()
            self._sock = None
            while self._storing:
                _close(self._storing.popleft()[1])

    def _send(self, *lines: str) -> None:
        if self._sock is None:
            return
        # A STATUS of several lines would be read as further assignments.
        text = "\n".join(_cut(line.replace("\n", "; ")) for line in lines)
        self._waiting.append(text.encode(errors="replace"))
        self.flush()

    def flush(self) -> None:
        while self._waiting and self._sock is not None:
            try:
                self._sock.sendto(self._waiting[0], self._address)
            except BlockingIOError:
                return
            except OSError:
                pass  # systemd restarts: it asks again for nothing, and its watchdog notices what matters
            self._waiting.popleft()
        while self._storing and self._sock is not None:
            text, fd = self._storing[0]
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("i", fd))] if fd >= 0 else []
            try:
                self._sock.sendmsg([text], rights, 0, self._address)
            except BlockingIOError:
                return
            except OSError:
                pass  # as above
            _close(fd)
            self._storing.popleft()


def _close(fd: int) -> None:
    if fd >= 0:
        os.close(fd)


def _cut(line: str) -> str:
    data = line.encode(errors="replace")
    return line if len(data) <= MAX_STATUS_BYTES else data[:MAX_STATUS_BYTES].decode(errors="ignore") + " ..."
