"""One restart while requests come at 70 % of the rate that the proxy can answer."""

from __future__ import annotations

import json
import subprocess
import time

from bench.peers import loads, native
from bench.peers.cases import Machine
from bench.peers.loads import Failed
from bench.peers.origin import HOST, SMALL
from bench.peers.processes import pinned
from bench.restart import accounts
from bench.restart.plan import Plan, place
from bench.restart.systems.system import Refused, System
from tests.kit.origin import find

SHARE = 0.7
CONNECTIONS = 64
CAPACITY_S = 2
LOADED_S = 5.0
RESTART_AFTER_S = 2.0


def can_load() -> bool:
    return native.build("open_loop") is not None and find("wrk") is not None


def run(system: System, plan: Plan, machine: Machine, number: int) -> dict[str, float]:
    """Its figures; `number` is the round's. Raises Failed when they would be worth nothing."""
    request, diary = machine.directory / "request", machine.directory / "diary"
    request.write_bytes(f"GET {SMALL} HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode())
    first, second = machine.origin.ports
    try:
        with system.running(place(machine, plan, {"http": first, "tcp": second})):
            port = system.place.http_port
            rate = SHARE * capacity(port, machine.load_cpu)
            command = loads.open_loop(port, CONNECTIONS, rate, LOADED_S, number + 1, request, diary)
            with pinned(machine.load_cpu):
                load = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            try:
                time.sleep(RESTART_AFTER_S)
                began_ns = time.monotonic_ns()
                system.restart()
                output, errors = load.communicate(timeout=60)
            finally:
                load.kill()
                load.wait()
    except Refused as error:
        raise Failed(str(error)) from error
    except (subprocess.SubprocessError, OSError, SystemExit) as error:
        raise Failed(f"{type(error).__name__}: {error}") from error
    if load.returncode:
        raise Failed(errors.strip())
    said = json.loads(output)
    failed = said["failed"] + said["errors"] + said["unanswered"]
    return {"loaded_per_s": rate, "loaded_failed": failed, **accounts.dip(loads.read(diary), began_ns)}


def capacity(port: int, cpu: int) -> float:
    """Requests per second in a closed loop."""
    said = loads.run(loads.closed_loop(f"http://127.0.0.1:{port}{SMALL}", CONNECTIONS, CAPACITY_S, {"Host": HOST}), cpu)
    if said["errors"] or not said["requests"]:
        raise Failed(f"{said['errors']:.0f} errors in {said['requests']:.0f} requests before any restart")
    return said["requests"] / said["duration_s"]
