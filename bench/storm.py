"""A storm over a running proxy: random reloads, refusals, signals and kills under load; then all accounts must balance.

    python bench/storm.py --seed 7 --seconds 120                 nobody who has connections is killed: nothing may fail
    python bench/storm.py --seed 7 --seconds 120 --kill-workers  workers too: only what they held may fail

The same seed draws the same actions; how they fall together with what runs is up to the machine. Exit code 1 and the
reasons when a request failed, a counter is wrong, a gauge is not zero, or a process, descriptor, shared-memory segment
or socket file is left over.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import select
import signal
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from hotproxy.restarter.frames import Channel
from tests.kit import clients, origin
from tests.kit.installation import Installation
from tests.kit.instance import PATIENCE_S, Instance, eventually, instance

MAX_SLOTS = 6
REQUEST = b"GET / HTTP/1.1\r\nHost: a\r\nX-Number: 5\r\nConnection: close\r\n\r\n"
REFUSED = {
    "bad yaml": ("workers: [", "hotproxy.yaml"),
    "unknown cluster": ("listeners: [{name: a, address: '127.0.0.1:0', cluster: nobody}]", "nobody"),
}


class Storm:
    """One instance and what is done to it. `problems` is what is wrong with it."""

    def __init__(
        self, proxy: Instance, origin_address: str, dice: random.Random, keepalive: int, kill_workers: bool
    ) -> None:
        self.proxy = proxy
        self.origin = origin_address
        self.dice = dice
        self.keepalive = keepalive
        self.ports = free_ports(4)
        self.problems: list[str] = []
        self.done: Counter[str] = Counter()
        self.killed_workers = 0
        self.unix = proxy.directory / "u.sock"
        self.addresses = [
            f"127.0.0.1:{self.ports[1]}",
            f":{self.ports[2]}",
            f"[::1]:{self.ports[3]}",
            f"unix:{self.unix}",
        ]
        self.extra: dict[str, str] = {}
        # One thing at a time, the listeners that are checked are those that were asked for last.
        self.actions: list[tuple[int, Callable[[], None]]] = [
            (10, self.reload),
            (4, self.refused_reload),
            (4, self.hangups),
            (3, self.reloads_at_once),
            (4, self.slots),
            (1, self.nonsense),
            (2, self.kill_zygote),
            (2, self.kill_control),
            (1, self.reopen),
            (1, self.impatient),
            (4 if kill_workers else 0, self.kill_worker),
        ]

    @property
    def port(self) -> int:
        return self.ports[0]

    # --- what happens ---

    def run(self, seconds: float) -> None:
        until_s = time.monotonic() + seconds
        weights = [weight for weight, _ in self.actions]
        while time.monotonic() < until_s and not self.problems:
            action = self.dice.choices(self.actions, weights)[0][1]
            self.done[action.__name__] += 1
            try:
                action()
            except (OSError, AssertionError) as error:
                self.problems.append(f"{action.__name__}: {type(error).__name__}: {error}")

    def draw(self, workers: int = 0) -> None:
        """Another config: other workers, other listeners, the same addresses under other names."""
        chosen = self.dice.sample(self.addresses, self.dice.randrange(len(self.addresses) + 1))
        names = self.dice.sample(["b", "c", "d", "e", "f"], len(chosen))
        self.extra = dict(zip(names, chosen, strict=True))
        self.write(workers or self.dice.randint(1, 4))

    def write(self, workers: int, broken: str = "") -> None:
        listeners = {"web": f"127.0.0.1:{self.port}", **self.extra}
        lines = [f"  - {{name: {name}, address: '{address}', cluster: origin}}" for name, address in listeners.items()]
        self.proxy.write(
            "\n".join([f"workers: {workers}", "drain_timeout: 5s", "listeners:", *lines, "clusters:"])
            + f'\n  - name: origin\n    endpoints: ["{self.origin}"]\n{broken}'
        )

    def reload(self) -> None:
        self.draw()
        self.must_serve(self.ask("reload"))

    def must_serve(self, answer: dict[str, Any]) -> None:
        if not answer["ok"]:
            self.problems.append(f"a good reload was refused: {answer['reason']}")
        for address in self.addresses:
            self.check(address, address in self.extra.values())

    def check(self, address: str, serves: bool) -> None:
        try:
            answer = exchange(address)
        except (ConnectionRefusedError, FileNotFoundError):
            answer = b""
        if serves != (answer.startswith(b"HTTP/1.1 200 ") and answer.endswith(b"\r\n5\n")):
            self.problems.append(f"{address} {'does not serve' if serves else 'serves still'}: {answer!r}")

    def refused_reload(self) -> None:
        kind = self.dice.choice([*REFUSED, "port in use", "workers die", "no access log"])
        epoch = self.status()["epoch"]
        before = self.proxy.config.read_text()
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            if kind in REFUSED:
                text, why = REFUSED[kind]
            elif kind == "port in use":
                text = before.replace(
                    "clusters:", f"  - {{name: z, address: '127.0.0.1:{port}', cluster: origin}}\nclusters:"
                )
                why = "address in use"
            else:
                log = "access_log: {path: /nowhere/at/all}"
                text = before.replace(
                    "clusters:", f"  - {{name: z, address: '127.0.0.1:0', cluster: origin, {log}}}\nclusters:"
                )
                why = "/nowhere/at/all"
            self.proxy.write(text)
            answer = self.ask("reload")
        self.proxy.config.write_text(before)
        if answer["ok"] or why not in answer["reason"]:
            self.problems.append(f"{kind}: {answer}")
        elif self.status()["epoch"] < epoch:
            self.problems.append(f"{kind}: the epoch went back")

    def hangups(self) -> None:
        for _ in range(self.dice.randint(1, 6)):
            self.draw()
            self.proxy.signal(self.dice.choice([signal.SIGHUP, signal.SIGHUP, signal.SIGUSR2]))
            time.sleep(self.dice.random() * 0.2)
        self.must_serve(self.ask("reload"))

    def reloads_at_once(self) -> None:
        self.draw()
        channels = [self.tell("reload") for _ in range(self.dice.randint(2, 20))]
        for channel in channels:
            self.must_serve(hear(channel))

    def impatient(self) -> None:
        """Whether it is given up or not in time, something serves."""
        self.ask("reload", timeout_s=0.02 + self.dice.random() * 0.2)
        self.must_serve(self.ask("reload"))

    def slots(self) -> None:
        for _ in range(self.dice.randint(1, 4)):
            if self.dice.random() < 0.5 or len(self.newest()["slots"]) >= MAX_SLOTS:
                self.proxy.signal(signal.SIGTTOU)
            else:
                self.proxy.signal(signal.SIGTTIN)
            time.sleep(self.dice.random() * 0.1)

    def nonsense(self) -> None:
        for _ in range(20):
            with contextlib.closing(self.connect()) as channel, contextlib.suppress(OSError):
                channel.sock.send(self.dice.randbytes(self.dice.randint(1, 200)))

    def reopen(self) -> None:
        self.proxy.signal(signal.SIGUSR1)

    def kill_zygote(self) -> None:
        if self.dice.random() < 0.5:
            self.draw()
            self.proxy.signal(signal.SIGHUP)
            time.sleep(self.dice.random() * 0.3)
        generation = self.dice.choice(self.status()["generations"])
        with contextlib.suppress(ProcessLookupError):
            os.kill(generation["pid"], signal.SIGKILL)
        time.sleep(self.dice.random() * 0.2)
        self.settle()

    def kill_control(self) -> None:
        self.kill(self.newest()["control"]["pid"])
        self.settle()

    def kill_worker(self) -> None:
        slots = self.dice.choice(self.status()["generations"])["slots"]
        if slots and self.kill(self.dice.choice(slots)["pid"]):
            self.killed_workers += 1
        if self.dice.random() < 0.3:
            self.draw()
            self.proxy.signal(signal.SIGHUP)
        self.settle()

    def settle(self) -> None:
        """After a kill a reload may be refused over it: but the next one is not."""
        self.ask("reload")
        self.must_serve(self.ask("reload"))

    @staticmethod
    def kill(pid: int | None) -> bool:
        try:
            os.kill(pid or 1 << 22, signal.SIGKILL)
        except ProcessLookupError:
            return False
        return True

    # --- questions ---

    def connect(self) -> Channel:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        sock.connect(str(self.proxy.directory / "run" / self.proxy.name / "supervisor.sock"))
        return Channel(sock)

    def tell(self, verb: str, **arguments: Any) -> Channel:
        channel = self.connect()
        channel.send("COMMAND", {"verb": verb, "arguments": arguments})
        return channel

    def ask(self, verb: str, **arguments: Any) -> dict[str, Any]:
        return hear(self.tell(verb, **arguments))

    def status(self) -> dict[str, Any]:
        data: dict[str, Any] = self.ask("status")["data"]
        return data

    def newest(self) -> dict[str, Any]:
        status = self.status()
        return next(
            (each for each in status["generations"] if each["epoch"] == status["epoch"]), status["generations"][-1]
        )

    # --- the account ---

    def weigh(self) -> dict[str, Any]:
        """What the instance holds once two workers serve and nobody else is left."""
        self.extra = {}
        self.write(2)
        self.must_serve(self.ask("reload"))
        eventually(lambda: len(self.status()["generations"]) == 1, "one generation")
        eventually(lambda: len([slot for slot in self.newest()["slots"] if slot["state"] == "accepting"]) == 2, "slots")
        supervisor, generation = self.status()["pid"], self.newest()
        known = {generation["pid"], generation["control"]["pid"], *(slot["pid"] for slot in generation["slots"])}
        eventually(
            lambda: {each.pid for each in psutil.Process(supervisor).children(recursive=True)} == known, "no strays"
        )
        # A caller who is answered is closed a moment later; what stays is what was not closed.
        return {
            "supervisor": fewest_fds(supervisor),
            "zygote": fewest_fds(generation["pid"]),
            "control": fewest_fds(generation["control"]["pid"]),
            "segments": len(self.proxy.shared_memory()),
            "files": sorted(os.listdir(self.proxy.directory / "run" / self.proxy.name)),
            "unix": self.unix.exists(),
        }

    def balance(self, counts: dict[str, Any]) -> None:
        stats: dict[str, Any] = {}

        def calm() -> bool:
            nonlocal stats
            stats = self.proxy.stats()
            return bool(stats["http.web.downstream_cx_active"] == 0)

        eventually(calm, "every connection to be closed")
        for gauge in (
            "http.web.downstream_rq_active",
            "listener.web.downstream_cx_active",
            "cluster.origin.upstream_rq_active",
        ):
            if stats[gauge]:
                self.problems.append(f"{gauge} is {stats[gauge]}")
        wrong = [what for what in counts["failures"] if not ("EOF" in what or "ECONNRESET" in what or "EPIPE" in what)]
        failed = sum(counts["failures"].values())
        if wrong or (failed and not self.killed_workers):
            self.problems.append(f"requests failed: {counts['failures']}")
        # Each of them held a share of the keep-alive connections, and a handful of the others.
        if failed > self.killed_workers * (self.keepalive + 20):
            self.problems.append(f"{failed} requests failed for {self.killed_workers} workers killed")
        counted, sent = stats["http.web.downstream_rq_total"], counts["requests"]
        if not self.killed_workers and counted != sent:
            self.problems.append(f"{sent} requests were sent, {counted} counted")
        if abs(sent - counted) > failed:
            self.problems.append(f"{sent} requests were sent, {counted} counted, {failed} failed")
        if "internal error" in self.proxy.log_text() or "Traceback" in self.proxy.log_text():
            self.problems.append("an internal error in the log")


def fewest_fds(pid: int) -> int:
    found = []
    for _ in range(5):
        found.append(len(os.listdir(f"/proc/{pid}/fd")))
        time.sleep(0.02)
    return min(found)


def hear(channel: Channel) -> dict[str, Any]:
    with contextlib.closing(channel):
        assert select.select([channel], [], [], PATIENCE_S)[0], "no answer from the supervisor"
        message = channel.receive()
        assert message is not None
        return {"ok": False, "reason": message.fields.get("why", ""), **message.fields}


def exchange(address: str) -> bytes:
    if address.startswith("unix:"):
        sock = socket.socket(socket.AF_UNIX)
        target: Any = address.removeprefix("unix:")
    else:
        host, _, port = address.rpartition(":")
        host = host.strip("[]") or "127.0.0.1"
        sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        target = (host, int(port))
    with sock:
        sock.settimeout(PATIENCE_S)
        sock.connect(target)
        sock.sendall(REQUEST)
        return clients.read_to_end(sock)


def free_ports(count: int) -> list[int]:
    held = [socket.create_server(("", 0)) for _ in range(count)]
    ports = [sock.getsockname()[1] for sock in held]
    for sock in held:
        sock.close()
    return ports


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--new-rate", type=float, default=200)
    parser.add_argument("--keepalive", type=int, default=40)
    parser.add_argument("--kill-workers", action="store_true")
    parser.add_argument("--log", type=Path, help="where the log goes when something is wrong")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hp-") as name:
        directory = Path(name)
        (directory / "nginx").mkdir()
        # A copy of the code as it is now: somebody may edit it while the storm blows.
        python = Installation(directory / "venv").python
        with (
            origin.nginx(directory / "nginx") as address,
            instance(directory, "", start=False, python=python) as proxy,
        ):
            storm = Storm(proxy, address, random.Random(chosen.seed), chosen.keepalive, chosen.kill_workers)
            storm.write(MAX_SLOTS)
            proxy.start()
            before = storm.weigh()
            with clients.load(storm.port, chosen.new_rate, chosen.keepalive, pace_s=0.1) as load:
                storm.run(chosen.seconds)
                after = storm.weigh() if not storm.problems else before
                counts = load.stop()
            if not storm.problems:
                storm.balance(counts)
            if not chosen.kill_workers and counts["failures"]:
                storm.problems.append(f"requests failed: {counts['failures']}")
            storm.problems += [f"{what}: {was} -> {after[what]}" for what, was in before.items() if after[what] != was]
            if not storm.problems:
                storm.ask("stop")
                proxy.wait()
                if left := os.listdir(directory / "run" / proxy.name):
                    storm.problems.append(f"files after the stop: {left}")
            log_text = proxy.log_text()
    print(f"seed {chosen.seed}: {dict(storm.done)}, {storm.killed_workers} workers killed; {counts}")
    for problem in storm.problems:
        print(f"storm: {problem}", file=sys.stderr)
    if storm.problems and chosen.log is not None:
        chosen.log.write_text(log_text)
    return 1 if storm.problems else 0


if __name__ == "__main__":
    sys.exit(main())
