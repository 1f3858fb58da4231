"""A proxy under trial: how it is started, restarted, asked for its count of requests, and ended."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import socket
import subprocess
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

from bench.peers.processes import Tree

# How long it may take until whatever is new is there; on a machine that is not busy nobody needs a hundredth of it.
RESTART_S = 60.0


class Refused(Exception):
    """The restart did not happen; the message says why, as far as the proxy does."""


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a proxy is to run, and what is around it. Its fields are the @WORDS@ of a config."""

    directory: Path
    cpu: int
    workers: int
    http_port: int
    tcp_port: int
    admin_port: int
    origin_http: str
    origin_tcp: str
    origin_fast: str

    def fill(self, text: str, **more: object) -> str:
        """`@http_port@` and so on. No format(): every config language has braces and dollars of its own."""
        for name, value in (dataclasses.asdict(self) | more).items():
            text = text.replace(f"@{name}@", str(value))
        return text


class System(ABC):
    """A kind of proxy with a way to restart it. One instance is started again and again."""

    name = ""
    setting = "defaults"
    # Whoever can't forward TCP is spared those clients.
    has_tcp = True

    def __init__(self, version: str, drain_s: float | None = None) -> None:
        """`drain_s`: when the old processes are to be gone, whatever is still open; None: as it is by default."""
        self.version = version
        self.drain_s = drain_s
        if drain_s is not None:
            self.setting = f"at most {drain_s:g} s"
        self.trees: list[Tree] = []
        self._lock = threading.Lock()  # who watches the processes is not who restarts them
        self._leaving: set[psutil.Process] = set()

    @property
    def title(self) -> str:
        return f"{self.name}, {self.setting}" if self.setting else self.name

    # --- what a kind of proxy says ---

    @abstractmethod
    def prepare(self, place: Place) -> list[str]:
        """Writes its config; how it is started."""

    @abstractmethod
    def order(self) -> None:
        """Orders the restart and returns when the new process is there, or raises Refused."""

    def stays(self, process: psutil.Process) -> bool:
        """Is it one that outlives every restart?"""
        return process.pid == self.trees[0].process.pid

    @abstractmethod
    def counted(self) -> int | None:
        """How many requests it says that it has had; None when it does not say."""

    # --- its life ---

    @contextlib.contextmanager
    def running(self, place: Place) -> Iterator[None]:
        """It serves in the `with`, and nothing of it is left behind."""
        shutil.rmtree(place.directory, ignore_errors=True)
        place.directory.mkdir(parents=True)
        self.place = place
        self.trees = []
        self._leaving = set()
        try:
            self.start(place)
            yield
        finally:
            self.end()

    def start(self, place: Place) -> None:
        self.launch(self.prepare(place))
        ports = [place.http_port, *([place.tcp_port] if self.has_tcp else [])]
        self.trees[0].wait_until(lambda: all(accepts(port) for port in ports))

    def launch(self, command: list[str]) -> Tree:
        tree = Tree(command, self.place.cpu, self.log)
        with self._lock:
            self.trees.append(tree)
        return tree

    @property
    def log(self) -> Path:
        return self.place.directory / "out.log"

    def restart(self) -> list[psutil.Process]:
        """The processes that are to be gone because of it."""
        before = self.processes()
        self.order()
        leaving = [each for each in before if not self.stays(each) and each not in self._leaving]
        self._leaving.update(leaving)
        return leaving

    def processes(self) -> list[psutil.Process]:
        """Those alive; a zombie is none."""
        with self._lock:
            members = [process for tree in self.trees for process in tree.members()]
        return [process for process in members if alive(process)]

    def wait_until(self, condition: Callable[[], object], what: str) -> None:
        deadline_s = time.monotonic() + RESTART_S
        while not condition():
            if time.monotonic() > deadline_s:
                raise Refused(f"{what}: not within {RESTART_S:g} s; {last_line(self.log)}")
            time.sleep(0.005)

    def end(self) -> None:
        """Every process that belongs to it, and what it leaves where others do not look."""
        for tree in reversed(self.trees):
            tree.end()
        self.trees = []


def accepts(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


def alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    return lines[-1] if lines else "it says nothing"


def output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=RESTART_S).stdout
