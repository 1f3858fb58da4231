"""The C programs beside this file, compiled when they are needed. Without a compiler what needs them is left out."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

HERE = Path(__file__).parent
BUILD = HERE.parent.parent / "build" / "bench"


def build(name: str) -> Path | None:
    """Path of the program; None when there is no C compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        return None
    source, program = HERE / f"{name}.c", BUILD / name
    if not program.exists() or program.stat().st_mtime < source.stat().st_mtime:
        BUILD.mkdir(parents=True, exist_ok=True)
        flags = ["-O2", "-Wall", "-Wextra", "-Werror"]
        part = BUILD / f"{name}.{os.getpid()}"  # two who compile at a time do not run each other's half
        subprocess.run([compiler, *flags, "-o", str(part), str(source), "-lm"], check=True)
        part.replace(program)
    return program
