"""500 restarts under load: what a restart takes of memory at its peak, and what all of them leave behind.

Descriptors, processes, memory and shared-memory segments after 200 restarts are compared with those after 500.
"""

from __future__ import annotations

import contextlib
import os
import threading
from pathlib import Path

import psutil

from bench.soak.figures import Figure, none
from bench.startup import config, memory_kib
from tests.kit import clients, origin
from tests.kit.instance import Instance, eventually, instance

RESTARTS = 500
NEW_RATE = 300
# How many restarts are watched for their peak.
WATCHED = 5
LOOK_S = 0.01
# Beside what both generations weigh: the old one's pages that are written to while it leaves.
PEAK = 1.1
# The supervisor's heap may wander by some pages; 500 leaked generations would be megabytes.
ALLOWED_KIB = {"supervisor_kib": 1024, "generation_kib": 4096}


def run(directory: Path, share: float) -> list[Figure]:
    restarts = max(round(RESTARTS * share) // 20 * 20, 20)
    # What the allocators keep for good has been taken by then (measured: it grows through 100 restarts, and no more).
    settled = restarts * 2 // 5 // 4 * 4 + 3
    (directory / "nginx").mkdir()
    with origin.nginx(directory / "nginx") as address, instance(directory, config(address, 2)) as proxy:
        peaks = [peak(proxy) for _ in range(WATCHED)]
        with clients.load(proxy.port("web"), NEW_RATE, keepalive=100, pace_s=0.2) as load:
            first: dict[str, int] = {}
            for number in range(restarts):
                proxy.write(config(address, (2, 3, 1, 2)[number % 4]))
                proxy.reload()
                if number == settled:
                    first = weigh(proxy)
            proxy.write(config(address, 2))
            proxy.reload()
            last = weigh(proxy)
            counts = load.stop()
        eventually(lambda: proxy.stats()["http.web.downstream_cx_active"] == 0, "connections to close")
        stats = proxy.stats()
    worst, steady, own = max(peaks)
    figures = [
        Figure(
            "C12", f"memory at the peak of {WATCHED} restarts, beyond steady", f"{worst:.2f} generations",
            f"<= {PEAK}", worst <= PEAK, False,
        ),
        Figure("C12", "  steady, and a generation's own", f"{steady // 1024} MiB, {own // 1024} MiB", "", True, False),
        none("C12", f"{restarts} restarts: failed requests", counts["failures"], f"{counts['requests']}"),
        none("C10", "  requests sent, but not counted", counts["requests"] - stats["http.web.downstream_rq_total"]),
        none("C3", "  clients asked to go who could have moved",
             max(counts["closes"] - stats["server.handoff_refused"], 0)),
    ]  # fmt: skip
    for what, before in first.items():
        bar = before + ALLOWED_KIB.get(what, 0)
        figures.append(Figure("C12", f"  {what}", f"{before} -> {last[what]}", f"<= {bar}", last[what] <= bar))
    return figures


def peak(proxy: Instance) -> tuple[float, int, int]:
    """One restart: how many generations it takes at its peak beyond what is there before, that, and one of them."""
    eventually(lambda: len(proxy.status()["generations"]) == 1, "old generations to leave")
    supervisor = psutil.Process(proxy.pids()[0])
    steady = together(supervisor)
    own = steady - memory_kib(supervisor.pid, "Pss")
    seen = [steady]
    over = threading.Event()

    def look() -> None:
        while not over.wait(LOOK_S):
            seen.append(together(supervisor))

    watcher = threading.Thread(target=look)
    watcher.start()
    proxy.reload()
    eventually(lambda: len(proxy.status()["generations"]) == 1, "old generations to leave")
    over.set()
    watcher.join()
    return (max(seen) - steady) / own, steady, own


def together(supervisor: psutil.Process) -> int:
    """Σ PSS of the whole instance, in KiB: what is shared counts once."""
    total = 0
    for process in [supervisor, *supervisor.children(recursive=True)]:
        with contextlib.suppress(OSError, psutil.NoSuchProcess):  # it has just left
            total += memory_kib(process.pid, "Pss")
    return total


def weigh(proxy: Instance) -> dict[str, int]:
    """What the instance holds, once only one generation is left."""
    eventually(lambda: len(proxy.status()["generations"]) == 1, "old generations to leave")
    pids = proxy.pids()
    generation = proxy.status()["generations"][0]
    processes = [pids[0], generation["pid"]]
    return {
        "processes": len(pids),
        "supervisor_fds": len(os.listdir(f"/proc/{pids[0]}/fd")),
        "zygote_fds": len(os.listdir(f"/proc/{generation['pid']}/fd")),
        "worker_fds": max(listening_fds(slot["pid"]) for slot in generation["slots"]),
        "supervisor_kib": memory_kib(processes[0], "Private_Dirty"),
        "generation_kib": sum(memory_kib(pid, "Pss") for pid in pids[1:]),
        "segments": len(proxy.shared_memory()),
    }


def listening_fds(pid: int) -> int:
    """Descriptors that are not connections: those come and go with the load."""
    kinds = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]
    return sum(not kind.startswith("socket:") for kind in kinds)
