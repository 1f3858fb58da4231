"""A run as JSON, with every trial, and as Markdown: losses are summed over all restarts, all else is a median."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from bench.peers import figures
from bench.peers.figures import Round
from bench.restart.fleet import KINDS, NEW, TITLES
from bench.restart.plan import Plan
from bench.restart.systems.system import System

# What is counted, and so is added up; a median would hide what happens once in ten restarts.
COUNTED = (
    *("restarts", "restarts_refused", "requests", "failed", "failed_new", "refused", "wrong", "sent_away"),
    *("cut", "cut_idle", *(f"cut_{kind}" for kind in KINDS if kind != NEW), "counters_lost", "loaded_failed"),
)
MEASURED = (
    *("open", "gone_s", "p99_before_ms", "p99_ms", "worst_ms", "stall_ms", "steady_mib", "peak_mib"),
    *("machine_ms", "dip", "loaded_p99_ms", "loaded_per_s"),
)

_ABOUT = """\
# Restarts of hotproxy, nginx, HAProxy and Envoy, under load

Made by `{command}`; [docs/restart-bench.md](../restart-bench.md) says what each figure means, and every trial is in
[restart.json](restart.json).

* **Machine.** {cpu}, {cpus} CPUs, Linux {kernel}, Python {python}, {date}. Load average {load_before} at the beginning,
  {load_after} at the end; work that is none of the benchmark's used {other_cpus} CPUs meanwhile. A process that does
  nothing but look at the clock was kept from running for {machine_ms:.0f} ms at worst.
* **Setting.** {rounds} rounds, the proxies taking turns; in each {restarts} restarts, {gap_s:g} s apart, with the same
  config before and after. {workers} workers on one CPU; clients and origins on another one. {new_per_s} new connections
  per second, and {open} that stay: {keepalive} keep-alive, {websocket} WebSocket, {tcp} TCP, {downloads} downloads,
  {slow} slow readers, {uploads} uploads, every byte compared. Who is cut connects anew.
* **Versions.** {versions}.
"""

LOST = {
    "restarts": "restarts",
    "cut": "connections cut, of those open",
    "failed": "requests failed",
    "new": "… on new connections",
    "counters": "requests that the proxy's counters forgot",
    "gone": "old processes gone after",
}
COST = {
    "p99": "p99: before, in the second of the restart",
    "worst": "worst answer",
    "stall": "longest gap in a download",
    "dip": "answers missing in that second at 70 % load",
    "loaded": "p99 of that second at 70 % load",
    "memory": "memory (PSS): steady, peak",
}


def document(
    systems: Sequence[System], rounds: Sequence[Round], failures: Sequence[str], plan: Plan, about: dict[str, Any]
) -> dict[str, Any]:
    """Everything, ready for JSON."""
    return {
        "about": about,
        "plan": dataclasses.asdict(plan),
        "systems": {each.title: summary(rounds, each.title) for each in systems},
        "left_out": list(failures),
        "measured": list(rounds),
    }


def summary(rounds: Sequence[Round], title: str) -> dict[str, float]:
    """`rounds` besides: in how many it was measured."""
    own = [each[title] for each in rounds if title in each]
    found: dict[str, float] = {"rounds": len(own)}
    for key in COUNTED:
        if values := [each[key] for each in own if key in each]:
            found[key] = sum(values)
    if own:
        found["held"] = sum(each["open"] * each["restarts"] for each in own)
    for key in MEASURED:
        middle = figures.median([each for each in rounds if key in each.get(title, {})], title, key)
        if middle is not None:
            found[key] = middle
    return found


def markdown(made: dict[str, Any]) -> str:
    systems = {title: found for title, found in made["systems"].items() if found["rounds"]}
    plan = made["plan"]
    about = dict(made["about"]) | plan | plan["size"]
    about["versions"] = ", ".join(f"{name} {version}" for name, version in about["versions"].items() if version)
    about["rounds"] = len(made["measured"])
    about["open"] = max((int(found["open"]) for found in systems.values()), default=0)
    trials = [trial for each in made["measured"] for trial in each.values()]
    about["machine_ms"] = max((trial["machine_ms"] for trial in trials), default=0)
    lines = [_ABOUT.format(**about), *table(LOST, systems, plan["cap_s"]), "", *kinds(systems), ""]
    lines += [*table(COST, systems, plan["cap_s"]), ""]
    lines += [f"* {sentence}" for sentence in [*remarks(systems, plan), *made["left_out"]]]
    return "\n".join([*lines, "", "![What a restart costs](restart.svg)", ""])


def table(columns: dict[str, str], systems: dict[str, dict[str, float]], cap_s: float) -> list[str]:
    """A row for each system."""
    lines = ["| | " + " | ".join(columns.values()) + " |", "|---" + "|---:" * len(columns) + "|"]
    for title, found in systems.items():
        row = cells(found, cap_s)
        lines.append(f"| {title} | " + " | ".join(row[key] for key in columns) + " |")
    return lines


def cells(found: dict[str, float], cap_s: float) -> dict[str, str]:
    """By the keys of the columns; – is what was not measured."""
    refused = int(found["restarts_refused"])
    return {
        "restarts": f"{found['restarts']:.0f}" + (f", {refused} refused" if refused else ""),
        "cut": f"{found['cut']:,.0f} of {found['held']:,.0f}",
        "failed": f"{found['failed']:,.0f} of {found['requests']:,.0f}",
        "new": f"{found['failed_new']:,.0f}",
        "counters": number(found, "counters_lost", ",.0f"),
        "gone": gone(found, cap_s),
        "p99": f"{number(found, 'p99_before_ms', '.1f')}, {number(found, 'p99_ms', '.1f')} ms",
        "worst": number(found, "worst_ms", ".0f", " ms"),
        "stall": number(found, "stall_ms", ".0f", " ms"),
        "dip": number(found, "dip", ".1%"),
        "loaded": number(found, "loaded_p99_ms", ".0f", " ms"),
        "memory": f"{found['steady_mib']:.0f}, {found['peak_mib']:.0f} MiB",
    }


def number(found: dict[str, float], key: str, form: str, unit: str = "") -> str:
    return f"{found[key]:{form}}{unit}" if key in found else "–"


def gone(found: dict[str, float], cap_s: float) -> str:
    if "gone_s" not in found:
        return "–"
    return f"> {cap_s:g} s" if found["gone_s"] >= cap_s else f"{found['gone_s']:.1f} s"


def kinds(systems: dict[str, dict[str, float]]) -> list[str]:
    """Who was cut, for one restart."""
    named = [kind for kind in KINDS if kind != NEW]
    lines = [
        "Connections cut at a restart, on average, by kind; and clients that were asked to go (`Connection: close`):",
        "",
    ]
    lines += ["| | " + " | ".join(TITLES[kind] for kind in named) + " | while idle | asked to go |"]
    lines += ["|---" + "|---:" * (len(named) + 2) + "|"]
    for title, found in systems.items():
        counts = [found[f"cut_{kind}"] for kind in named] + [found["cut_idle"], found["sent_away"]]
        row = [f"{count / found['restarts']:.1f}" if count else "0" for count in counts]
        lines.append(f"| {title} | " + " | ".join(row) + " |")
    return lines


def remarks(systems: dict[str, dict[str, float]], plan: dict[str, Any]) -> list[str]:
    """Where they are equal, and what must be known to read the table."""
    said = []
    for key, what in (
        ("failed_new", "No request on a new connection failed"),
        ("wrong", "No byte and no status was wrong"),
        ("counters_lost", "No request was forgotten by the counters"),
        ("loaded_failed", "No request failed at 70 % load"),
    ):
        known = {title: found[key] for title, found in systems.items() if key in found}
        good = [title for title, count in known.items() if not count]
        others = "; ".join(f"{title} {count:,.0f}" for title, count in known.items() if count)
        if known:
            whose = "everybody" if len(good) == len(systems) else "; ".join(good) or "nobody"
            said.append(f"{what}: {whose}." + (f" Otherwise: {others}." if others else ""))
    late = [title for title, found in systems.items() if found.get("gone_s", 0) >= plan["cap_s"]]
    if late:
        said.append(
            f"Whoever is not gone within {plan['cap_s']:g} s may still cut what it holds, later than anybody looked: "
            f"{'; '.join(late)}."
        )
    return said
