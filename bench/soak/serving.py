"""From SIGHUP until the new generation serves: with no load, and at 1,000 new connections a second."""

from __future__ import annotations

import signal
import statistics
import time
from pathlib import Path

from bench.soak.figures import Figure, at_most, none
from bench.spin import SpinMonitor
from bench.startup import config
from hotproxy.shm import reader
from tests.kit import clients, origin
from tests.kit.instance import PATIENCE_S, Instance, eventually, instance

RESTARTS = 20
NEW_RATE = 1000
LOOK_S = 0.002


def run(directory: Path, share: float) -> list[Figure]:
    restarts = max(round(RESTARTS * share), 3)
    (directory / "nginx").mkdir()
    with origin.nginx(directory / "nginx") as address, instance(directory, config(address, 2)) as proxy:
        with SpinMonitor() as quiet:
            without = [serving_ms(proxy) for _ in range(restarts)]
        with SpinMonitor() as busy, clients.load(proxy.port("web"), NEW_RATE) as load:
            loaded = [serving_ms(proxy) for _ in range(restarts)]
            counts = load.stop()
    return [
        at_most("C13", "SIGHUP to serving, no load: median", statistics.median(without), 400, "ms", quiet.worst_ms),
        at_most("C13", "  at 1,000 connections a second: median", statistics.median(loaded), 1000, "ms", busy.worst_ms),
        none("C1", "  failed meanwhile", counts["failures"], f"{counts['requests']}"),
    ]


def serving_ms(proxy: Instance) -> float:
    """Seen where everybody sees it, in shared memory; then the old generation leaves in peace."""
    name = proxy.shared_memory_name()
    before = reader.read(name).epoch
    began_s = time.monotonic()
    proxy.signal(signal.SIGHUP)
    while reader.read(name).epoch == before:
        assert time.monotonic() - began_s < PATIENCE_S, proxy.log_text()
        time.sleep(LOOK_S)
    took_s = time.monotonic() - began_s
    eventually(lambda: len(proxy.status()["generations"]) == 1, "the old generation to be gone")
    return took_s * 1e3
