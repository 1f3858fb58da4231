"""One picture of a run: four panels, a bar for each system."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")  # no display is needed

from matplotlib import pyplot

from bench.peers.plots import COLOURS
from bench.restart.fleet import KINDS, NEW, TITLES

# Okabe and Ito's again, for the kinds of connections.
KIND_COLOURS = ("#56b4e9", "#009e73", "#f0e442", "#e69f00", "#d55e00", "#cc79a7")


def write(path: Path, made: dict[str, Any]) -> None:
    systems = {title: found for title, found in made["systems"].items() if found["rounds"]}
    picture, rows = pyplot.subplots(2, 2, figsize=(12, 0.8 + 0.75 * len(systems)), layout="constrained")
    cut(rows[0][0], systems)
    gone(rows[0][1], systems, made["plan"]["cap_s"])
    memory(rows[1][0], systems)
    latency(rows[1][1], systems)
    for axes in rows.flat:
        axes.invert_yaxis()  # the first on top
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
        axes.margins(x=0.12)
    # Without date and with fixed names: the same figures make the same file.
    with matplotlib.rc_context({"svg.hashsalt": "hotproxy", "svg.fonttype": "none"}):
        picture.savefig(path, metadata={"Date": None})
    pyplot.close(picture)
    path.write_text("".join(f"{line.rstrip()}\n" for line in path.read_text().splitlines()))


def cut(axes: Any, systems: dict[str, dict[str, float]]) -> None:
    names = list(systems)
    left = [0.0] * len(names)
    for kind, colour in zip((kind for kind in KINDS if kind != NEW), KIND_COLOURS, strict=True):
        values = [systems[name][f"cut_{kind}"] / systems[name]["restarts"] for name in names]
        axes.barh(names, values, left=left, color=colour, label=TITLES[kind])
        left = [before + value for before, value in zip(left, values, strict=True)]
    for place, value in enumerate(left):
        axes.text(
            value, place, f" {value:.0f}" if value >= 1 or not value else f" {value:.1f}", va="center", fontsize=8
        )
    held = max(found["open"] for found in systems.values())
    axes.set_title(f"connections cut at a restart, of {held:.0f} open ones", fontsize=10)
    axes.legend(frameon=False, fontsize=7)


def gone(axes: Any, systems: dict[str, dict[str, float]], cap_s: float) -> None:
    values = {name: found["gone_s"] for name, found in systems.items() if "gone_s" in found}
    bars(axes, values, lambda value: f"> {cap_s:g} s" if value >= cap_s else f"{value:.1f} s")
    axes.set_title("until the old processes were gone", fontsize=10)


def memory(axes: Any, systems: dict[str, dict[str, float]]) -> None:
    peak = {name: found["peak_mib"] for name, found in systems.items()}
    bars(axes, peak, lambda value: f"{value:.0f} MiB", [found["steady_mib"] for found in systems.values()])
    axes.set_title("peak memory (PSS of all processes; the mark: before the first restart)", fontsize=10)


def latency(axes: Any, systems: dict[str, dict[str, float]]) -> None:
    worst = {name: found["worst_ms"] for name, found in systems.items()}
    bars(axes, worst, lambda value: f"{value:.0f} ms", [found["p99_before_ms"] for found in systems.values()])
    axes.set_title("worst answer around a restart (the mark: p99 before it)", fontsize=10)


def bars(axes: Any, values: dict[str, float], label: Callable[[float], str], marks: Sequence[float] = ()) -> None:
    """A mark is a smaller figure of the same kind, for comparison."""
    colours = [
        next((colour for name, colour in COLOURS.items() if title.startswith(name)), "#999999") for title in values
    ]
    axes.barh(list(values), list(values.values()), color=colours)
    axes.plot(marks, range(len(marks)), "|", color="#000000", markersize=12)
    for place, value in enumerate(values.values()):
        axes.text(max(value, *marks[place : place + 1], 0), place, f"  {label(value)}", va="center", fontsize=8)
