"""The conversation with systemd: sd_notify(3) without a library.

READY=1 is sent when every slot accepts, RELOADING=1 with MONOTONIC_USEC when a restart begins (Type=notify-reload
hangs without it), STOPPING=1 at the end, WATCHDOG=1 at half of the interval that WATCHDOG_USEC asks for.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping


class Notifier:
    """Sends to $NOTIFY_SOCKET; without one every call does nothing. Never blocks and never raises."""

    __slots__ = ("_address", "_sock", "watchdog_s")

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        address = environment.get("NOTIFY_SOCKET", "")
        # "@name" is the abstract namespace (sd_notify(3)).
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) if address else None
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

    def pet(self) -> None:
        self._send("WATCHDOG=1")

    def close(self) -> None:
        if self._sock is not None:
            self._sock.close()
            self._sock = None

    def _send(self, *lines: str) -> None:
        if self._sock is None:
            return
        # A STATUS of several lines would be read as further assignments.
        text = "\n".join(line.replace("\n", "; ") for line in lines)
        try:
            self._sock.sendto(text.encode(), self._address)
        except OSError:
            pass  # systemd restarts: it asks again for nothing, and its watchdog notices what matters
