"""What is measured: each case runs once per proxy and round, the proxies taking turns."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from bench.peers import loads, native, tls
from bench.peers.figures import Round
from bench.peers.loads import Failed
from bench.peers.origin import HOST, SMALL, Origin
from bench.peers.proxies import FLOOR, Proxy
from tests.kit import clients

GB = 1e9
OPEN_LOOP = "open-loop"  # the beginning of the names of such cases
HEADERS = {
    "Host": HOST,
    "User-Agent": "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0",
    "Accept": "application/json, text/plain, */*",
    "Accept-Language": "en-US,en;q=0.5",
    "Accept-Encoding": "gzip, deflate, br, zstd",
    "Authorization": "Bearer 2YotnFZFEjr1zCsicMWpAA.TjJgBbZ6aQ0hV3wX5sKd",
    "Cookie": "session=9f86d081884c7d659a2feaa0c55ad015; theme=dark; consent=1",
    "Cache-Control": "no-cache",
    "Referer": "https://www.bench.test/shop/things?page=3",
    "X-Client-Version": "4.18.2",
}


@dataclasses.dataclass(frozen=True)
class Metric:
    key: str
    title: str
    unit: str


CPU = Metric("cpu_us", "CPU per request", "µs")
RATE = Metric("per_s", "requests per second, closed loop", "1/s")
CPU_GB = Metric("cpu_s_per_gb", "CPU per GB", "s")
LATENCY = (
    Metric("p50_us", "latency p50", "µs"),
    Metric("p99_us", "latency p99", "µs"),
    Metric("p999_us", "latency p99.9", "µs"),
)
UNANSWERED = "unanswered"  # the share of requests without an answer two seconds after the last one was due
MEMORY = Metric("bytes", "memory per idle connection", "B")
STARTUP = Metric("ms", "start to first answer", "ms")


@dataclasses.dataclass(frozen=True)
class Machine:
    """Where everything runs."""

    directory: Path
    origin: Origin
    proxy_cpu: int
    load_cpu: int


@dataclasses.dataclass(frozen=True)
class Case:
    name: str
    title: str
    metrics: tuple[Metric, ...]
    run: Callable[[Proxy, Machine, int], dict[str, float]]  # the int is the number of the round
    rounds: int
    with_floor: bool = True
    restarts: bool = False  # starts the proxy itself


def closed_loop(
    path: str,
    connections: int,
    seconds: int,
    method: str = "GET",
    body: int = 0,
    close: bool = False,
    secure: bool = False,
) -> Callable[[Proxy, Machine, int], dict[str, float]]:
    """wrk asks again as soon as it has been answered."""
    fields = HEADERS | ({"Connection": "close"} if close else {})

    def run(proxy: Proxy, machine: Machine, number: int) -> dict[str, float]:
        assert proxy.tree is not None
        origin = f"https://127.0.0.1:{proxy.tls_port}" if secure else f"http://127.0.0.1:{proxy.port}"
        command = loads.closed_loop(origin + path, connections, seconds, fields, method, body)
        before_s = proxy.tree.cpu_s()
        said = loads.run(command, machine.load_cpu)
        spent_s = proxy.tree.cpu_s() - before_s
        if said["errors"] or not said["requests"]:
            raise Failed(f"{said['errors']:.0f} errors in {said['requests']:.0f} requests")
        return {
            CPU.key: spent_s / said["requests"] * 1e6,
            RATE.key: said["requests"] / said["duration_s"],
            CPU_GB.key: spent_s / (said["bytes"] + body * said["requests"]) * GB,
        }

    return run


def open_loop(rate: float, connections: int, seconds: float) -> Callable[[Proxy, Machine, int], dict[str, float]]:
    """Requests at times of their own; every proxy has the same times in a round."""

    def run(proxy: Proxy, machine: Machine, number: int) -> dict[str, float]:
        assert proxy.tree is not None
        request = machine.directory / "request"
        lines = "".join(f"{name}: {value}\r\n" for name, value in HEADERS.items())
        request.write_bytes(f"GET {SMALL} HTTP/1.1\r\n{lines}\r\n".encode())
        command = loads.open_loop(proxy.port, connections, rate, seconds, number + 1, request)
        before_s = proxy.tree.cpu_s()
        said = loads.run(command, machine.load_cpu)
        spent_s = proxy.tree.cpu_s() - before_s
        if said["errors"]:
            raise Failed(f"{said['errors']:.0f} errors in {said['requests']:.0f} requests")
        answered = said["requests"] - said["unanswered"]
        # Whoever does not keep up stays in: its percentiles know that the unanswered have waited for two seconds.
        found = {metric.key: said[metric.key] for metric in LATENCY}
        return found | {CPU.key: spent_s / answered * 1e6, UNANSWERED: said["unanswered"] / said["requests"]}

    return run


def idle_memory(count: int) -> Callable[[Proxy, Machine, int], dict[str, float]]:
    """What all its processes together grow by for each connection that has been served once and is kept."""
    request = f"GET {SMALL} HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode()

    def run(proxy: Proxy, machine: Machine, number: int) -> dict[str, float]:
        proxy.start(machine.directory / "memory", machine.origin, machine.proxy_cpu)
        kept = []
        try:
            assert proxy.tree is not None
            before = 0
            for done in range(count + WARM):
                if done == WARM:
                    before = proxy.tree.private_bytes()
                sock = clients.connect(proxy.port)
                kept.append(sock)
                sock.sendall(request)
                clients.read_response(sock)
            return {MEMORY.key: (proxy.tree.private_bytes() - before) / count}
        finally:
            for sock in kept:
                sock.close()
            proxy.end()

    return run


# Connections before the first weighing: what is allocated once is not counted for each.
WARM: int = 50


def start_up(proxy: Proxy, machine: Machine, number: int) -> dict[str, float]:
    """From exec to the first answer that came through from the origin."""
    began_s = time.perf_counter()
    proxy.start(machine.directory / "start", machine.origin, machine.proxy_cpu)
    took_s = time.perf_counter() - began_s
    proxy.end()
    return {STARTUP.key: took_s * 1e3}


def all_cases(quick: bool, rates: Sequence[float], seconds: int = 0) -> list[Case]:
    """Rounds and seconds are such that all takes some ten minutes, or two when it is to be quick."""
    seconds = seconds or (1 if quick else 2)

    def rounds(count: int) -> int:
        return 2 if quick else count

    found = [
        Case("small", "small reply, kept connections", (CPU, RATE), closed_loop(SMALL, 32, seconds), rounds(7)),
        Case(
            "connection",
            "new connection per request",
            (CPU, RATE),
            closed_loop(SMALL, 32, seconds, close=True),
            rounds(5),
            with_floor=False,  # it opens a second connection for each, which no proxy with a pool does
        ),
        Case(
            "post",
            "POST of 10 KiB",
            (CPU, RATE),
            closed_loop(SMALL, 32, seconds, method="POST", body=10 * 1024),
            rounds(5),
        ),
        Case("body-1m", "bodies of 1 MiB", (CPU_GB, RATE), closed_loop("/files/1m", 8, seconds), rounds(5)),
        Case("body-100m", "bodies of 100 MiB", (CPU_GB,), closed_loop("/files/100m", 2, seconds), rounds(5)),
    ]
    found += [
        Case(
            "tls",
            "TLS 1.3, small reply, kept connections",
            (CPU, RATE),
            closed_loop(SMALL, 32, seconds, secure=True),
            rounds(7),
            with_floor=False,
        ),
        Case(
            "tls-connection",
            "TLS 1.3, new connection per request",
            (CPU, RATE),
            closed_loop(SMALL, 32, seconds, close=True, secure=True),
            rounds(5),
            with_floor=False,
        ),
        Case(
            "tls-body-1m",
            "TLS 1.3, bodies of 1 MiB",
            (CPU_GB, RATE),
            closed_loop("/files/1m", 8, seconds, secure=True),
            rounds(3),
            with_floor=False,
        ),
    ]
    for name, resumed in (("full", False), ("resumed", True)):
        run_tls = tls.handshakes(resumed, 300 if quick else 1000, CPU.key)
        title = f"TLS 1.3, a new connection with a {name} handshake per request"
        found.append(Case(f"tls-{name}", title, (CPU,), run_tls, rounds(5), with_floor=False))
    for rate in rates if native.build("open_loop") is not None else ():
        title = f"{rate:,g} requests per second, open loop"
        run = open_loop(rate, 64, 1.2 if quick else 2.2)
        found.append(Case(f"{OPEN_LOOP}-{rate:g}", title, (*LATENCY, CPU), run, 2 if quick else 15))
    connections = 500 if quick else 2000
    title = f"{connections} idle connections"
    found.append(Case("idle", title, (MEMORY,), idle_memory(connections), 1 if quick else 3, False, True))
    run_idle = tls.idle_memory(connections // 2, MEMORY.key)
    found.append(Case("tls-idle", f"{connections // 2} idle TLS connections", (MEMORY,), run_idle, 1, False, True))
    found.append(Case("start", "start-up", (STARTUP,), start_up, 1 if quick else 7, False, True))
    return found


def play(case: Case, proxies: Sequence[Proxy], machine: Machine, say: Callable[[str], None]) -> list[Round]:
    """All rounds of a case. Who begins changes, so that nobody always comes behind the same one."""
    rounds: list[Round] = []
    taking_part = [proxy for proxy in proxies if case.with_floor or proxy.name != FLOOR]
    for number in range(case.rounds):
        found: Round = {}
        first = number % len(taking_part)
        for proxy in taking_part[first:] + taking_part[:first]:
            try:
                found[proxy.name] = case.run(proxy, machine, number)
            except Failed as failed:
                say(f"{case.name}, round {number + 1}: {proxy.name} left out: {failed}")
            if not case.restarts:
                proxy.truncate_logs()
        rounds.append(found)
    return rounds
