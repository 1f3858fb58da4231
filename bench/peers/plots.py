"""Two pictures of a run: CPU as ratios to nginx, and latency in open loop."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")  # no display is needed

from matplotlib import pyplot

from bench.peers.cases import OPEN_LOOP

# Okabe and Ito's colours, which colour-blind people can tell apart; hotproxy has the strongest one.
COLOURS = {
    "pass-through": "#999999",
    "nginx": "#009e73",
    "HAProxy": "#56b4e9",
    "Envoy": "#cc79a7",
    "hotproxy": "#d55e00",
}
CPU_CASES = ("small", "connection", "post", "body-1m", "body-100m")


def write(directory: Path, made: dict[str, Any], names: Sequence[str]) -> None:
    cpu(directory / "cpu.png", made, names)
    cases = [case for name, case in made["cases"].items() if name.startswith(OPEN_LOOP)]
    if cases:
        latency(directory / "latency.png", cases, names)


def cpu(path: Path, made: dict[str, Any], names: Sequence[str]) -> None:
    cases = [made["cases"][name] for name in CPU_CASES if name in made["cases"]]
    figures = [next(iter(case["metrics"].values()))["proxies"] for case in cases]
    titles = [f"{case['title']}\n({next(iter(case['metrics'].values()))['title']})" for case in cases]
    picture, axes = pyplot.subplots(figsize=(10, 4.2))
    grouped(axes, names, titles, [{name: each[name]["ratio"] for name in names if name in each} for each in figures])
    axes.axhline(1, color="#444444", linewidth=0.8)
    axes.set_ylabel("× nginx, less is better")
    axes.set_title("CPU time, ratio to nginx within each round, median over the rounds")
    save(picture, path)


def latency(path: Path, cases: Sequence[dict[str, Any]], names: Sequence[str]) -> None:
    picture, rows = pyplot.subplots(len(cases), figsize=(10, 4.2 * len(cases)), squeeze=False)
    for axes, case in zip(rows[:, 0], cases, strict=True):
        metrics = [metric for key, metric in case["metrics"].items() if key.startswith("p")]
        values = [
            {name: metric["proxies"][name]["median"] for name in names if name in metric["proxies"]}
            for metric in metrics
        ]
        grouped(axes, names, [metric["title"] for metric in metrics], values)
        axes.set_yscale("log")
        axes.set_ylabel("µs from the scheduled time")
        axes.set_title(
            f"{case['title']}: medians of {case['rounds'] - case['dropped']} rounds, {case['dropped']} dropped"
        )
    save(picture, path)


def grouped(axes: Any, names: Sequence[str], titles: Sequence[str], groups: Sequence[dict[str, float]]) -> None:
    """A group of bars for each title, with the figure above each bar."""
    width = 0.8 / len(names)
    for place, name in enumerate(names):
        points = [(group, values[name]) for group, values in enumerate(groups) if name in values]
        left = [group - 0.4 + (place + 0.5) * width for group, _ in points]
        bars = axes.bar(left, [value for _, value in points], width * 0.92, label=name, color=COLOURS[name])
        labels = [f"{value:.2f}" if value < 100 else f"{value:,.0f}" for _, value in points]
        axes.bar_label(bars, labels, fontsize=7, padding=1)
    axes.set_xticks(range(len(titles)), titles, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8, ncols=len(names), loc="upper right")
    axes.margins(y=0.15)


def save(picture: Any, path: Path) -> None:
    picture.tight_layout()
    # Without the date and version that it would carry otherwise: the same figures make the same file.
    picture.savefig(path, dpi=110, metadata={"Software": None})
    pyplot.close(picture)
