"""200,000 connections, and slow clients of every kind beside them: others are served, and all is as before afterwards.

Beside wrk, which makes a new connection for each request, sit idle clients, some that drip into their head, some that
stop in their body, and some that never read. A probe asks ten times a second and must always be answered; slow clients
must be let go at their time, on the real clock; memory and descriptors must come back.
"""

from __future__ import annotations

import contextlib
import re
import socket
import statistics
import subprocess
import threading
import time
from pathlib import Path

from bench.soak.figures import Figure, none
from bench.startup import memory_kib
from tests.kit import clients, origin
from tests.kit.instance import Instance, eventually, instance

CONNECTIONS = 200_000
SLOW_CLIENTS = 500  # of each kind
HEAD_TIMEOUT_S = 10.0
IDLE_TIMEOUT_S = 15.0
# A tick of the wheel, a busy machine, and the idle timer's second look at a reader that took some bytes at first.
LATE_S = 3.0
CONFIG = """
workers: 1
listeners:
  - {{name: web, address: "0.0.0.0:0", request_headers_timeout: 10s, idle_timeout: 15s, timeout: 0s, routes: [
      {{match: {{prefix: /mute}}, cluster: mute}},
      {{match: {{prefix: /}}, cluster: origin}}]}}
clusters:
  - {{name: origin, endpoints: ["{origin}"]}}
  - {{name: mute, endpoints: ["{mute}"]}}
"""
GET = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
# By name: what is said at first, what drips in twice a second, and when the proxy lets go.
SLOW = {
    "silent": (b"", b"", HEAD_TIMEOUT_S),
    "drips into its head": (b"GET / HTTP/1.1\r\nX: ", b"y", HEAD_TIMEOUT_S),
    "stops in its head": (b"GET / HTTP/1.1\r\n", b"", HEAD_TIMEOUT_S),
    "stops in its body": (b"PUT /mute HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nx", b"", IDLE_TIMEOUT_S),
}
NEVER_READS = b"GET /files/large HTTP/1.1\r\nHost: a\r\n\r\n"
# What the allocators keep of the crowd's peak: 2,000 connections, and 50 readers with their buffers. Measured: 14 MiB;
# 200,000 leaked connections would be hundreds.
GROWTH_KIB = 24 * 1024


class Probe(threading.Thread):
    """Asks ten times a second on a new connection, and remembers how long the answer took."""

    def __init__(self, port: int) -> None:
        super().__init__(daemon=True)
        self.took_s: list[float] = []
        self.failures: list[str] = []
        self._port = port
        self._over = threading.Event()

    def run(self) -> None:
        while not self._over.wait(0.1):
            began = time.monotonic()
            try:
                answer = clients.exchange(self._port, GET)
            except OSError as error:
                self.failures.append(str(error))
                continue
            if not answer.startswith(b"HTTP/1.1 200 "):
                self.failures.append(repr(answer[:60]))
            self.took_s.append(time.monotonic() - began)

    def stop(self) -> None:
        self._over.set()
        self.join()


def let_go(name: str, port: int, size: int, problems: list[str]) -> None:
    """A crowd that is slow in this way; says so when one of them is not let go at its time."""
    says, drips, limit_s = SLOW[name]
    with contextlib.ExitStack() as stack:
        socks = [stack.enter_context(clients.connect(port)) for _ in range(size)]
        began = time.monotonic()
        for sock in socks:
            sock.sendall(says)
            sock.settimeout(0)
        waiting = dict.fromkeys(socks, 0.0)
        while waiting and time.monotonic() - began < 2 * IDLE_TIMEOUT_S:
            time.sleep(0.5)
            for sock in list(waiting):
                try:
                    if drips:
                        sock.send(drips)
                    while sock.recv(65536):
                        pass
                except BlockingIOError:
                    continue
                except OSError:
                    pass  # a drop that came too late is answered with a reset
                took_s = time.monotonic() - began
                del waiting[sock]
                if not limit_s - 0.1 <= took_s <= limit_s + LATE_S:
                    problems.append(f"a client that {name} was let go after {took_s:.1f}s, not {limit_s:g}s")
        if waiting:
            problems.append(f"{len(waiting)} clients: {name}, were not let go at all")


def storm(port: int, connections: int) -> tuple[int, float]:
    """wrk, one request per connection, on several addresses so that there are ports enough; (requests, seconds)."""
    began, made = time.monotonic(), 0
    number = 0
    while made < connections:
        number += 1
        url = f"http://127.0.0.{number % 8 + 1}:{port}/"
        command = [origin.need("wrk"), "-t1", "-c50", "-d5s", "-H", "Connection: close", url]
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        found = re.search(r"(\d+) requests in", output)
        if found is None or "Non-2xx" in output or "Socket errors" in output:
            raise RuntimeError(output)
        made += int(found[1])
    return made, time.monotonic() - began


def soak(proxy: Instance, connections: int, size: int) -> list[Figure]:
    problems: list[str] = []
    port, worker = proxy.port("web"), proxy.workers()[0]
    for _ in range(4):  # what the allocators keep for good is taken by then (measured: after three)
        storm(port, 1)
    before = weigh(worker)
    probe = Probe(port)
    probe.start()
    crowds = [threading.Thread(target=let_go, args=(name, port, size, problems)) for name in SLOW]
    with contextlib.ExitStack() as stack:
        readers = [stack.enter_context(clients.connect(port)) for _ in range(size // 10)]
        for sock in readers:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.sendall(NEVER_READS)
        for thread in crowds:
            thread.start()
        made, took_s = storm(port, connections)
        for thread in crowds:
            thread.join()
        given_up = "http.web.downstream_rq_idle_timeout"
        # Also those that stopped in their body.
        eventually(lambda: proxy.stats()[given_up] == size + size // 10, "readers that never read to be let go")
    probe.stop()
    eventually(lambda: proxy.stats()["http.web.downstream_cx_active"] == 0, "connections to close")
    after = weigh(worker)
    median_ms, worst_ms = statistics.median(probe.took_s) * 1000, max(probe.took_s) * 1000
    answers = f"{median_ms:.1f} ms median, {worst_ms:.0f} ms worst"
    grown = after["kib"] - before["kib"]
    left = after["fds"] - before["fds"]
    return [
        Figure(
            "crowd", f"connections beside {4 * size} slow clients", f"{made}", f">= {connections}", made >= connections
        ),
        Figure("crowd", "  a second", f"{made / took_s:.0f}", "", True, False),
        none("crowd", "  a probe's failures", probe.failures, f"{len(probe.took_s)}"),
        Figure("crowd", "  a probe's answers", answers, "", True, False),
        none("crowd", "  slow clients not let go at their time", problems, f"{4 * size}"),
        none("crowd", "  descriptors that are left", left),
        Figure("crowd", "  memory", f"{grown} KiB more", f"<= {GROWTH_KIB}", grown <= GROWTH_KIB),
        Figure("crowd", "  the worker lives", f"{proxy.workers() == [worker]}", "True", proxy.workers() == [worker]),
    ]


def weigh(pid: int) -> dict[str, int]:
    """Memory and descriptors, without connections: those to the origin stay idle for a while."""
    others = 0
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # a connection that was just closed
            others += not str(entry.readlink()).startswith("socket:")
    return {"kib": memory_kib(pid, "Private_Dirty"), "fds": others}


def run(directory: Path, share: float) -> list[Figure]:
    (directory / "nginx" / "files").mkdir(parents=True)
    (directory / "nginx" / "files" / "large").write_bytes(bytes(8 << 20))
    with (
        origin.nginx(directory / "nginx") as address,
        socket.create_server(("127.0.0.1", 0), backlog=4096) as mute,  # connects, and says nothing
        instance(directory, CONFIG.format(origin=address, mute=f"127.0.0.1:{mute.getsockname()[1]}")) as proxy,
    ):
        return soak(proxy, round(CONNECTIONS * share), round(SLOW_CLIENTS * share))
