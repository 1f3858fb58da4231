"""400 clients that wait in the accept queues of stopped workers: at a restart, at more and fewer slots, at kill -9."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from bench.soak.figures import Figure, none
from bench.startup import config
from tests.kit import clients, origin
from tests.kit.instance import eventually, instance

WAITING = 400


def run(directory: Path, share: float) -> list[Figure]:
    figures = []
    (directory / "nginx").mkdir()
    with origin.nginx(directory / "nginx") as address, instance(directory, config(address, 4)) as proxy:

        def waits(what: str, workers: int) -> None:
            stopped = proxy.workers()
            for pid in stopped:
                os.kill(pid, signal.SIGSTOP)
            waiting = clients.queue_requests(proxy.port("web"), WAITING)
            if workers:
                proxy.write(config(address, workers))
                proxy.reload()
            else:
                for pid in stopped:
                    os.kill(pid, signal.SIGKILL)
            figures.append(none("C2", f"reset or unanswered: {what}", clients.unanswered(waiting), f"{WAITING}"))
            for pid in stopped if workers else ():
                os.kill(pid, signal.SIGCONT)
            eventually(lambda: len(proxy.status()["generations"]) == 1, "the old generation to be gone")

        waits("4 slots, a restart", 4)
        waits("4 slots become 1", 1)
        waits("1 slot becomes 4", 4)
        waits("kill -9 of 4 workers", 0)
    return figures
