"""Who listens on a port: for the sentence "address in use by nginx (pid 812)", and to tell our own from others.

Read from /proc/net/tcp{,6} and /proc/<pid>/fd, and only after a bind was refused. Processes of other users can't be
looked into; then nobody is found.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_LISTEN: Final = "0A"  # TCP_LISTEN in the fourth column (net/ipv4/tcp_ipv4.c)


@dataclass(frozen=True, slots=True)
class Holder:
    pid: int
    name: str

    def __str__(self) -> str:
        return f"{self.name} (pid {self.pid})"


def holders_of_port(port: int, proc: Path = Path("/proc")) -> list[Holder]:
    """Every process that holds a listening TCP socket on `port`, whatever its address."""
    wanted = {f"socket:[{inode}]" for inode in _listening_inodes(port, proc)}
    if not wanted:
        return []
    return [Holder(pid, name_of(pid, proc)) for pid in _pids(proc) if not wanted.isdisjoint(_links(pid, proc))]


def name_of(pid: int, proc: Path = Path("/proc")) -> str:
    try:
        return (proc / str(pid) / "comm").read_text().strip()
    except OSError:
        return "a process"


def parent_of(pid: int, proc: Path = Path("/proc")) -> int:
    """The parent's pid; 0 when the process is gone."""
    try:
        # The name before it may contain spaces and parentheses (proc(5)).
        return int((proc / str(pid) / "stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, ValueError, IndexError):
        return 0


def _listening_inodes(port: int, proc: Path) -> Iterator[str]:
    for table in ("tcp", "tcp6"):
        try:
            lines = (proc / "net" / table).read_text().splitlines()[1:]
        except OSError:
            continue  # no IPv6 on this host
        for line in lines:
            columns = line.split()
            if columns[3] == _LISTEN and int(columns[1].rpartition(":")[2], 16) == port:
                yield columns[9]


def _pids(proc: Path) -> Iterator[int]:
    for name in os.listdir(proc):
        if name.isdigit():
            yield int(name)


def _links(pid: int, proc: Path) -> Iterator[str]:
    directory = proc / str(pid) / "fd"
    try:
        names = os.listdir(directory)
    except OSError:
        return  # another user's, or gone
    for name in names:
        try:
            yield os.readlink(directory / name)
        except OSError:
            continue  # closed meanwhile
