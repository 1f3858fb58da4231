"""`supervisor.sock`: one command and one answer for each connection, from the same user or root; and zygotes of a
supervisor that is dead, which introduce themselves.

It always answers, whatever the workers do: nothing here waits for anybody.
"""

from __future__ import annotations

import os
import socket
import stat
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from hotproxy.restarter.frames import Channel, ChannelClosed, ChannelFull, FrameError, Message
from hotproxy.restarter.log import INFO, WARNING, log
from hotproxy.restarter.loop import Loop

# Commands that wait for a restart, and people who connect and say nothing: plenty, and far from RLIMIT_NOFILE.
MAX_CALLERS: Final = 128
# A caller that says nothing for so long has forgotten us.
SILENCE_S: Final = 10.0
# Without a free descriptor accept() fails for as long as somebody waits: look again later, don't spin.
PAUSE_S: Final = 0.1


class Caller:
    """One connection. `answer` once; a caller that is gone meanwhile is no error."""

    __slots__ = ("_forget", "_loop", "asked", "channel", "pid", "uid")

    def __init__(self, sock: socket.socket, loop: Loop, forget: Callable[[Caller], object]) -> None:
        self.channel = Channel(sock)
        self.pid, self.uid, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        self.asked = False
        self._loop = loop
        self._forget = forget

    @property
    def open(self) -> bool:
        return self.channel.fileno() >= 0

    def answer(self, ok: bool, reason: str, data: dict[str, Any] | None = None) -> None:
        self._say("RESULT", {"ok": ok, "reason": reason, "data": data or {}})
        self.close()

    def refuse(self, kind: str, why: str) -> None:
        self._say("UNKNOWN", {"kind": kind, "why": why})
        self.close()

    def _say(self, kind: str, fields: dict[str, Any]) -> None:
        if not self.open:
            return
        try:
            self.channel.send(kind, fields)
        except (ChannelClosed, ChannelFull):
            pass  # it did not wait; the log has the outcome

    def close(self) -> None:
        if self.open:
            self._loop.unwatch(self.channel)
            self.channel.close()
            self._forget(self)


class CommandSocket:
    """Listens on `path`, mode 0660. `on_command(caller, verb, arguments)` must lead to one answer."""

    def __init__(
        self,
        path: Path,
        loop: Loop,
        on_command: Callable[[Caller, str, dict[str, Any]], None],
        on_attach: Callable[[Channel, int, Message], None],
        inherited: int = -1,
    ) -> None:
        """Replaces what a dead supervisor left (the caller holds the instance's lock). Raises OSError.

        `inherited`: the socket of this process's earlier code, which goes on listening.
        `on_attach(channel, pid, ATTACH)`: a zygote without a supervisor; the channel stays open, and is the callee's.
        """
        self.path = path
        self._loop = loop
        self._on_command = on_command
        self._on_attach = on_attach
        self._callers: dict[Caller, None] = {}  # the oldest first
        self._sock = _listen(path) if inherited < 0 else socket.socket(fileno=inherited)
        self._sock.setblocking(False)
        os.set_inheritable(self._sock.fileno(), False)
        status = path.lstat()
        assert stat.S_ISSOCK(status.st_mode)
        self._inode = status.st_ino
        self._watch()

    def fileno(self) -> int:
        return self._sock.fileno()

    @property
    def busy(self) -> bool:
        """Somebody is connected."""
        return bool(self._callers)

    def close(self) -> None:
        self._loop.unwatch(self._sock)
        self._sock.close()
        for caller in list(self._callers):
            caller.close()
        try:
            if self.path.lstat().st_ino == self._inode:
                self.path.unlink()
        except FileNotFoundError:
            pass  # somebody tidied up before us

    def _watch(self) -> None:
        if self._sock.fileno() >= 0:
            self._loop.watch(self._sock, self._accept)

    def _accept(self) -> None:
        try:
            sock, _ = self._sock.accept()
        except BlockingIOError:
            return  # it gave up again
        except OSError:
            self._loop.unwatch(self._sock)
            self._loop.after(PAUSE_S, self._watch)
            return
        if len(self._callers) >= MAX_CALLERS:
            # Whoever has said nothing yet makes room: they must not keep others from an answer.
            silent = next((each for each in self._callers if not each.asked), None)
            if silent is None:
                log(WARNING, f"a command was refused: {MAX_CALLERS} wait already")
                sock.close()
                return
            silent.close()
        caller = Caller(sock, self._loop, lambda gone: self._callers.pop(gone, None))
        self._callers[caller] = None
        if caller.uid not in (0, os.getuid()):
            log(WARNING, f"a command from uid {caller.uid} (pid {caller.pid}) was refused")
            caller.refuse("COMMAND", "not permitted")
            return
        self._loop.watch(caller.channel, lambda: self._read(caller))
        self._loop.after(SILENCE_S, lambda: self._silent(caller))

    def _silent(self, caller: Caller) -> None:
        if caller in self._callers and not caller.asked:
            caller.close()

    def _read(self, caller: Caller) -> None:
        try:
            message = caller.channel.receive()
        except ChannelClosed:
            caller.close()
            return
        except FrameError as error:
            log(WARNING, f"a message on {self.path.name} from uid {caller.uid} was refused: {error}")
            caller.refuse("?", str(error))
            return
        if message is not None:
            self._obey(caller, message)

    def _obey(self, caller: Caller, message: Message) -> None:
        if message.kind == "ATTACH" and not caller.asked:
            self._loop.unwatch(caller.channel)
            del self._callers[caller]
            self._on_attach(caller.channel, caller.pid, message)
            return
        message.close_fds()
        if message.kind != "COMMAND":
            caller.refuse(message.kind, "only COMMAND is understood here")
            return
        if caller.asked:
            caller.refuse("COMMAND", "one command for each connection")
            return
        caller.asked = True
        verb, arguments = message.fields["verb"], message.fields["arguments"]
        if verb not in ("status", "ping"):  # they change nothing, and come at 20 Hz
            log(INFO, f"command '{verb[:40]}' from uid {caller.uid} (pid {caller.pid})")
        self._on_command(caller, verb, arguments)


def _listen(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    part = path.with_name(f"{path.name}.new")
    part.unlink(missing_ok=True)
    sock.bind(str(part))
    os.chmod(part, 0o660)
    # A client that does not block is told EAGAIN by a full queue.
    sock.listen(MAX_CALLERS)
    part.replace(path)
    return sock
