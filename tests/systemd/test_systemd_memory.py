"""A worker that the kernel kills for want of memory costs its own clients, and never the service."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit.instance import eventually
from tests.systemd.service import Service, assert_only_the_crashed_ones_lost

# Sixteen pages: whatever a worker does next is too much.
LIMIT_BYTES = 64 * 1024


@pytest.fixture
def little_memory() -> Iterator[Path]:
    """A memory cgroup that allows nearly nothing."""
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    memory = next(
        (Path(mount[1]) for mount in mounts if mount[2] == "cgroup" and "memory" in mount[3].split(",")), None
    )
    if memory is None or not os.access(memory, os.W_OK):
        pytest.skip("one worker alone can be short of memory in a memory cgroup of version 1, which is not here")
    made = memory / f"hotproxy-test-{os.getpid()}"
    made.mkdir()
    try:
        (made / "memory.limit_in_bytes").write_text(str(LIMIT_BYTES))
        yield made
    finally:
        with contextlib.suppress(OSError):
            for pid in (made / "cgroup.procs").read_text().split():
                (memory / "cgroup.procs").write_text(pid)
        eventually(lambda: not removed(made).exists(), f"{made} to be empty")


def removed(directory: Path) -> Path:
    with contextlib.suppress(OSError):
        directory.rmdir()
    return directory


@pytest.mark.slow
def test_a_worker_killed_for_memory_is_replaced_and_the_unit_stays(service: Service, little_memory: Path) -> None:
    service.start()
    pid, killed = service.pid, service.newest()["slots"][0]["pid"]
    with service.load() as load:
        (little_memory / "cgroup.procs").write_text(str(service.machine.pid_here(killed)))
        service.eventually(lambda: service.stats()["server.worker_crashes"] == 1, "the kernel to kill it")
        service.eventually(lambda: killed not in [slot["pid"] for slot in service.newest()["slots"]], "a new worker")
        counts = load.stop()
    assert "oom_kill 1\n" in (little_memory / "memory.oom_control").read_text()
    assert_only_the_crashed_ones_lost(counts, service)
    assert (service.pid, service.show("NRestarts"), service.show("ActiveState")) == (pid, "0", "active")
    assert service.show("OOMPolicy") == "continue", "or systemd stops what is left when it hears of it"
