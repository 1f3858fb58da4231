"""Start-up, restart and memory: how long until it serves, and what it weighs.

    make bench        prints a table; figures of one machine, medians of several rounds

Start-up: from exec of `hotproxy run` until a request is answered. Restart: from SIGHUP until the supervisor says that
the new generation serves. Re-fork: from `kill -9` of the only worker until a request is answered. Memory: PSS, and the
growth of a worker's private memory per idle keep-alive connection. Beside each time stands the machine's own worst gap
(bench/spin.py).
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.spin import SpinMonitor
from tests.kit import clients, origin
from tests.kit.instance import Instance, instance

REQUEST = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
KEPT = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


def config(address: str, workers: int, port: int = 0) -> str:
    return f"""
workers: {workers}
listeners: [{{name: web, address: "127.0.0.1:{port}", cluster: origin}}]
clusters: [{{name: origin, endpoints: ["{address}"]}}]
"""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


def answered(port: int) -> bool:
    try:
        return clients.exchange(port, REQUEST).startswith(b"HTTP/1.1 200")
    except OSError:
        return False


def until(condition: object, limit_s: float = 30.0) -> float:
    """Milliseconds until `condition()` holds."""
    began = time.perf_counter()
    while not condition():  # type: ignore[operator]
        if time.perf_counter() - began > limit_s:
            raise SystemExit("bench: gave up waiting")
        time.sleep(0.001)
    return (time.perf_counter() - began) * 1e3


def bench_start(directory: Path, address: str) -> float:
    proxy = Instance(directory)
    port = free_port()
    proxy.write(config(address, 2, port))
    arguments = [*proxy.hotproxy, "--instance", "test", "--runtime-dir", str(directory / "run"), "run", "-c"]
    began = time.perf_counter()
    proxy.process = subprocess.Popen([*arguments, str(proxy.config)], stderr=subprocess.DEVNULL)
    try:
        until(lambda: answered(port))
        return (time.perf_counter() - began) * 1e3
    finally:
        proxy.end()


def bench_restart(proxy: Instance) -> float:
    """SIGHUP → the supervisor's own log line says that the new generation serves."""
    restarts = len(re.findall(r"^.*restart: generation .* ok", proxy.log_text(), re.M))
    proxy.signal(signal.SIGHUP)
    return until(lambda: len(re.findall(r"^.*restart: generation .* ok", proxy.log_text(), re.M)) > restarts)


def bench_refork(proxy: Instance, port: int) -> float:
    os.kill(proxy.workers()[0], signal.SIGKILL)
    began = time.perf_counter()
    assert answered(port)
    return (time.perf_counter() - began) * 1e3


def memory_kib(pid: int, *fields: str) -> int:
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return sum(int(amount) for name, amount in re.findall(r"^(\w+): +(\d+) kB", text, re.M) if name in fields)


def bench_connections(proxy: Instance, port: int, count: int) -> float:
    """Bytes of private memory a worker grows by for each idle keep-alive connection."""
    worker = proxy.workers()[0]
    warm = [clients.connect(port) for _ in range(50)]
    for sock in warm:
        sock.sendall(KEPT)
        clients.read_response(sock)
    before = memory_kib(worker, "Private_Dirty", "Private_Clean")
    idle = []
    for _ in range(count):
        sock = clients.connect(port)
        sock.sendall(KEPT)
        clients.read_response(sock)
        idle.append(sock)
    after = memory_kib(worker, "Private_Dirty", "Private_Clean")
    for sock in warm + idle:
        sock.close()
    return (after - before) * 1024 / count


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--quick", action="store_true", help="two rounds of each")
    arguments = parser.parse_args()
    rounds = 2 if arguments.quick else arguments.rounds
    rows: list[tuple[str, str, str]] = []

    def row(name: str, values: list[float], unit: str, note: str) -> None:
        spread = f"({min(values):.0f}-{max(values):.0f})" if len(values) > 1 else ""
        rows.append((name, f"{statistics.median(values):.1f} {unit} {spread}", note))

    with tempfile.TemporaryDirectory(prefix="hp-") as name:
        directory = Path(name)
        (directory / "nginx").mkdir()
        with origin.nginx(directory / "nginx") as address:
            with SpinMonitor() as spin:
                starts = [bench_start(directory, address) for _ in range(rounds)]
            row("run to first answer", starts, "ms", f"worst gap of the machine {spin.worst_ms:.0f} ms")
            with instance(directory, config(address, 2)) as proxy:
                with SpinMonitor() as spin:
                    restarts = [bench_restart(proxy) for _ in range(rounds)]
                row("SIGHUP to serving, no load", restarts, "ms", f"worst gap {spin.worst_ms:.0f} ms")
                until(lambda: len(proxy.status()["generations"]) == 1)  # an old one shares pages too
                pss = [memory_kib(pid, "Pss") / 1024 for pid in proxy.workers()]
                row("worker PSS, idle", pss, "MiB", "2 workers, control and zygote share its pages")
                total = sum(memory_kib(pid, "Pss") for pid in proxy.pids()) / 1024
                row("whole instance PSS, idle", [total], "MiB", "supervisor, zygote, control, 2 workers")
            with instance(directory, config(address, 1)) as proxy:
                port = proxy.port("web")
                with SpinMonitor() as spin:
                    reforks = []
                    for _ in range(1 if arguments.quick else 5):
                        reforks.append(bench_refork(proxy, port))
                        time.sleep(11)  # past the window in which a second death means back-off
                row("kill -9 of the worker to next answer", reforks, "ms", f"worst gap {spin.worst_ms:.0f} ms")
                row("idle keep-alive connection", [bench_connections(proxy, port, 2000)], "B", "of 2,000")
    width = max(len(name) for name, _, _ in rows)
    for name, value, note in rows:
        print(f"{name:{width}}  {value:28} {note}")


if __name__ == "__main__":
    main()
