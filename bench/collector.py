"""How long the garbage collector stops a worker that holds 10,000 connections.

    make bench                        prints a table; exit code 1 when a pause of the collector took more than 1 ms
    python bench/collector.py --json  the same for programs; --thresholds and --sizes to find out why

The whole proxy runs as always, but that its zygote is this file: it starts hotproxy's own zygote, with a callback of
`gc.callbacks` that notes how long each collection took in whichever process it happened. A collection is timed twice,
by the clock and by the CPU time of its thread: where the clock shows much more, the machine was elsewhere meanwhile.

Four phases: 10,000 clients come and ask once each; they ask in turn, 64 at a time, and stay; beside them
2,000 others have a request in flight all the time; all of them leave at once.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import gc
import json
import os
import resource
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

if TYPE_CHECKING:  # not in a zygote: it would be frozen, and shared with the workers
    from tests.kit.instance import Instance

CONNECTIONS = 10_000
IN_FLIGHT = 2_000
WINDOW = 64
BAR_MS = 1.0
# pid, generation, objects collected, when it began (CLOCK_MONOTONIC), how long by the clock and by CPU time, all in ns.
# And how many objects it had to look at, where that is asked for.
RECORD = struct.Struct("=IIIIQQQ")
FILE = "HOTPROXY_BENCH_COLLECTIONS"
SIZES = "HOTPROXY_BENCH_SIZES"
THRESHOLDS = "HOTPROXY_BENCH_THRESHOLDS"
REQUEST = b"GET / HTTP/1.1\r\nHost: a\r\nUser-Agent: bench\r\nAccept: */*\r\n\r\n"
ORIGIN = """
daemon off; master_process off; error_log {directory}/error.log crit; pid {directory}/nginx.pid;
events {{ worker_connections {connections}; }}
http {{
  access_log off; keepalive_requests 1000000000; keepalive_timeout 1h; client_body_temp_path {directory};
  proxy_temp_path {directory}; fastcgi_temp_path {directory}; uwsgi_temp_path {directory};
  scgi_temp_path {directory}; default_type text/plain;
  server {{ listen 127.0.0.1:{port} backlog=4096; location / {{ return 200 "hello\\n"; }} }}
}}
"""


# -- inside the proxy


def be_the_zygote() -> int:
    """hotproxy's zygote, whose children note their collections in the file that the environment names."""
    from hotproxy.zygote import __main__ as entry
    from hotproxy.zygote import begin
    from hotproxy.zygote.main import Zygote

    class Timed(Zygote):
        def run(self) -> int:
            gc.callbacks.append(notes(os.environ[FILE], SIZES in os.environ))
            return super().run()

    if THRESHOLDS in os.environ:  # a worker switches the collector off; here it sets these
        wanted = [int(number) for number in os.environ[THRESHOLDS].split(",")]
        gc.disable = lambda: gc.set_threshold(*wanted)  # type: ignore[assignment]

    # 55 % of the descriptors are kept for a handoff, and none happens here: 10,000 connections need no more than these.
    real = resource.getrlimit
    share = 2.2
    resource.getrlimit = lambda which: tuple(int(limit * share) for limit in real(which))  # type: ignore[assignment]
    begin.Zygote = Timed  # type: ignore[misc]
    return entry.main()


def notes(path: str, sizes: bool) -> Callable[[str, dict[str, int]], None]:
    """A callback for `gc.callbacks`, for after a fork: it opens the file when it needs it."""
    began = [0, 0, 0]  # when, CPU time, and the descriptor
    owner, objects = [0], [0]

    def note(phase: str, about: dict[str, int]) -> None:
        if phase == "start":
            if sizes:
                objects[0] = sum(len(gc.get_objects(number)) for number in range(about["generation"] + 1))
            began[1] = time.thread_time_ns()
            began[0] = time.monotonic_ns()
            return
        now, cpu = time.monotonic_ns(), time.thread_time_ns()
        if owner[0] != os.getpid():
            owner[0] = os.getpid()
            began[2] = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        facts = (owner[0], about["generation"], about["collected"], objects[0])
        os.write(began[2], RECORD.pack(*facts, began[0], now - began[0], cpu - began[1]))

    return note


def be_the_supervisor(arguments: list[str]) -> int:
    """hotproxy's supervisor, with the zygote above."""
    from hotproxy.restarter.__main__ import run
    from hotproxy.restarter.supervisor import Options, Supervisor

    config, name, directory = arguments
    return run(Supervisor(Options(config, name, Path(directory), 0), [sys.executable, str(Path(__file__))]))


# -- outside of it


@dataclasses.dataclass(frozen=True)
class Collection:
    pid: int
    generation: int
    collected: int
    objects: int  # looked at; 0 unless asked for
    began_ns: int
    took_ns: int
    cpu_ns: int


@dataclasses.dataclass(frozen=True)
class Phase:
    name: str
    began_ns: int
    ended_ns: int
    requests: int


def read(path: Path, pid: int) -> list[Collection]:
    data = path.read_bytes() if path.exists() else b""
    data = data[: len(data) // RECORD.size * RECORD.size]
    found = [Collection(*facts) for facts in RECORD.iter_unpack(data)]
    return [each for each in found if each.pid == pid]


def summary(phases: list[Phase], collections: list[Collection]) -> dict[str, Any]:
    """By phase and generation: how many, the longest in ms by the clock and by CPU time, and how much time in all."""
    made: dict[str, Any] = {}
    for phase in phases:
        inside = [each for each in collections if phase.began_ns <= each.began_ns < phase.ended_ns]
        seconds = (phase.ended_ns - phase.began_ns) / 1e9
        generations = {}
        for number in (0, 1, 2):
            of_it = [each for each in inside if each.generation == number]
            if of_it:
                generations[number] = {
                    "collections": len(of_it),
                    "worst_ms": round(max(each.took_ns for each in of_it) / 1e6, 3),
                    "worst_cpu_ms": round(max(each.cpu_ns for each in of_it) / 1e6, 3),
                    "share": round(sum(each.took_ns for each in of_it) / 1e9 / seconds, 5),
                    "collected": sum(each.collected for each in of_it),
                    "most_objects": max(each.objects for each in of_it),
                }
        made[phase.name] = {"seconds": round(seconds, 2), "requests": phase.requests, "generations": generations}
    return made


class Clients:
    """Kept connections of one process; asks on them and reads whole answers."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._socks: list[socket.socket] = []
        self._answer_bytes = 0

    def arrive(self, count: int) -> None:
        """Each of them connects, asks, and waits for its answer, `WINDOW` of them at a time."""
        waiting: deque[socket.socket] = deque()
        for _ in range(count):
            sock = socket.create_connection(("127.0.0.1", self._port), timeout=30)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._socks.append(sock)
            sock.sendall(REQUEST)
            waiting.append(sock)
            if len(waiting) == WINDOW:
                read_answer(waiting.popleft())
        while waiting:
            read_answer(waiting.popleft())

    def ask_in_turn(self, seconds: float) -> int:
        """For so long; the number of answers."""
        until, waiting, number = time.monotonic() + seconds, deque[socket.socket](), 0
        while time.monotonic() < until:
            sock = self._socks[number % len(self._socks)]
            number += 1
            sock.sendall(REQUEST)
            waiting.append(sock)
            if len(waiting) == WINDOW:
                read_answer(waiting.popleft())
        while waiting:
            read_answer(waiting.popleft())
        return number

    def leave(self) -> None:
        for sock in self._socks:
            sock.close()
        self._socks.clear()


def read_answer(sock: socket.socket) -> None:
    data = sock.recv(65536)
    while not data.endswith(b"hello\n"):
        more = sock.recv(65536)
        if not more:
            raise SystemExit(f"bench: closed after {data!r}")
        data += more
    if not data.startswith(b"HTTP/1.1 200 "):
        raise SystemExit(f"bench: answered {data[:200]!r}")


@contextlib.contextmanager
def origin(directory: Path, port: int) -> Iterator[None]:
    from bench.startup import until
    from tests.kit.origin import need

    directory.mkdir()  # of its own: nginx gives it to its own user
    config = directory / "nginx.conf"
    config.write_text(ORIGIN.format(directory=directory, port=port, connections=2 * IN_FLIGHT))
    command = [need("nginx"), "-c", str(config), "-p", str(directory), "-e", str(directory / "error.log")]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)

    def listens() -> bool:
        with socket.socket() as sock:
            return sock.connect_ex(("127.0.0.1", port)) == 0

    try:
        until(listens)
        yield
    finally:
        process.kill()
        process.wait()


def timed(directory: Path, config: str, records: Path, environment: dict[str, str]) -> Instance:
    """A proxy that notes its collections in `records`; to be started, and ended."""
    from bench.startup import until
    from tests.kit.instance import Instance

    class Timed(Instance):
        """An instance whose supervisor is the one above."""

        def start(self, *arguments: str) -> None:
            place = self.directory / "run" / self.name
            place.mkdir(parents=True, mode=0o700)
            command = [sys.executable, str(Path(__file__)), "--supervisor", str(self.config), self.name, str(place)]
            with open(self.log, "ab") as log:
                self.process = subprocess.Popen(command, stdout=log, stderr=log, env=self.environment)
            until(self.serves)

        def serves(self) -> bool:
            assert self.process is not None
            if self.process.poll() is not None:
                raise SystemExit(f"bench: hotproxy has ended:\n{self.log_text()}")
            answer = self.command("status", "--json")
            return answer.returncode == 0 and json.loads(answer.stdout)["state"] == "LIVE"

    proxy = Timed(directory)
    proxy.environment |= environment | {FILE: str(records)}
    proxy.write(config)
    return proxy


def measure(
    directory: Path, connections: int, in_flight: int, seconds: float, environment: dict[str, str]
) -> dict[str, Any]:
    """`summary` of a run. SystemExit when something is not as it should be."""
    from bench.startup import config, free_port
    from tests.kit.instance import eventually
    from tests.kit.origin import need

    port, records = free_port(), directory / "collections"
    proxy = timed(directory, config(f"127.0.0.1:{port}", 1), records, environment)
    phases: list[Phase] = []

    def phase(name: str, work: Callable[[], int]) -> None:
        began = time.monotonic_ns()
        requests = work()
        phases.append(Phase(name, began, time.monotonic_ns(), requests))

    with origin(directory / "nginx", port):
        try:
            proxy.start()
            worker, web = proxy.workers()[0], proxy.port("web")
            crowd = Clients(web)

            def arrive() -> int:
                crowd.arrive(connections)
                return connections

            def others() -> int:
                command = [need("wrk"), "-t1", f"-c{in_flight}", f"-d{max(1, round(seconds))}s", "--timeout", "30s"]
                done = subprocess.run(
                    [*command, f"http://127.0.0.1:{web}/"], capture_output=True, text=True, check=True
                )
                if "Non-2xx" in done.stdout or "Socket errors" in done.stdout:
                    raise SystemExit(f"bench: {done.stdout}")
                words = done.stdout.split()
                return int(words[words.index("requests") - 1])

            def leave() -> int:
                crowd.leave()
                active = "http.web.downstream_cx_active"
                eventually(lambda: proxy.stats()[active] == 0, "all of them to be gone")
                return 0

            phase(f"{connections:,} come, and ask once", arrive)
            phase("they ask in turn, 64 at a time", lambda: crowd.ask_in_turn(seconds))
            phase(f"beside them {in_flight:,} in flight", others)
            phase("all leave at once", leave)
            if proxy.workers() != [worker]:
                raise SystemExit(f"bench: the worker has died:\n{proxy.log_text()}")
            return summary(phases, read(records, worker))
        finally:
            proxy.end()


def lacks(wanted: int) -> str:
    """Why it cannot be measured here, or ""."""
    from tests.kit.origin import find

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if hard < wanted:
        return f"a process may have {hard} descriptors (ulimit -Hn), and {wanted} are needed; --connections N for fewer"
    missing = [program for program in ("nginx", "wrk") if find(program) is None]
    return f"{' and '.join(missing)} must be installed" if missing else ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--connections", type=int, default=CONNECTIONS)
    parser.add_argument("--seconds", type=float, default=10.0, help="of the second and third phase, each")
    parser.add_argument("--quick", action="store_true", help="two seconds of each")
    parser.add_argument("--sizes", action="store_true", help="count the objects too, which takes time between pauses")
    parser.add_argument("--thresholds", metavar="A,B,C", help="collect in the worker after all, with these")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    why = lacks(arguments.connections + 2 * IN_FLIGHT + 200)
    if why:
        print(f"collector: left out: {why}", file=sys.stderr)
        return 0
    environment = {SIZES: "1"} if arguments.sizes else {}
    if arguments.thresholds:
        environment[THRESHOLDS] = arguments.thresholds
    seconds = 2.0 if arguments.quick else arguments.seconds
    with tempfile.TemporaryDirectory(prefix="hp-") as name:
        made = measure(Path(name), arguments.connections, IN_FLIGHT, seconds, environment)
    if arguments.json:
        print(json.dumps(made, indent=2))
    else:
        report(made)
    worst = max(
        (each["worst_ms"] for phase in made.values() for each in phase["generations"].values()),
        default=0.0,
    )
    print(f"collector: the longest pause took {worst:.2f} ms, the bar is {BAR_MS:g} ms", file=sys.stderr)
    return 1 if worst > BAR_MS else 0


def report(made: dict[str, Any]) -> None:
    width = max(map(len, made))
    for name, phase in made.items():
        none = "" if phase["generations"] else ", no collection"
        print(f"{name:{width}}  {phase['requests']:8,} requests in {phase['seconds']:.1f} s{none}")
        for number, each in phase["generations"].items():
            print(
                f"{'':{width}}  generation {number}: {each['collections']:4} collections, the longest "
                f"{each['worst_ms']:.2f} ms (CPU {each['worst_cpu_ms']:.2f} ms), {each['share']:.2%} of the time, "
                f"{each['collected']} objects collected"
                + (f" of {each['most_objects']:,} at most" if each["most_objects"] else "")
            )


if __name__ == "__main__":
    if "--fd" in sys.argv:
        sys.exit(be_the_zygote())
    if sys.argv[1:2] == ["--supervisor"]:
        sys.exit(be_the_supervisor(sys.argv[2:]))
    sys.exit(main())
