"""A machine with a real systemd as its PID 1, in namespaces of this one: what `systemctl` does there is what it does.

It has a file system of its own (what the host has, and every write in memory), a network of its own (loopback alone, so
any port is free), its own processes, journal and shared memory. Its `root` can be read and written from here.
"""

from __future__ import annotations

import contextlib
import os
import select
import shlex
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tests.kit.namespaces import PATIENCE_S, First, Refused, first_process
from tests.kit.origin import need

ROOT_SCRIPT: Final = Path(__file__).with_name("root.sh")
SYSTEMD: Final = Path("/lib/systemd/systemd")
# Where the machine has the packages that hotproxy needs: units see nothing of /tmp and /home, where a checkout may be.
DEPENDENCIES: Final = "/opt/dependencies"


class Machine:
    """One that runs. `entered` is the prefix of a command that shall run in it, `on_its_network` of one of the host's
    that shall only talk to it."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.root = Path(f"/proc/{pid}/root")
        nsenter = [need("nsenter"), "--target", str(pid)]
        inside = ["--mount", "--pid", "--cgroup", "--net", "--ipc", "--uts", "--root", "--wd"]
        self.entered = [*nsenter, *inside, "env", "-u", "NOTIFY_SOCKET", "-u", "JOURNAL_STREAM"]
        self.on_its_network = [*nsenter, "--net"]

    def run(self, *command: str | int) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self.entered, *map(str, command)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
        )

    def must(self, *command: str | int) -> str:
        """What a command says that succeeds."""
        done = self.run(*command)
        assert done.returncode == 0, f"{' '.join(map(str, command))}: {done.stdout}{done.stderr}"
        return done.stdout

    def pid_here(self, pid: int) -> int:
        """The number that a process of the machine has on the host."""
        own = os.stat(f"/proc/{self.pid}/ns/pid")
        for entry in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError):  # gone while we look
                status = Path(f"/proc/{entry}/status").read_text()
                numbers = next(line.split()[1:] for line in status.splitlines() if line.startswith("NSpid:"))
                if numbers[-1] == str(pid) and os.path.samestat(os.stat(f"/proc/{entry}/ns/pid"), own):
                    return int(entry)
        raise AssertionError(f"there is no process {pid} in the machine")

    def open_to_all(self, path: str) -> None:
        """Every user may come as far as to `path`, which may lie in somebody's home."""
        for directory in Path(path).parents:
            inside = self.root / str(directory).lstrip("/")
            inside.chmod(inside.stat().st_mode | 0o111)

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        """A file, replaced in one step."""
        target = self.root / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(target.name + ".new")
        part.write_text(text)
        part.chmod(mode)
        part.replace(target)


@contextlib.contextmanager
def machine() -> Iterator[Machine]:
    """Booted; nothing of it is left afterwards. Raises Refused; a missing program skips or fails as in `need`."""
    if not SYSTEMD.exists():
        need("systemd")  # not here; elsewhere a program of this name says where it is
    binds = [sysconfig.get_paths()["purelib"], DEPENDENCIES]
    if os.stat(sys.base_prefix).st_dev != os.stat("/").st_dev:  # a mount of its own, which an overlay does not show
        binds += [sys.base_prefix, sys.base_prefix]
    kinds = "mount pid cgroup net ipc uts"
    with _cgroup() as cgroup:
        # The root of the cgroup namespace is where its first process is.
        into = f"echo $$ >{shlex.quote(str(cgroup))}/cgroup.procs"
        with first_process(ROOT_SCRIPT, binds, "systemd", kinds, before=into) as first:
            booted = Machine(first.pid)
            _until_it_runs(booted, first)
            yield booted


@contextlib.contextmanager
def _cgroup() -> Iterator[Path]:
    """A cgroup (version 2) of the machine's own; what systemd makes below it goes with it."""
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    unified = next((Path(mount[1]) for mount in mounts if mount[2] == "cgroup2"), None)
    if unified is None:
        raise Refused("no cgroup2 is mounted here")
    made = unified / f"hotproxy-test-{os.getpid()}"
    try:
        made.mkdir()
    except OSError as error:
        raise Refused(f"{made} can't be made: {error.strerror}") from None
    try:
        yield made
    finally:
        deadline_s = time.monotonic() + PATIENCE_S
        while made.exists():  # empty once the kernel has reaped what was killed
            for directory, _, _ in os.walk(made, topdown=False):
                with contextlib.suppress(OSError):
                    os.rmdir(directory)
            assert time.monotonic() < deadline_s, f"{made} is not empty"
            select.select([], [], [], 0.02)


def _until_it_runs(booted: Machine, first: First) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    state = ""
    while state not in ("running", "degraded"):
        assert first.unshare.poll() is None, first.said
        assert time.monotonic() < deadline_s, f"systemd does not come up ({state}): {first.said}"
        select.select([], [], [], 0.05)
        state = booted.run("systemctl", "is-system-running").stdout.strip()
