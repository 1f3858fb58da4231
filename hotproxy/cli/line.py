"""One question to the supervisor over `supervisor.sock`, one answer. It always answers, whatever its workers do."""

from __future__ import annotations

import os
import select
import socket
import struct
import time
from dataclasses import dataclass
from typing import Any

from hotproxy.cli.place import Place
from hotproxy.errors import EXIT_NOT_PERMITTED, EXIT_UNREACHABLE, HotproxyError
from hotproxy.restarter.frames import Channel, ChannelClosed, FrameError


@dataclass(frozen=True, slots=True)
class Answer:
    ok: bool
    reason: str
    data: dict[str, Any]


class Line:
    """An open conversation: `ask` once; `wait_gone` after a stop."""

    def __init__(self, place: Place) -> None:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            sock.connect(str(place.supervisor_socket))
        except PermissionError:
            sock.close()
            raise HotproxyError(f"not permitted to talk to {place.supervisor_socket}", EXIT_NOT_PERMITTED) from None
        except OSError as error:
            sock.close()
            raise HotproxyError(
                f"instance '{place.instance}' is not running: {place.supervisor_socket}: {error.strerror}",
                EXIT_UNREACHABLE,
            ) from None
        pid, _, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        self.supervisor_pid: int = pid
        try:
            self._pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            self._pidfd = -1
        self._channel = Channel(sock)

    def ask(self, verb: str, arguments: dict[str, Any], timeout_s: float) -> Answer:
        """Raises HotproxyError when no answer comes within `timeout_s`, or the supervisor dies over it."""
        self._channel.send("COMMAND", {"verb": verb, "arguments": arguments})
        deadline_s = time.monotonic() + timeout_s
        while (left_s := deadline_s - time.monotonic()) > 0:
            if not select.select([self._channel], [], [], left_s)[0]:
                break
            try:
                message = self._channel.receive()
            except ChannelClosed:
                raise HotproxyError(f"the supervisor went away during '{verb}'", EXIT_UNREACHABLE) from None
            except FrameError as error:
                raise HotproxyError(f"the supervisor's answer makes no sense: {error}") from None
            if message is None:
                continue
            if message.kind == "UNKNOWN":
                raise HotproxyError(f"the supervisor does not understand '{verb}': {message.fields['why']}")
            return Answer(message.fields["ok"], message.fields["reason"], message.fields["data"])
        raise HotproxyError(
            f"the supervisor (pid {self.supervisor_pid}) did not answer '{verb}' in {timeout_s:g}s", EXIT_UNREACHABLE
        )

    def wait_gone(self, timeout_s: float) -> bool:
        """True once the supervisor's process has ended."""
        return self._pidfd < 0 or bool(select.select([self._pidfd], [], [], timeout_s)[0])

    def close(self) -> None:
        self._channel.close()
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1

    def __enter__(self) -> Line:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def ask(place: Place, verb: str, arguments: dict[str, Any] | None = None, timeout_s: float = 10.0) -> Answer:
    """`Line.ask` for verbs that need nothing more."""
    with Line(place) as line:
        return line.ask(verb, arguments or {}, timeout_s)
