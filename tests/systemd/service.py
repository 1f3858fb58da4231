"""A unit of hotproxy's in a machine, as an administrator and its clients see it."""

from __future__ import annotations

import contextlib
import json
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

from tests.kit import clients
from tests.kit.instance import eventually
from tests.systemd.machine import Machine

PORT: Final = 8080
CONFIG: Final = f"""
workers: 2
drain_timeout: 5s
listeners:
  - name: web
    address: 127.0.0.1:{PORT}
    cluster: origin
clusters:
  - name: origin
    endpoints: ["{{origin}}"]
"""


class Service:
    """`hotproxy.service` or one of `hotproxy@.service`."""

    def __init__(self, machine: Machine, unit: str) -> None:
        self.machine = machine
        self.unit = f"{unit}.service"
        self.instance = unit.partition("@")[2] or "default"
        self.config = f"/etc/hotproxy/{unit.partition('@')[2] or 'hotproxy'}.yaml"
        self._began_us = time.monotonic_ns() // 1000

    # -- the administrator --------------------------------------------------------------------------------------

    def configure(self, text: str) -> None:
        self.machine.write(self.config, text, 0o640)
        self.machine.must("chgrp", "hotproxy", self.config)

    def drop_in(self, text: str, unit: str = "") -> None:
        """Until the end of the test."""
        self.machine.write(f"/run/systemd/system/{unit or self.unit}.d/test.conf", text)
        self.machine.must("systemctl", "daemon-reload")

    def systemctl(self, verb: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.machine.run("systemctl", verb, *arguments, self.unit)

    def start(self) -> None:
        done = self.systemctl("start")
        assert done.returncode == 0, f"{done.stderr}{self.journal()}"

    def reload(self) -> None:
        done = self.systemctl("reload")
        assert done.returncode == 0, f"{done.stderr}{self.journal()}"

    def stop(self) -> None:
        done = self.systemctl("stop")
        assert done.returncode == 0, f"{done.stderr}{self.journal()}"

    def end(self) -> None:
        """Stopped, every process of it gone, no drop-in left."""
        self.systemctl("stop")
        self.systemctl("kill", "--signal=KILL")
        self.systemctl("reset-failed")
        eventually(lambda: not self.processes(), f"nothing of {self.unit} to be left")
        self.machine.must("rm", "-rf", f"/run/systemd/system/{self.unit}.d", f"/run/hotproxy/{self.instance}")
        self.machine.must("systemctl", "daemon-reload")

    # -- what is seen -------------------------------------------------------------------------------------------

    def show(self, name: str) -> str:
        return self.machine.must("systemctl", "show", "-P", name, self.unit).strip()

    @property
    def pid(self) -> int:
        return int(self.show("MainPID"))

    def processes(self) -> list[int]:
        """All in the unit's cgroup."""
        path = self.machine.root / "sys/fs/cgroup/system.slice" / self.unit / "cgroup.procs"
        # Read inside: the numbers of another pid namespace are 0 to a reader of ours.
        found = self.machine.run("cat", f"/sys/fs/cgroup/system.slice/{self.unit}/cgroup.procs")
        return [int(pid) for pid in found.stdout.split()] if path.exists() else []

    def entries(self) -> list[dict[str, Any]]:
        """The journal of this unit since the test began."""
        lines = self.machine.must("journalctl", "--no-pager", "-o", "json", "-u", self.unit).splitlines()
        # Not by --after-cursor: with a unit to look for, systemd 252 leaves its first entry out.
        return [each for each in map(json.loads, lines) if int(each["__MONOTONIC_TIMESTAMP"]) >= self._began_us]

    def journal(self, priority: int = 7) -> str:
        """Its messages of this priority and above."""
        return "\n".join(entry["MESSAGE"] for entry in self.entries() if int(entry["PRIORITY"]) <= priority)

    def logs(self, text: str, priority: int = 7) -> None:
        """It is there, or comes: what a process has written last, journald reads later."""
        eventually(lambda: text in self.journal(priority), f"{text!r} in the journal:\n{self.journal()}")

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """A verb of hotproxy's, of its own user."""
        prefix = ["setpriv", "--reuid=hotproxy", "--regid=hotproxy", "--clear-groups", "hotproxy"]
        return self.machine.run(*prefix, "--runtime-dir", "/run/hotproxy", "--instance", self.instance, *arguments)

    def status(self) -> dict[str, Any]:
        answer = self.command("status", "--json")
        assert answer.returncode == 0, f"{answer.stderr}{self.journal()}"
        found: dict[str, Any] = json.loads(answer.stdout)
        return found

    def newest(self) -> dict[str, Any]:
        """The generation that came last."""
        found: dict[str, Any] = max(self.status()["generations"], key=lambda generation: generation["epoch"])
        return found

    def stats(self) -> dict[str, Any]:
        answer = self.command("stats", "--json")
        assert answer.returncode == 0, answer.stderr
        found: dict[str, Any] = json.loads(answer.stdout)
        return found

    def kill(self, pid: int, signal: str = "KILL") -> None:
        self.machine.must("kill", "-s", signal, pid)

    def eventually(self, condition: Callable[[], object], what: str) -> None:
        eventually(condition, f"{what}:\n{self.journal()}")

    # -- its clients --------------------------------------------------------------------------------------------

    def curl(self, url: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.machine.run("curl", "-sSf", "-m", "30", *arguments, url)

    @contextlib.contextmanager
    def load(self, port: int = PORT, new_rate: float = 200, keepalive: int = 50) -> Iterator[clients.LoadRun]:
        """`clients.load`, from a process on the machine's network."""
        with clients.load(port, new_rate, keepalive, pace_s=0.1, prefix=self.machine.on_its_network) as run:
            yield run


def assert_nothing_lost(counts: dict[str, Any], service: Service) -> None:
    assert counts["failures"] == {}, f"{counts}\n{service.journal()}"
    assert counts["ok"] == counts["requests"] > 0


def assert_only_the_crashed_ones_lost(counts: dict[str, Any], service: Service) -> None:
    """Who waits in a queue is served; who was with the worker that crashed is counted."""
    assert {what: count for what, count in counts["failures"].items() if "connect" in what} == {}
    assert sum(counts["failures"].values()) <= service.stats()["server.crashed_in_flight"], counts
