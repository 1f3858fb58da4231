"""A proxy of one's own, described in a TOML file; docs/restart-bench.md has an example."""

from __future__ import annotations

import os
import signal
import subprocess
import tomllib
from pathlib import Path
from typing import Any

from bench.restart.systems.system import RESTART_S, Place, Refused, System, output

KEYS = {"name", "setting", "version", "file", "config", "start", "restart", "signal", "count", "tcp"}
NEEDED = ("name", "start")


class BadDescription(Exception):
    """What is wrong with the file, in one line."""


class Own(System):
    def __init__(self, described: dict[str, Any]) -> None:
        self.described = described
        self.name = described["name"]
        self.setting = described.get("setting", "")
        self.has_tcp = described.get("tcp", True)
        super().__init__(described.get("version", ""))

    def prepare(self, place: Place) -> list[str]:
        if "config" in self.described:
            path = place.directory / self.described.get("file", "config")
            path.write_text(place.fill(self.described["config"]))
            path.chmod(0o640)
        return self.words("start")

    def words(self, key: str) -> list[str]:
        return [self.place.fill(word) for word in self.described[key]]

    def order(self) -> None:
        if "signal" in self.described:
            os.kill(self.trees[0].process.pid, signal.Signals[f"SIG{self.described['signal']}"])
            return
        try:
            output(*self.words("restart"))
        except subprocess.CalledProcessError as error:
            raise Refused(f"exit code {error.returncode}: {(error.stderr or error.stdout).strip()}") from error
        except subprocess.TimeoutExpired as error:
            raise Refused(f"no end of it in {RESTART_S:g} s") from error

    def counted(self) -> int | None:
        return int(output(*self.words("count"))) if "count" in self.described else None


def read(path: Path) -> Own:
    """Raises BadDescription."""
    try:
        described = tomllib.loads(path.read_text())
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise BadDescription(f"{path}: {error}") from error
    if unknown := sorted(set(described) - KEYS):
        raise BadDescription(f"{path}: nobody knows {', '.join(unknown)}; there are {', '.join(sorted(KEYS))}")
    if missing := [key for key in NEEDED if key not in described]:
        raise BadDescription(f"{path}: {', '.join(missing)} must be there")
    if ("restart" in described) == ("signal" in described):
        raise BadDescription(f"{path}: one of restart (a command) and signal (a name) must be there")
    if "signal" in described and f"SIG{described['signal']}" not in signal.Signals.__members__:
        raise BadDescription(f"{path}: there is no signal {described['signal']}; write HUP, USR2 and so on")
    return Own(described)
