"""100 restarts under 1,000 new connections a second, while somebody asks for stats and status 20 times a second."""

from __future__ import annotations

import time
from pathlib import Path

from bench.soak.figures import Figure, none
from bench.spin import SpinMonitor
from bench.startup import config
from tests.kit import clients, origin
from tests.kit.instance import eventually, instance

RESTARTS = 100
CONNECTIONS = 200_000
RATE = 1000
# The generator keeps a schedule; a little more than is asked for, since it begins before the first restart.
NEW_RATE = 1100
KEEPALIVE = 100
WORKERS = (2, 3, 1, 2)
ASKED_RATE = 20


def run(directory: Path, share: float) -> list[Figure]:
    restarts, connections = round(RESTARTS * share), round(CONNECTIONS * share)
    pace_s = connections / NEW_RATE / restarts
    (directory / "nginx").mkdir()
    with origin.nginx(directory / "nginx") as address, instance(directory, config(address, 2)) as proxy:
        with clients.watch(proxy) as watch, SpinMonitor() as spin:
            with clients.load(proxy.port("web"), NEW_RATE, KEEPALIVE) as load:
                began_s = time.monotonic()
                made = 0
                while made < restarts or proxy.stats()["listener.web.downstream_cx_total"] < connections + KEEPALIVE:
                    if made < restarts:
                        proxy.write(config(address, WORKERS[made % len(WORKERS)]))
                        proxy.reload()
                        made += 1
                    time.sleep(max(began_s + made * pace_s - time.monotonic(), 0.2))
                counts = load.stop()
                took_s = time.monotonic() - began_s
            eventually(lambda: proxy.stats()["http.web.downstream_cx_active"] == 0, "connections to close")
            seen = watch.stop()
        stats = proxy.stats()
    connects, sent, closes = counts["connects"], counts["requests"], counts["closes"]
    rate = connects / took_s
    off = {
        name: stats[name] - sent
        for name in (
            "http.web.downstream_rq_total", "http.web.downstream_rq_2xx", "http.web.downstream_rq_completed",
            "cluster.origin.upstream_rq_total",
        )
    }  # fmt: skip
    off |= {name: stats[name]["count"] - sent for name in ("http.web.downstream_rq_time",)}
    off["listener.web.downstream_cx_total"] = stats["listener.web.downstream_cx_total"] - connects
    gauges = {name: stats[name] for name in stats if name.endswith("_active") and ".upstream_cx_" not in name}
    answers = sum(seen["answers"].values())
    asked_rate = min(seen["answers"].values()) / took_s
    return [
        Figure("C1", "new connections", f"{connects}", f">= {connections}", connects >= connections),
        Figure("C1", "restarts meanwhile", f"{stats['server.restarts']}", f">= {restarts}", made >= restarts),
        none("C1", "failed requests and connections", counts["failures"], f"{sent}"),
        Figure("C1", "new connections a second", f"{rate:.0f}", f">= {RATE}", rate >= RATE, False, spin.worst_ms),
        none("C3", "idle clients asked to go who could have moved", max(closes - stats["server.handoff_refused"], 0)),
        none("C10", "counters that differ from what was sent", {name: by for name, by in off.items() if by}),
        none("C10", "gauges that are not 0 at the end", {name: left for name, left in gauges.items() if left}),
        none("C10", "counters that fell, looked at every 50 ms", seen["fell"], f"{seen['answers']['stats']} looks"),
        none("C18", "stats, status, admin: no answer", seen["failures"], f"{answers}"),
        Figure(
            "C18", "each asked so often a second", f"{asked_rate:.1f}", f">= {ASKED_RATE}",
            asked_rate >= ASKED_RATE * 0.95, False, spin.worst_ms,
        ),
        Figure("C11", "generations accepting, alive at most", f"{seen['accepting']}, {seen['alive']}", "2, 3",
               seen["accepting"] <= 2 and seen["alive"] <= 3),
    ]  # fmt: skip
