"""A fleet of clients of every kind through some restarts of one proxy."""

from __future__ import annotations

import subprocess
import time
from collections import Counter
from collections.abc import Callable

from bench.peers.cases import Machine
from bench.peers.loads import Failed
from bench.restart import accounts
from bench.restart.fleet import Sightings, fleet
from bench.restart.plan import Plan, echo, place
from bench.restart.systems.system import Refused, System
from bench.restart.watch import Watch
from bench.spin import SpinMonitor

# Until what every client has asked for first has been answered, and memory and pools are as they stay.
SETTLE_S = 3.5
# What counters may take to reach the process that is asked: Envoy's new epoch asks its parent every 5 s.
COUNTERS_S = 7.0

Say = Callable[[str], None]


def run(system: System, plan: Plan, machine: Machine, say: Say) -> dict[str, float]:
    """Its figures. Raises Failed when they would be worth nothing."""
    try:
        with echo(machine.load_cpu) as origin, system.running(place(machine, plan, origin)):
            tcp_port = system.place.tcp_port if system.has_tcp else None
            ports = (system.place.http_port, tcp_port, origin["http"])
            with fleet(plan.size, *ports, machine.load_cpu) as clients, Watch(system) as watch, SpinMonitor() as spin:
                time.sleep(SETTLE_S)
                first_s = time.monotonic()
                began, refused = restart_again(system, plan, watch, say)
                deadline_s = time.monotonic() + plan.cap_s - plan.gap_s
                while not watch.all_gone() and time.monotonic() < deadline_s:
                    time.sleep(0.1)
                sightings = clients.stop()
            counted = settled_count(system, sightings.answered)
    except (AssertionError, subprocess.SubprocessError, OSError, SystemExit) as error:
        raise Failed(f"{type(error).__name__}: {error}") from error
    if not began:
        raise Failed("no restart succeeded")
    found = figures(sightings, first_s, began)
    found |= {
        "restarts_refused": refused,
        "open": plan.size.open(system.has_tcp),
        "steady_mib": watch.steady_kib(first_s) / 1024,
        "peak_mib": watch.peak_kib() / 1024,
        "machine_ms": spin.worst_ms,
    }
    if watch.restarts:
        found["gone_s"] = max(each.within(plan.cap_s) for each in watch.restarts)
    if counted is not None:
        found["counters_lost"] = accounts.lost_counts(sightings.answered, counted)
    seen = Counter(f"{kind}: {how}" for _, kind, how, _ in sightings.losses)
    say(f"{system.title}: " + (", ".join(f"{count} × {what}" for what, count in seen.most_common()) or "nothing lost"))
    return found


def figures(sightings: Sightings, first_s: float, began: list[float]) -> dict[str, float]:
    """What the clients know. Raises Failed when they lost something before the first restart."""
    early = accounts.losses(sightings, 0.0, first_s)
    if early.failed or early.cut_in_all:
        raise Failed(f"clients lost something before any restart: {sightings.losses[0]}")
    lost = accounts.losses(sightings, first_s)
    return {
        "restarts": len(began),
        "requests": sightings.answered,
        "cut": lost.cut_in_all,
        "cut_idle": lost.idle,
        **{f"cut_{kind}": count for kind, count in lost.cut.items()},
        "failed": lost.failed,
        "failed_new": lost.failed_new,
        "refused": lost.refused,
        "wrong": lost.wrong,
        "sent_away": lost.sent_away,
        **accounts.latencies(sightings, began),
    }


def restart_again(system: System, plan: Plan, watch: Watch, say: Say) -> tuple[list[float], int]:
    """(when each restart that happened began, how many were refused)"""
    began, refused = [], 0
    for _ in range(plan.restarts):
        begin_s = time.monotonic()
        watch.busy()
        try:
            leaving = system.restart()
        except Refused as why:
            refused += 1
            say(f"{system.title}: a restart was refused: {why}")
        else:
            began.append(begin_s)
            if leaving:
                watch.follow(begin_s, leaving)
        time.sleep(max(0.0, begin_s + plan.gap_s - time.monotonic()))
    return began, refused


def settled_count(system: System, answered: int) -> int | None:
    """What the proxy has counted, once it knows of everything, or patience is over."""
    deadline_s = time.monotonic() + COUNTERS_S
    while (counted := system.counted()) is not None and counted < answered and time.monotonic() < deadline_s:
        time.sleep(0.5)
    return counted
