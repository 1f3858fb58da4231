"""A whole proxy for a test: `hotproxy run` in a directory of its own, asked by the commands that a user has.

Everything that it starts is gone at the end of the `with`, whatever happened in it: the supervisor by TERM, then every
process that still carries this instance's directory on its command line or in its ancestry, by PID.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil

PYTHON = sys.executable
# How long anything may take before a test calls it hung. Generous: machines are shared, and no test measures time.
PATIENCE_S = 60.0


class Instance:
    """One running proxy. `config` is the file it reads; `write` replaces it as an editor does."""

    def __init__(self, directory: Path, name: str = "test", python: str = PYTHON) -> None:
        self.directory = directory
        self.hotproxy = [python, "-I", "-m", "hotproxy.cli.main"]
        self.name = name
        self.config = directory / "hotproxy.yaml"
        self.log = directory / "log"
        self.process: subprocess.Popen[bytes] | None = None
        self.environment = dict(os.environ)
        self._seen: set[psutil.Process] = set()

    # -- life ---------------------------------------------------------------------------------------------------

    def write(self, text: str) -> None:
        part = self.config.with_suffix(".new")
        part.write_text(text)
        part.chmod(0o640)
        part.replace(self.config)

    def start(self, *arguments: str) -> None:
        """`hotproxy run`; returns when it serves."""
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                [*self.hotproxy, *self._global(), "run", "-c", str(self.config), *arguments],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                env=self.environment,
            )
        process = self.process

        def serving() -> bool:
            if process.poll() is not None:
                raise AssertionError(f"hotproxy run ended with {process.returncode}:\n{self.log_text()}")
            answer = self.command("status", "--json")
            return answer.returncode == 0 and json.loads(answer.stdout)["state"] == "LIVE"

        eventually(serving, f"serving:\n{self.log_text()}")

    def signal(self, number: int) -> None:
        assert self.process is not None
        os.kill(self.process.pid, number)

    def wait(self) -> int:
        assert self.process is not None
        return self.process.wait(PATIENCE_S)

    def end(self) -> None:
        """Leave nothing behind."""
        self._remember()
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(10)
        self.kill_all()
        if self.process is not None:
            self.process.wait(10)
        for entry in self.shared_memory():
            entry.unlink()

    def kill_all(self) -> None:
        """`kill -9` for every process that is or was known."""
        self._remember()
        for process in self._seen:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(self._seen, 10)
        self._seen.clear()

    def _remember(self) -> None:
        """Every process of this instance: those with its runtime directory, their children, those known."""
        marker = str(self.directory / "run")
        for process in psutil.process_iter(["cmdline"]):
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                if process.pid != os.getpid() and any(marker in word for word in process.info["cmdline"] or ()):
                    self._seen.update([process, *process.children(recursive=True)])
        with contextlib.suppress(psutil.NoSuchProcess, AssertionError):
            self._seen.update(psutil.Process(pid) for pid in self.pids())

    # -- questions ----------------------------------------------------------------------------------------------

    def _global(self) -> list[str]:
        return ["--instance", self.name, "--runtime-dir", str(self.directory / "run")]

    def command(self, *arguments: str, timeout: float = PATIENCE_S) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self.hotproxy, *self._global(), *arguments],
            capture_output=True,
            text=True,
            timeout=timeout,
            env=self.environment,
        )

    def begin_command(self, *arguments: str) -> subprocess.Popen[str]:
        """One that is not waited for."""
        return subprocess.Popen(
            [*self.hotproxy, *self._global(), *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def reload(self) -> subprocess.CompletedProcess[str]:
        answer = self.command("reload")
        assert answer.returncode == 0, f"{answer.stderr}\n{self.log_text()}"
        return answer

    def status(self) -> dict[str, Any]:
        answer = self.command("status", "--json")
        assert answer.returncode == 0, answer.stderr
        found: dict[str, Any] = json.loads(answer.stdout)
        return found

    def stats(self) -> dict[str, Any]:
        answer = self.command("stats", "--json")
        assert answer.returncode == 0, answer.stderr
        found: dict[str, Any] = json.loads(answer.stdout)
        return found

    def port(self, listener: str) -> int:
        """The port that a listener of the config (mostly `…:0`) is bound to."""
        for each in self.status()["listeners"]:
            if each["name"] == listener:
                return int(each["addresses"][0].rpartition(":")[2])
        raise AssertionError(f"no listener {listener} in {self.status()['listeners']}")

    def pids(self) -> list[int]:
        """Every process that status knows, supervisor first."""
        try:
            status = self.status()
        except AssertionError:
            return []
        pids = [status["pid"]]
        for generation in status["generations"]:
            pids += [generation["pid"], generation["control"]["pid"], *(slot["pid"] for slot in generation["slots"])]
        return [pid for pid in pids if pid]

    def workers(self) -> list[int]:
        """The pids of the newest generation's slots, in order."""
        newest = max(self.status()["generations"], key=lambda generation: generation["epoch"])
        return [slot["pid"] for slot in newest["slots"]]

    def log_text(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def shared_memory(self) -> list[Path]:
        """This instance's segments."""
        return sorted(Path("/dev/shm").glob(f"{self.shared_memory_name().lstrip('/')}*"))

    def shared_memory_name(self) -> str:
        from hotproxy.shm.segment import segment_name

        return segment_name(self.name, str(self.directory / "run"))


@contextlib.contextmanager
def instance(
    directory: Path, config: str, *arguments: str, start: bool = True, python: str = PYTHON
) -> Iterator[Instance]:
    """A proxy that serves `config` inside the `with`."""
    proxy = Instance(directory, python=python)
    proxy.write(config)
    try:
        if start:
            proxy.start(*arguments)
        yield proxy
    finally:
        proxy.end()


def is_running(pid: int) -> bool:
    """A zombie is not: who inherits it may be slow to bury it. Nor is one that ends between the two questions."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def eventually(condition: Callable[[], object], what: str) -> None:
    """Wait until `condition` holds. For what another process does in its own time; never for a duration."""
    deadline_s = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > deadline_s:
            raise AssertionError(f"not within {PATIENCE_S:g}s: {what}")
        time.sleep(0.02)
