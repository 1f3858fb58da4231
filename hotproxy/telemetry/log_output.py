"""Where the bytes of a log go, opened so that a write can never make a worker wait.

    what it is                       how it is written                               at most per write
    file (also inherited)            os.write, O_APPEND when we opened it            64 KiB of whole lines
    FIFO, pipe, terminal             own file description with O_NONBLOCK            PIPE_BUF of whole lines
    inherited pipe we may not open   RWF_NOWAIT (Linux 6.4), else poll() and write   PIPE_BUF of whole lines
    inherited socket                 send with MSG_DONTWAIT                          PIPE_BUF; datagrams: one line

O_NONBLOCK is a flag of the file description, which an inherited fd shares with the shell and with every other
process of the service. Setting it there breaks *their* writes (the story of many a garbled terminal), so we open
`/proc/self/fd/N` again and get a description of our own.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import stat
from typing import Final, Protocol

# pipe(7): up to here a write is all or nothing and does not mix with the writes of other processes (4096 on Linux).
PIPE_BYTES: Final = select.PIPE_BUF
# Appends to a file are atomic at any size. 64 KiB keeps one write on a slow disk short, and one retry cheap.
FILE_BYTES: Final = 64 * 1024
# A terminal is writable from 256 free bytes on (WAKEUP_CHARS in the kernel's n_tty.c); a longer write would wait.
TERMINAL_BYTES: Final = 256

# `/dev/stdout` is not opened by that name: open() fails with ENXIO when it is journald's socket.
INHERITED: Final = {
    "/dev/stdout": 1,
    "/dev/stderr": 2,
    "/dev/fd/1": 1,
    "/dev/fd/2": 2,
    "/proc/self/fd/1": 1,
    "/proc/self/fd/2": 2,
}


class Output(Protocol):
    """An open destination. `max_line_bytes`: longer lines could mix with those of other processes; 0 = no limit."""

    max_write_bytes: int
    max_line_bytes: int

    def write(self, data: bytes) -> int:
        """How many bytes were taken. BlockingIOError: none now; OSError: it is broken or full."""

    def fileno(self) -> int: ...

    def close(self) -> None: ...


class FileOutput:
    """A file, or anything whose description is our own and non-blocking."""

    __slots__ = ("_fd", "max_line_bytes", "max_write_bytes")

    def __init__(self, fd: int, max_write_bytes: int, max_line_bytes: int) -> None:
        self._fd = fd
        self.max_write_bytes = max_write_bytes
        self.max_line_bytes = max_line_bytes

    def write(self, data: bytes) -> int:
        return os.write(self._fd, data)

    def fileno(self) -> int:
        return self._fd

    def close(self) -> None:
        os.close(self._fd)


class SharedOutput:
    """An inherited pipe or terminal of another user: /proc refuses to open it again, so the description is shared."""

    __slots__ = ("_fd", "_nowait", "_poll", "_room_bytes", "max_line_bytes", "max_write_bytes")

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._nowait = True
        self._poll = select.poll()
        self._poll.register(fd, select.POLLOUT)
        self._room_bytes = TERMINAL_BYTES if os.isatty(fd) else PIPE_BYTES
        self.max_write_bytes = PIPE_BYTES
        self.max_line_bytes = PIPE_BYTES

    def write(self, data: bytes) -> int:
        if self._nowait:
            try:
                return os.pwritev(self._fd, [data], -1, os.RWF_NOWAIT)
            except OSError as error:
                if error.errno not in (errno.EOPNOTSUPP, errno.ESPIPE, errno.EINVAL):
                    raise
                self._nowait = False  # before Linux 6.4, and terminals
        # POLLOUT says that so much fits. A sibling may take the place first; then we wait for the reader once.
        written = 0
        while written < len(data) and self._poll.poll(0):
            written += os.write(self._fd, data[written : written + self._room_bytes])
        if not written:
            raise BlockingIOError(errno.EAGAIN, "no room")
        return written

    def fileno(self) -> int:
        return self._fd

    def close(self) -> None:
        os.close(self._fd)


class SocketOutput:
    """An inherited socket (systemd's StandardOutput=journal)."""

    __slots__ = ("_socket", "max_line_bytes", "max_write_bytes")

    def __init__(self, fd: int) -> None:
        self._socket = socket.socket(fileno=fd)
        # A datagram is a record for whoever reads it: one line each. 1: a write takes the first line whatever its size.
        self.max_write_bytes = PIPE_BYTES if self._socket.type == socket.SOCK_STREAM else 1
        self.max_line_bytes = PIPE_BYTES

    def write(self, data: bytes) -> int:
        return self._socket.send(data, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()


def open_output(path: str) -> Output:
    """Open a log by its configured path; a missing file is made (0640), a missing folder is not.

    OSError with a sentence that names the path when it cannot be written.
    """
    try:
        inherited = INHERITED.get(path)
        if inherited is None:
            return _open_path(path)
        return _open_inherited(inherited)
    except OSError as error:
        raise OSError(error.errno, f"cannot write the access log {path}: {_explain(error)}") from error


def _explain(error: OSError) -> str:
    match error.errno:
        case errno.ENOENT | errno.ENOTDIR:
            return "its folder does not exist (hotproxy makes the file, not the folder)"
        case errno.ENXIO:
            return "it is a socket or has no reader; a log can be a file, a FIFO, /dev/stdout or /dev/stderr"
        case errno.EBADF:
            return "it was closed by whoever started hotproxy"
        case _:
            return error.strerror or str(error)


def _open_path(path: str) -> Output:
    # O_NONBLOCK from the start: opening a FIFO or a serial line must not wait for the other side.
    flags = os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
    fd = -1
    if _is_fifo(path):
        # fifo(7): with O_RDWR it opens without a reader, and a reader that restarts finds the lines waiting.
        try:
            fd = os.open(path, os.O_RDWR | flags)
        except PermissionError:
            pass  # we may write but not read it; then there must be a reader now
    if fd < 0:
        fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | flags, 0o640)
    if stat.S_ISREG(os.fstat(fd).st_mode):
        return FileOutput(fd, FILE_BYTES, 0)
    return FileOutput(fd, PIPE_BYTES, PIPE_BYTES)


def _is_fifo(path: str) -> bool:
    try:
        return stat.S_ISFIFO(os.stat(path).st_mode)
    except FileNotFoundError:
        return False


def _open_inherited(inherited: int) -> Output:
    mode = os.fstat(inherited).st_mode
    if stat.S_ISREG(mode):
        # Shared on purpose: after `hotproxy run >log` all writers must move one common offset, and without >> an
        # own description would overwrite what the others wrote. Files never answer EAGAIN anyway.
        return FileOutput(os.dup(inherited), FILE_BYTES, 0)
    if stat.S_ISSOCK(mode):
        return SocketOutput(os.dup(inherited))
    try:
        fd = os.open(f"/proc/self/fd/{inherited}", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except OSError:
        # EACCES: the pipe of a container runtime or of sudo belongs to root. ENXIO: its reader has gone; EIO: a dead
        # terminal. Neither is a reason not to serve.
        return SharedOutput(os.dup(inherited))
    return FileOutput(fd, PIPE_BYTES, PIPE_BYTES)
