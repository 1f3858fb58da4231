"""A first process in namespaces of its own: what a test calls a machine, or a container.

It is built by a shell script that mounts its root, says BUILT and becomes the process in question. Where the kernel, or
a container that we are in ourselves, does not let it come so far, `Refused` says what was refused.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.kit.origin import need

PATIENCE_S = 60.0
BUILT = "the root is built\n"


class Refused(Exception):
    """Namespaces, or mounts in them, are not for us."""


@dataclass(frozen=True)
class First:
    """`pid`, here, of who is PID 1 there. `unshare` is its parent: it ends with it, and takes it along."""

    pid: int
    unshare: subprocess.Popen[bytes]
    log: Path

    @property
    def said(self) -> str:
        return self.log.read_text(errors="replace")


@contextlib.contextmanager
def first_process(script: Path, arguments: Sequence[str], name: str, kinds: str, before: str = "") -> Iterator[First]:
    """`script SCRATCH arguments…` in new namespaces of these `kinds`, once it is called `name`.

    `before`: shell commands in the process that will be the parent. A program that is missing skips the test, or fails
    it, as in `need`.
    """
    for program in ("unshare", "nsenter", "setpriv", "mount"):
        need(program)
    if os.getuid() != 0:
        raise Refused("only root may make namespaces and mount in them")
    with tempfile.TemporaryDirectory(prefix="hp-root-") as scratch:
        log, mountpoint = Path(scratch, "log"), Path(scratch, "mountpoint")
        mountpoint.mkdir()
        # It dies with us, however we die; and all that it has begun with it.
        outer = ["sh", "-c", f'{before or ":"} && exec "$0" "$@"', "setpriv", "--pdeathsig", "KILL"]
        unshare = ["unshare", "--kill-child=KILL", "--fork", *(f"--{kind}" for kind in kinds.split())]
        with open(log, "wb") as out:
            process = subprocess.Popen(
                [*outer, *unshare, "sh", str(script), str(mountpoint), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
            )
        first = -1  # a pidfd: `--kill-child` is forgotten by a child that changes its uid
        try:
            pid = _wait_for(name, process, log)
            first = os.pidfd_open(pid)
            yield First(pid, process, log)
        finally:
            if first >= 0:
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(first, signal.SIGKILL)
                os.close(first)
            process.kill()
            process.wait()


def _wait_for(name: str, process: subprocess.Popen[bytes], log: Path) -> int:
    deadline_s = time.monotonic() + PATIENCE_S
    while process.poll() is None:
        with contextlib.suppress(OSError):
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            for pid in map(int, children):
                if Path(f"/proc/{pid}/comm").read_text().strip() == name:
                    return pid
        if time.monotonic() > deadline_s:
            process.kill()
        select.select([], [], [], 0.02)
    said = log.read_text(errors="replace")
    assert BUILT not in said, f"{name} did not come up: {said}"
    reason = "; ".join(line.strip() for line in said.splitlines())
    raise Refused(f"namespaces with a root of their own can't be had: {reason or 'no reason was given'}")
