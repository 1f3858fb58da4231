"""One run: start everything, measure case by case, write Markdown, JSON and pictures, and end everything."""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.peers import machine, plots, report
from bench.peers.cases import Machine, all_cases, play
from bench.peers.origin import Origin
from bench.peers.processes import OtherWork, two_cpus
from bench.peers.proxies import available, check
from tests.kit.origin import find

# 5,000 a second is half of what the slowest of them could do on a calm core of the machine of the first figures; at
# 1,000 it keeps up on a busy one too.
RATES = (1000.0, 5000.0)


def say(sentence: str) -> None:
    print(f"bench: {sentence}", file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.peers", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two minutes: enough to see that it works")
    parser.add_argument("--out", type=Path, default=Path("build/bench"), help="directory of the results")
    parser.add_argument("--case", action="append", help="only this case; may be repeated")
    parser.add_argument("--rate", type=float, action="append", help="requests per second in open loop; may be repeated")
    arguments = parser.parse_args()
    if find("wrk") is None:
        raise SystemExit("bench: wrk is needed for the load")
    # TERM as Ctrl-C: what was started is ended either way.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    every = all_cases(arguments.quick, arguments.rate or RATES)
    cases = [case for case in every if case.name in (arguments.case or [case.name])]
    proxy_cpu, load_cpu = two_cpus()
    proxies = available(say)
    names = [proxy.name for proxy in proxies]
    about = machine.facts({proxy.name: proxy.version for proxy in proxies})
    rounds = {}
    other = OtherWork()
    directory = Path(tempfile.mkdtemp(prefix="hp-bench-"))
    try:
        origin = Origin(directory / "origin", load_cpu)
        try:
            place = Machine(directory, origin, proxy_cpu, load_cpu)
            for case in sorted(cases, key=lambda case: case.restarts):
                if not case.restarts and not all(proxy.tree for proxy in proxies):
                    for proxy in proxies:
                        proxy.start(directory / proxy.name, origin, proxy_cpu)
                        check(proxy)
                if case.restarts:
                    end_all(proxies)
                began_s = time.monotonic()
                rounds[case.name] = play(case, proxies, place, say)
                say(f"{case.title}: {len(rounds[case.name])} rounds in {time.monotonic() - began_s:.0f} s")
        finally:
            end_all(proxies)
            origin.end()
    finally:
        shutil.rmtree(directory)
    about["load_after"] = round(os.getloadavg()[0], 1)
    about["other_cpus"] = round(other.cpus(), 2)
    about["command"] = "make bench QUICK=1" if arguments.quick else "make bench"
    made = report.document(cases, rounds, about)
    arguments.out.mkdir(parents=True, exist_ok=True)
    text = report.markdown(made, names)
    report.write_json(arguments.out / "peers.json", made)
    (arguments.out / "peers.md").write_text(text)
    plots.write(arguments.out, made, names)
    print(text)
    say(f"written to {arguments.out}: peers.md, peers.json, cpu.png, latency.png")


def end_all(proxies: list[Any]) -> None:
    for proxy in proxies:
        proxy.end()


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("bench: interrupted; everything that was started has ended")
