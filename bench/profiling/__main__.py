"""One run: hotproxy under wrk, sampled; then the table and the flame graph."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.peers import machine as machines
from bench.peers.cases import CPU, RATE, Case, Machine, all_cases
from bench.peers.origin import Origin
from bench.peers.processes import two_cpus
from bench.peers.proxies import HOTPROXY, HOTPROXY_COMMAND, INSTANCE, Ports, Proxy, hotproxy, hotproxy_command
from bench.profiling import flame, stacks
from tests.kit.origin import find

# Not a divisor of any timer's: samples must not keep step with what is sampled.
HERTZ = 997
SUPERVISOR = Path(__file__).with_name("supervisor.py")
# Of each sample's stack; frames of the interpreter are large, and those of the kernel come besides.
STACK_BYTES = 16 * 1024
# Before perf begins, and after it has ended, wrk is at work already, and still.
MARGIN_S = 1

_ABOUT = """\
# Where the CPU time of a request goes

Made by `{command}` ([what it does](../../bench/profiling/__init__.py)). The flame graph is [profile.svg](profile.svg).

* **Machine.** {cpu}, {cpus} CPUs, Linux {kernel}, Python {python}, {date}. Load average {load_before} at the beginning.
* **Setting.** {title}: one worker on a CPU of its own, wrk and the origin on another one; routes, headers, access log
  and statistics as in [peers.md](peers.md). `hotproxy version` says: {version}.
* **Figures.** {cpu_us:.1f} µs of CPU per request, measured without perf ({rounds} rounds, {least:.1f} to {most:.1f}),
  at {per_s:,.0f} requests per second; with perf beside it {sampled_us:.1f}. {samples:,} samples, {hertz} a second.
  Shares are those of the samples, microseconds are shares of the {cpu_us:.1f}.

| | share | µs per request |
|---|---|---|
"""


class Unusable(Exception):
    """perf is not there, or may not be used; the message says what to do."""


def say(sentence: str) -> None:
    print(f"profile: {sentence}", file=sys.stderr, flush=True)


def usable_perf(program: str | None) -> str:
    """Its path, when it can sample a process of ours. Raises Unusable."""
    if program is None:
        raise Unusable("perf is needed (Debian: linux-perf, Ubuntu: linux-tools-generic)")
    with tempfile.NamedTemporaryFile(prefix="hp-perf-") as file:
        command = [program, "record", "-e", "cpu-clock", "-o", file.name, "--", sys.executable, "-c", "pass"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = next((line for line in done.stderr.splitlines() if line.strip()), f"exit code {done.returncode}")
        paranoid = Path("/proc/sys/kernel/perf_event_paranoid")
        level = paranoid.read_text().strip() if paranoid.exists() else "missing"
        raise Unusable(
            f"perf may not sample here: {said.strip()} (kernel.perf_event_paranoid is {level}: up to 1 lets everybody "
            "see the kernel's part, up to 2 only root; containers need CAP_PERFMON)"
        )
    return program


def worker_of(directory: Path) -> int:
    """The pid of the only worker of the instance that runs in this directory."""
    command = [*HOTPROXY_COMMAND, "--instance", INSTANCE, "--runtime-dir", str(directory / "run"), "status", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    pid: int = json.loads(done.stdout)["generations"][0]["slots"][0]["pid"]
    return pid


def sample(perf: str, pid: int, seconds: float, file: Path) -> None:
    command = [perf, "record", "-e", "cpu-clock", "-F", str(HERTZ), "--call-graph", f"dwarf,{STACK_BYTES}"]
    command += ["-p", str(pid), "-o", str(file), "--", "sleep", str(seconds)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"profile: perf record: {done.stderr.strip()}")


def read_stacks(perf: str, file: Path) -> list[list[stacks.Frame]]:
    command = [perf, "script", "-F", "ip,sym,dso", "-i", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, errors="replace")
    if done.returncode:
        raise SystemExit(f"profile: perf script: {done.stderr.strip()}")
    return list(stacks.read(done.stdout))


def named() -> Proxy:
    """hotproxy, with the names of Python functions for perf where this Python can give them."""
    if sys.version_info < (3, 12):
        return hotproxy()

    def command(directory: Path, ports: Ports, origin: Origin) -> list[str]:
        *_, config = hotproxy_command(directory, ports, origin)
        place = directory / "run" / INSTANCE
        place.mkdir(parents=True, exist_ok=True, mode=0o700)
        return [sys.executable, str(SUPERVISOR), config, INSTANCE, str(place)]

    return Proxy(HOTPROXY, "", command)


def end(proxy: Proxy) -> None:
    """And remove the names that its processes have written for perf."""
    pids = [process.pid for process in proxy.tree.members()] if proxy.tree is not None else []
    proxy.end()
    for pid in pids:
        Path(f"/tmp/perf-{pid}.map").unlink(missing_ok=True)


def under_load(case: Case, proxy: Proxy, machine: Machine, perf: str, seconds: int, file: Path) -> float:
    """Samples the worker in the middle of a round; the round's CPU per request, perf's interruptions included."""
    found: dict[str, float] = {}
    load = threading.Thread(target=lambda: found.update(case.run(proxy, machine, 0)))
    load.start()
    time.sleep(MARGIN_S)
    sample(perf, worker_of(machine.directory / "sampled"), seconds, file)
    load.join()
    if CPU.key not in found:
        raise SystemExit("profile: the load has failed")
    return found[CPU.key]


def table(samples: Sequence[stacks.Stack], cpu_us: float) -> str:
    """Rows of Markdown: kinds in bold with their sums, and their groups below, the largest first."""
    by_group = stacks.groups(samples)
    kinds: dict[str, int] = {}
    for group, count in by_group.items():
        kinds[kind_of(group)] = kinds.get(kind_of(group), 0) + count
    rows = []
    for kind, sum_of_kind in sorted(kinds.items(), key=lambda each: -each[1]):
        rows.append(row(f"**{kind}**", sum_of_kind, len(samples), cpu_us))
        for group, count in by_group.most_common():
            if kind_of(group) == kind and group != kind:
                rows.append(row(group.partition(": ")[2], count, len(samples), cpu_us))
    return "\n".join(rows) + "\n"


def kind_of(group: str) -> str:
    return group.partition(":")[0]


def row(name: str, count: int, total: int, cpu_us: float) -> str:
    return f"| {name} | {count / total:.1%} | {count / total * cpu_us:.1f} |"


def report(samples: Sequence[stacks.Stack], about: dict[str, Any]) -> str:
    text = _ABOUT.format(**about) + table(samples, about["cpu_us"])
    text += (
        "\nThe functions in which most samples were taken (what the compiler has inlined belongs to its caller):\n\n"
    )
    text += "| function | of | share | µs per request |\n|---|---|---|---|\n"
    for (function, where), count in stacks.functions(samples).most_common(20):
        text += row(f"`{function}` | {where}", count, len(samples), about["cpu_us"]) + "\n"
    functions = stacks.python_functions(samples)
    if functions:
        text += "\nThe Python functions, each with the C that it calls:\n\n"
        text += "| function | share | µs per request |\n|---|---|---|\n"
        for function, count in functions.most_common(30):
            text += row(f"`{function}`", count, len(samples), about["cpu_us"]) + "\n"
    return text


def measure(perf: str, seconds: int, rounds: int, name: str, out: Path) -> None:
    every = {case.name: case for case in all_cases(False, ())}
    sampled_case = {case.name: case for case in all_cases(False, (), seconds + 2 * MARGIN_S)}[name]
    proxy_cpu, load_cpu = two_cpus()
    about = machines.facts({})
    version = subprocess.run([*HOTPROXY_COMMAND, "version"], capture_output=True, text=True, check=True).stdout
    with tempfile.TemporaryDirectory(prefix="hp-profile-") as place, contextlib.ExitStack() as ends:
        directory = Path(place)
        origin = Origin(directory / "origin", load_cpu)
        ends.callback(origin.end)
        machine = Machine(directory, origin, proxy_cpu, load_cpu)
        proxy = hotproxy()
        ends.callback(proxy.end)
        proxy.start(directory / "measured", origin, proxy_cpu)
        every[name].run(proxy, machine, 0)  # warm
        measured = [every[name].run(proxy, machine, number) for number in range(rounds)]
        proxy.end()
        sampled = named()
        ends.callback(end, sampled)
        sampled.start(directory / "sampled", origin, proxy_cpu)
        file = directory / "perf.data"
        sampled_us = under_load(sampled_case, sampled, machine, perf, seconds, file)
        say("reading the samples")
        samples = read_stacks(perf, file)
    if not samples:
        raise SystemExit("profile: perf took no sample")
    cpu = [each[CPU.key] for each in measured]
    about |= {
        "command": "make profile",
        "title": every[name].title,
        "version": ", ".join(line.strip() for line in version.splitlines() if line.strip()),
        "cpu_us": statistics.median(cpu),
        "least": min(cpu),
        "most": max(cpu),
        "per_s": statistics.median(each[RATE.key] for each in measured),
        "rounds": rounds,
        "sampled_us": sampled_us,
        "samples": len(samples),
        "hertz": HERTZ,
    }
    out.mkdir(parents=True, exist_ok=True)
    text = report(samples, about)
    (out / "profile.md").write_text(text)
    title = f"hotproxy, {every[name].title}: {about['cpu_us']:.1f} µs of CPU per request"
    (out / "profile.svg").write_text(flame.svg(stacks.folded(samples), title, about["cpu_us"]))
    print(text)
    say(f"written to {out}: profile.md, profile.svg")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.profiling", description=__doc__)
    parser.add_argument("--seconds", type=int, default=8, help="of sampling")
    parser.add_argument("--rounds", type=int, default=5, help="without perf, for the CPU time per request")
    parser.add_argument(
        "--case", default="small", choices=["small", "connection", "post", "body-1m", "tls", "tls-body-1m"]
    )
    parser.add_argument("--out", type=Path, default=Path("build/bench"), help="directory of the results")
    arguments = parser.parse_args()
    missing = [program for program in ("nginx", "wrk") if find(program) is None]
    if missing:
        raise SystemExit(f"profile: {' and '.join(missing)} must be installed")
    try:
        perf = usable_perf(find("perf"))
    except Unusable as error:
        raise SystemExit(f"profile: {error}") from None
    os.environ.setdefault("DEBUGINFOD_URLS", "")  # perf would ask servers for the symbols of each shared object
    measure(perf, arguments.seconds, arguments.rounds, arguments.case, arguments.out)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("profile: interrupted; everything that was started has ended")
