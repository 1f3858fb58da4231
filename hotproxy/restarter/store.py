"""Our listening sockets in systemd's descriptor store (sd_notify(3), FDSTORE=1): they outlive every process of ours,
and whoever is started next is passed them, as if systemd listened (sd_listen_fds(3)).

    it listens            stored within a second
    it is shut            taken out of the store
    SIGTERM of systemd's  may be the first half of a restart: what is stored is closed and not shut down, and clients
                          wait in its queue for the next start. After a stop systemd closes it
    `hotproxy stop`       shut, as without systemd
"""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Iterable, Mapping
from typing import Final

from hotproxy.restarter.bind import UnixPath
from hotproxy.restarter.log import NOTICE, WARNING, log
from hotproxy.restarter.sockets import OwnedSocket, SocketTable
from hotproxy.restarter.systemd import STORE_VARIABLE, Notifier

# What our names begin with: a listener's in a socket unit may be any other.
PREFIX: Final = "hotproxy/"
# systemd's fdname_is_valid(): printable ASCII without a colon, at most FDNAME_MAX bytes.
MAX_NAME: Final = 255
_AS_IT_IS: Final = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-/[]")


class Store:
    """Does nothing where there is no store."""

    def __init__(self, notifier: Notifier, environment: Mapping[str, str] = os.environ) -> None:
        text = environment.get(STORE_VARIABLE, "")
        self._notifier = notifier
        self._most = int(text) if notifier.active and text.isascii() and text.isdigit() else 0
        self._stored = 0
        self._full = False
        self.keeps = False  # the supervisor stops, and what is stored is for the next start

    def take(self, sockets: SocketTable, passed: Iterable[tuple[str, int]]) -> None:
        """What was passed at the start: ours from the store, and those that systemd itself listens on. Raises
        HotproxyError."""
        for name, fd in passed:
            if not name.startswith(PREFIX):
                sockets.activate(name, fd)
                continue
            try:
                owned = _restored(name, fd)
            except (ValueError, OSError) as error:
                log(NOTICE, f"{name} of systemd's store can't be used: {error}")
                os.close(fd)
                self._notifier.forget(name)
                continue
            self._stored += 1
            sockets.put(owned)

    def add(self, sockets: Iterable[OwnedSocket]) -> None:
        """Those that listen and are not there yet."""
        if not self._most or self.keeps:
            return
        for owned in sockets:
            if owned.stored or owned.kept or not owned.listening:
                continue
            if self._stored >= self._most:
                if not self._full:
                    log(WARNING, f"systemd's store is full: {self._most} sockets (FileDescriptorStoreMax=)")
                self._full = True
                return
            name = _name(owned)
            if len(name) <= MAX_NAME:
                self._notifier.store(name, owned.sock.fileno())
                owned.stored = True
                self._stored += 1

    def remove(self, owned: OwnedSocket) -> None:
        """It is about to be shut down."""
        if owned.stored:
            self._notifier.forget(_name(owned))
            owned.stored = False
            self._stored -= 1


def _name(owned: OwnedSocket) -> str:
    device, inode = owned.inode
    identity = "".join(chr(each) if each in _AS_IT_IS else f"%{each:02X}" for each in os.fsencode(owned.identity))
    return f"{PREFIX}{owned.slot}/{int(owned.shared)}/{device}/{inode}/{identity}"


def _restored(name: str, fd: int) -> OwnedSocket:
    """Raises ValueError, OSError for one that nobody can be served on."""
    slot, shared, device, inode, identity = name.removeprefix(PREFIX).split("/", 4)
    first, *rest = identity.split("%")
    decoded = first.encode() + b"".join(bytes.fromhex(each[:2]) + each[2:].encode() for each in rest)
    path = None
    if decoded.startswith(b"unix:"):
        path = UnixPath(os.fsdecode(decoded[5:]), inode=(int(device), int(inode)))
        status = os.lstat(path.path)
        if not stat.S_ISSOCK(status.st_mode) or (status.st_dev, status.st_ino) != path.inode:
            raise ValueError("its file is another one's")
    sock = socket.socket(fileno=os.dup(fd))
    owned = OwnedSocket(os.fsdecode(decoded), int(slot), shared == "1", sock, path, stored=True)
    if not owned.listening:
        sock.close()
        raise ValueError("it does not listen any more")
    os.close(fd)
    return owned
