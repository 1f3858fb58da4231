"""How each trial goes, and where."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator

from bench.peers.cases import Machine
from bench.peers.processes import pinned
from bench.restart.fleet import Size
from bench.restart.systems.system import Place
from bench.startup import free_port
from tests.kit.origin import echo_origin


@dataclasses.dataclass(frozen=True)
class Plan:
    restarts: int = 3
    gap_s: float = 8.0  # from one restart to the next: longer than the old processes live where that is limited
    cap_s: float = 60.0  # how long the end of the old processes is waited for, after the last restart
    workers: int = 2
    size: Size = dataclasses.field(default_factory=Size)


def place(machine: Machine, plan: Plan, echo: dict[str, int]) -> Place:
    return Place(
        directory=machine.directory / "proxy",
        cpu=machine.proxy_cpu,
        workers=plan.workers,
        http_port=free_port(),
        tcp_port=free_port(),
        admin_port=free_port(),
        origin_http=f"127.0.0.1:{echo['http']}",
        origin_tcp=f"127.0.0.1:{echo['tcp']}",
        origin_fast=f"127.0.0.1:{machine.origin.ports[0]}",
    )


@contextlib.contextmanager
def echo(cpu: int) -> Iterator[dict[str, int]]:
    """The ports of an origin for the fleet."""
    with contextlib.ExitStack() as stack:
        with pinned(cpu):
            ports = stack.enter_context(echo_origin())
        yield ports
