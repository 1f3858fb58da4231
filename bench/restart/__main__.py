"""Restart proxies under load, and count what every client sees."""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from bench.peers import machine
from bench.peers.cases import Machine
from bench.peers.figures import Round
from bench.peers.loads import Failed
from bench.peers.origin import Origin
from bench.peers.processes import OtherWork, two_cpus
from bench.peers.report import write_json
from bench.restart import loaded, plots, report, trial
from bench.restart.plan import Plan
from bench.restart.systems import available, own
from bench.restart.systems.system import System

EPILOG = """\
Each round runs every proxy once: a fleet of clients of every kind through some restarts, then one restart at 70 % of
what the proxy can do. What clients lose is counted; nothing is asserted, and the exit code says only whether it ran.

examples:
  python -m bench.restart --list                             what can be measured on this machine
  python -m bench.restart --system hotproxy --rounds 1       one proxy, once
  python -m bench.restart --own caddy.toml --system caddy    a proxy of your own; docs/restart-bench.md has an example
"""


def say(sentence: str) -> None:
    print(f"restart: {sentence}", file=sys.stderr, flush=True)


def main() -> None:
    chosen = arguments()
    # TERM as Ctrl-C: what was started is ended either way.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        systems: list[System] = [*available(say), *map(own.read, chosen.own)]
    except own.BadDescription as error:
        raise SystemExit(f"restart: {error}") from error
    systems = [each for each in systems if wanted(each, chosen.system)]
    if chosen.list:
        print("\n".join(f"{each.title} ({each.version or 'version unknown'})" for each in systems))
        return
    if not systems:
        raise SystemExit("restart: there is no such system; --list says which there are")
    plan = Plan(chosen.restarts, chosen.gap, chosen.cap, chosen.workers)
    about = machine.facts({each.name.split()[0]: each.version for each in systems})
    other = OtherWork()
    rounds, failures = play(systems, plan, chosen.rounds)
    if not any(rounds):
        raise SystemExit("restart: no trial could be measured")
    about["load_after"] = round(os.getloadavg()[0], 1)
    about["other_cpus"] = round(other.cpus(), 2)
    about["command"] = " ".join(["python -m bench.restart", *sys.argv[1:]])
    made = report.document(systems, rounds, failures, plan, about)
    chosen.out.mkdir(parents=True, exist_ok=True)
    text = report.markdown(made)
    write_json(chosen.out / "restart.json", made)
    (chosen.out / "restart.md").write_text(text)
    plots.write(chosen.out / "restart.svg", made)
    print(text)
    say(f"written to {chosen.out}: restart.md, restart.json, restart.svg")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.restart",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--list", action="store_true", help="say which systems there are, and end")
    parser.add_argument(
        "--system", action="append", metavar="WORD", help="only those with this word in their title; may be repeated"
    )
    parser.add_argument(
        "--own", action="append", type=Path, default=[], metavar="FILE", help="a proxy of your own, described in TOML"
    )
    parser.add_argument("--quick", action="store_true", help="one round, old processes watched for 15 s: a first look")
    parser.add_argument("--rounds", type=int, help="how often each proxy takes its turn (3)")
    parser.add_argument("--restarts", type=int, help="restarts in a trial (3)")
    parser.add_argument("--gap", type=float, default=Plan.gap_s, help="seconds between them (%(default)g)")
    parser.add_argument("--cap", type=float, help="seconds to wait for the end of the old processes (60)")
    parser.add_argument("--workers", type=int, default=Plan.workers, help="of each proxy (%(default)d)")
    parser.add_argument("--out", type=Path, default=Path("build/bench"), help="directory of the results (%(default)s)")
    chosen = parser.parse_args()
    for name, usual, quick in (("rounds", 3, 1), ("restarts", Plan.restarts, 2), ("cap", Plan.cap_s, 15.0)):
        if getattr(chosen, name) is None:
            setattr(chosen, name, quick if chosen.quick else usual)
    return chosen


def wanted(system: System, words: Sequence[str] | None) -> bool:
    return not words or any(word.lower() in system.title.lower() for word in words)


def play(systems: Sequence[System], plan: Plan, count: int) -> tuple[list[Round], list[str]]:
    """(the rounds, what was left out of them and why)"""
    rounds: list[Round] = []
    failures: list[str] = []
    proxy_cpu, load_cpu = two_cpus()
    directory = Path(tempfile.mkdtemp(prefix="hp-restart-"))
    try:
        origin = Origin(directory / "origin", load_cpu)
        try:
            place = Machine(directory, origin, proxy_cpu, load_cpu)
            for number in range(count):
                began_s = time.monotonic()
                rounds.append(one_round(systems, plan, place, number, failures))
                say(f"round {number + 1} of {count}: {time.monotonic() - began_s:.0f} s")
        finally:
            origin.end()
    finally:
        shutil.rmtree(directory)
    return rounds, failures


def one_round(systems: Sequence[System], plan: Plan, place: Machine, number: int, failures: list[str]) -> Round:
    """Who begins changes, so that nobody always comes behind the same one."""
    found: Round = {}
    first = number % len(systems)
    parts: list[Callable[[System], dict[str, float]]] = [lambda system: trial.run(system, plan, place, say)]
    if loaded.can_load():
        parts.append(lambda system: loaded.run(system, plan, place, number))
    for system in [*systems[first:], *systems[:first]]:
        for part in parts:
            try:
                found[system.title] = found.get(system.title, {}) | part(system)
            except Failed as error:
                say(f"{system.title}, round {number + 1}: left out: {error}")
                failures.append(f"{system.title}, round {number + 1}: left out: {str(error).partition(chr(10))[0]}")
                break
    return found


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("restart: interrupted; everything that was started has ended")
