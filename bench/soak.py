"""200 restarts under load: no request fails, and nothing leaks.

    make soak                     about five minutes; exit code 1 and the reason when something is wrong

Counts what clients see, and compares descriptors, processes, memory and shared-memory segments after 80 restarts with
those after 200.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.startup import config, memory_kib
from tests.kit import clients, origin
from tests.kit.instance import Instance, eventually, instance

# The supervisor's heap may wander by some pages; 200 leaked generations would be megabytes.
SUPERVISOR_GROWTH_KIB = 1024
GENERATION_GROWTH_KIB = 4096


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


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--restarts", type=int, default=200)
    parser.add_argument("--new-rate", type=float, default=300)
    arguments = parser.parse_args()
    # What the allocators keep for good has been taken by then (measured: it grows through 100 restarts, and no more).
    settled = arguments.restarts * 2 // 5 // 4 * 4 + 3
    problems: list[str] = []
    with tempfile.TemporaryDirectory(prefix="hp-") as name:
        directory = Path(name)
        (directory / "nginx").mkdir()
        with origin.nginx(directory / "nginx") as address, instance(directory, config(address, 2)) as proxy:
            began = time.monotonic()
            with clients.load(proxy.port("web"), arguments.new_rate, keepalive=100, pace_s=0.2) as load:
                first: dict[str, int] = {}
                for number in range(arguments.restarts):
                    proxy.write(config(address, (2, 3, 1, 2)[number % 4]))
                    proxy.reload()
                    if number == settled:
                        first = weigh(proxy)
                proxy.write(config(address, 2))
                proxy.reload()
                last = weigh(proxy)
                counts = load.stop()
            took_s = time.monotonic() - began
            eventually(lambda: proxy.stats()["http.web.downstream_cx_active"] == 0, "connections to close")
            stats = proxy.stats()
    print(f"{arguments.restarts} restarts in {took_s:.0f}s under load: {counts}")
    for what, before in first.items():
        print(f"  {what:16} {before:8} -> {last[what]:8}")
        allowed = {"supervisor_kib": SUPERVISOR_GROWTH_KIB, "generation_kib": GENERATION_GROWTH_KIB}.get(what, 0)
        if last[what] > before + allowed:
            problems.append(f"{what} grew from {before} to {last[what]}")
    moved, refused = stats["server.handoff_moved"], stats["server.handoff_refused"]
    print(f"  {moved} times a connection moved, {refused} times one stayed and drained")
    if counts["closes"] > refused:
        problems.append(f"{counts['closes']} keep-alive connections were asked to go, {refused} had to")
    if counts["failures"]:
        problems.append(f"failed requests: {counts['failures']}")
    if stats["http.web.downstream_rq_total"] != counts["requests"]:
        problems.append(f"{counts['requests']} requests sent, {stats['http.web.downstream_rq_total']} counted")
    for problem in problems:
        print(f"soak: {problem}", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
