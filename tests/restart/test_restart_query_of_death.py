"""Workers that crash in compiled code: the third time the generation is started afresh without any of it."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

from tests.kit import clients
from tests.kit.instance import Instance, eventually, instance
from tests.kit.kernels import compiled
from tests.restart.test_restart_under_load import config, one_generation

CRASHES = 3


def has_compiled_code(pid: int) -> bool:
    """Of ours, in its address space: uvloop and the interpreter stay what they are."""
    maps = Path(f"/proc/{pid}/maps").read_text()
    return "/hotproxy/http/_kernel" in maps or "/hotproxy/_compiled/" in maps


def settled(proxy: Instance) -> dict[str, Any]:
    eventually(lambda: proxy.stats()["http.web.downstream_cx_active"] == 0, "every connection to be closed")
    return proxy.stats()


def serve(proxy: Instance) -> None:
    """A load of which nothing is lost, and every request is counted once."""
    before = settled(proxy)
    with clients.load(proxy.port("web"), new_rate=200, keepalive=20) as load:
        proxy.status()
        counts = load.stop()
    after = settled(proxy)
    assert counts["failures"] == {} and counts["ok"] == counts["requests"] > 0, counts
    for name in ("http.web.downstream_rq_total", "http.web.downstream_rq_2xx", "cluster.origin.upstream_rq_total"):
        assert after[name] - before[name] == counts["requests"], name
    assert (
        after["http.web.downstream_rq_time"]["count"] - before["http.web.downstream_rq_time"]["count"] == counts["ok"]
    )


def test_crashes_of_compiled_code_end_by_themselves(short_path: Path, nginx_address: str) -> None:
    compiled("hotproxy.http._kernel")
    with instance(short_path, config(nginx_address, workers=CRASHES + 1)) as proxy:
        workers = proxy.workers()
        assert all(has_compiled_code(pid) for pid in workers)
        with clients.load(proxy.port("web"), new_rate=200, keepalive=50, pace_s=0.05) as load:
            for pid in workers[:CRASHES]:
                os.kill(pid, signal.SIGSEGV)
            eventually(lambda: proxy.status()["pure_kernel"], "another generation")
            eventually(lambda: one_generation(proxy), "the old one to be gone")
            counts = load.stop()

        stats = settled(proxy)
        # Whom a crashed worker served has noticed; nobody else has, neither then nor when all moved.
        crashed = stats["server.crashed_in_flight"]
        assert sum(counts["failures"].values()) <= crashed, f"{counts} {crashed}\n{proxy.log_text()}"
        assert counts["ok"] + sum(counts["failures"].values()) >= counts["requests"]
        assert abs(stats["http.web.downstream_rq_total"] - counts["requests"]) <= crashed
        assert stats["server.worker_crashes"] == CRASHES
        assert stats["server.handoff_moved"] > 0, "those of the worker that is well"
        assert stats["server.pure_kernel"] == 1
        assert stats["http.web.downstream_rq_active"] == 0

        assert "3 workers crashed within" in proxy.status()["pure_kernel"]
        assert "NO COMPILED CODE: 3 workers crashed" in proxy.command("status").stdout
        assert "error supervisor: generation 1: 3 workers crashed within" in proxy.log_text()
        assert not any(has_compiled_code(pid) for pid in proxy.workers())
        serve(proxy)

        proxy.reload()
        eventually(lambda: one_generation(proxy), "the pure one to be gone")
        assert proxy.status()["pure_kernel"] == "" and proxy.stats()["server.pure_kernel"] == 0
        assert all(has_compiled_code(pid) for pid in proxy.workers())
        serve(proxy)
