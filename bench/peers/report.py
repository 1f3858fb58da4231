"""A run as JSON, with every single measurement, and as Markdown, with the medians."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.peers import figures
from bench.peers.cases import OPEN_LOOP, UNANSWERED, Case
from bench.peers.proxies import FLOOR, NGINX

# 15 are played. With fewer than two thirds of them left the machine was too busy to tell one tail from another.
ENOUGH_ROUNDS = 10

_ABOUT = """\
# Beside nginx, HAProxy and Envoy

Made by `{command}` ([what it does](../../bench/peers/__init__.py)); every measurement is in [peers.json](peers.json).

* **Machine.** {cpu}, {cpus} CPUs, Linux {kernel}, Python {python}, {date}. Load average {load_before}
  at the beginning, {load_after} at the end; work that is none of the benchmark's used {other_cpus} CPUs meanwhile.
* **Setting.** One worker on a CPU of its own; load generator and origin (nginx, two ports) on another one. The same
  features everywhere: routes by host and prefix, two endpoints, least request, X-Forwarded-For, X-Forwarded-Proto,
  X-Request-Id, Via, access log in a file, statistics.
* **Versions.** {versions}.
* **Figures.** `ratio (least-most) · median`: the ratio to nginx within each round, its median and its range over the
  rounds, then the proxy's own median. The ratio compares; the median belongs to this machine and this hour.
  Less is better, but for requests per second.
* **The floor** is a C program that copies bytes between two sockets and knows no HTTP.
"""


def document(cases: Sequence[Case], rounds: dict[str, list[figures.Round]], about: dict[str, Any]) -> dict[str, Any]:
    """Everything, ready for JSON."""
    found: dict[str, Any] = {"about": about, "cases": {}}
    for case in cases:
        counted = rounds[case.name]
        if case.name.startswith(OPEN_LOOP):
            counted = figures.undisturbed(counted, FLOOR, "p99_us")
        found["cases"][case.name] = {
            "title": case.title,
            "rounds": len(rounds[case.name]),
            "dropped": len(rounds[case.name]) - len(counted),
            "metrics": {
                metric.key: {**dataclasses.asdict(metric), "proxies": figures.summary(counted, NGINX, metric.key)}
                for metric in case.metrics
            },
            "measured": rounds[case.name],
        }
    return found


def write_json(path: Path, made: dict[str, Any]) -> None:
    path.write_text(json.dumps(made, indent=1, ensure_ascii=False) + "\n")


def markdown(made: dict[str, Any], names: Sequence[str]) -> str:
    about = dict(made["about"])
    about["versions"] = ", ".join(f"{name} {version}" for name, version in about["versions"].items() if version)
    lines = [_ABOUT.format(**about)]
    lines.append("| case | figure | " + " | ".join(names) + " |")
    lines.append("|---|---" + "|---:" * len(names) + "|")
    for case in made["cases"].values():
        for metric in case["metrics"].values():
            cells = [cell(metric["proxies"].get(name), metric["unit"]) for name in names]
            lines.append(f"| {case['title']} | {metric['title']} | " + " | ".join(cells) + " |")
    lines.append("")
    for case in made["cases"].values():
        if "p99_us" in case["metrics"]:
            lines += [f"* {case['title']}: {sentence}" for sentence in remarks(case, names)]
    lines += ["", "![CPU, as ratios to nginx](cpu.png)", "", "![Latency in open loop](latency.png)", ""]
    return "\n".join(lines)


def remarks(case: dict[str, Any], names: Sequence[str]) -> list[str]:
    """What must be known to read the latencies of this case."""
    said = []
    if FLOOR in names:
        said.append(
            f"{case['dropped']} of {case['rounds']} rounds were dropped because in them the pass-through's own p99 was "
            "more than twice its best."
        )
    left = case["rounds"] - case["dropped"]
    if left < ENOUGH_ROUNDS:
        said.append(f"{left} rounds are too few for a figure; take these as a hint.")
    for name in names:
        late = [each[name][UNANSWERED] for each in case["measured"] if name in each and each[name][UNANSWERED] > 0]
        if late:
            said.append(
                f"{name} did not keep up in {len(late)} of all the rounds: up to {max(late):.0%} of the requests had "
                "no answer two seconds after the last one was due, and count as that late."
            )
    return said


def cell(found: dict[str, float] | None, unit: str) -> str:
    if found is None:
        return "–"
    value = f"{found['median']:,.{_digits(found['median'])}f} {unit}"
    if "ratio" not in found:
        return value
    return f"**{found['ratio']:.2f}** ({found['least']:.2f}-{found['most']:.2f}) · {value}"


def _digits(value: float) -> int:
    return 2 if value < 10 else 0
