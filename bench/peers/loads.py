"""The two load generators: wrk asks again as soon as it is answered, open_loop at times of its own."""

from __future__ import annotations

import array
import json
import subprocess
from collections.abc import Mapping
from pathlib import Path

from bench.peers import native
from bench.peers.processes import pinned
from tests.kit.origin import find


class Failed(Exception):
    """This proxy answered wrongly in this round, or not at all; the round counts without it."""


def closed_loop(
    url: str, connections: int, seconds: int, fields: Mapping[str, str], method: str = "GET", body: int = 0
) -> list[str]:
    """Prints requests, bytes, duration_s, errors."""
    headers = [word for name, value in fields.items() for word in ("-H", f"{name}: {value}")]
    command = [str(find("wrk")), "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "30s"]
    command += ["-s", str(Path(__file__).with_name("wrk.lua")), *headers]
    return [*command, url, "--", method, str(body)]


def open_loop(
    port: int, connections: int, rate: float, seconds: float, seed: int, request: Path, diary: Path | None = None
) -> list[str]:
    """What it prints is said in open_loop.c. The same seed makes the same times."""
    program = native.build("open_loop")
    assert program is not None
    command = [program, port, connections, rate, seconds, seed, request, *([diary] if diary else [])]
    return [str(word) for word in command]


def run(command: list[str], cpu: int) -> dict[str, float]:
    """What it has printed; raises Failed if it did not go well."""
    with pinned(cpu):
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    if done.returncode:
        raise Failed(done.stderr.strip() or f"exit code {done.returncode}")
    said: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return said


def read(diary: Path) -> list[tuple[int, int]]:
    """(due, latency) of every request of open_loop, in nanoseconds."""
    numbers = array.array("q", diary.read_bytes())
    return list(zip(numbers[::2], numbers[1::2], strict=True))
