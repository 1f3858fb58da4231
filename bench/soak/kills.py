"""20 times kill -9 of a worker under load: who notices, and what the counters say of it."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from bench.soak.figures import Figure, none
from bench.startup import config
from tests.kit import clients, origin
from tests.kit.instance import Instance, eventually, instance

KILLS = 20


def run(directory: Path, share: float) -> list[Figure]:
    kills = max(round(KILLS * share), 2)
    (directory / "nginx").mkdir()
    with origin.nginx(directory / "nginx") as address, instance(directory, config(address, 2)) as proxy:
        with clients.watch(proxy) as watch:
            with clients.load(proxy.port("web"), 500, keepalive=100, pace_s=0.05) as load:
                for number in range(kills):
                    killed = proxy.workers()[number % 2]
                    os.kill(killed, signal.SIGKILL)
                    eventually(lambda killed=killed: _whole_without(proxy, killed), "another worker in its place")
                    proxy.reload()
                counts = load.stop()
            eventually(lambda: proxy.stats()["http.web.downstream_cx_active"] == 0, "connections to close")
            seen = watch.stop()
        stats = proxy.stats()
    held = stats["server.crashed_in_flight"]
    failed = sum(counts["failures"].values())
    said = f"{failed}" if failed <= held else f"{counts['failures']}"
    off = max(
        abs(stats["http.web.downstream_rq_completed"] - counts["ok"]),
        abs(stats["http.web.downstream_rq_time"]["count"] - counts["ok"]),
    )
    gauges = {name: stats[name] for name in stats if name.endswith("_active") and ".upstream_cx_" not in name}
    crashes = stats["server.worker_crashes"]
    return [
        Figure("C10", f"{kills} times kill -9: crashes counted", f"{crashes}", f"{kills}", crashes == kills),
        Figure("C10", "  requests that failed", said, f"<= {held}, which they held", failed <= held),
        Figure("C10", "  counted differs from answered by", f"{off} of {counts['ok']}", f"<= {held}", off <= held),
        none("C10", "  counters that fell", seen["fell"], f"{seen['answers']['stats']} looks"),
        none("C10", "  gauges that are not 0 at the end", {name: left for name, left in gauges.items() if left}),
        none("C18", "  stats, status, admin: no answer", seen["failures"], f"{sum(seen['answers'].values())}"),
    ]


def _whole_without(proxy: Instance, pid: int) -> bool:
    slots = proxy.status()["generations"][-1]["slots"]
    return len(slots) == 2 and all(slot["state"] == "accepting" and slot["pid"] != pid for slot in slots)
