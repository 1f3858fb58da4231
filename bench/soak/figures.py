"""A figure with its bar, and the table of all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

MISSED = "MISSED"


@dataclass(frozen=True, slots=True)
class Figure:
    """`machine_ms`: the worst gap of the machine itself meanwhile, where the figure is a time."""

    claim: str
    what: str
    value: str
    bar: str
    met: bool
    counted: bool = True
    machine_ms: float | None = None

    @property
    def fails(self) -> bool:
        return self.counted and not self.met


def none(claim: str, what: str, found: object, of: str = "") -> Figure:
    """Counted, and there should be nothing: a number, or what is wrong by how often it was."""
    number = found if isinstance(found, int) else len(found)  # type: ignore[arg-type]
    shown = str(found) if number else "0"
    return Figure(claim, what, f"{shown} of {of}" if of else shown, "0", not number)


def at_most(claim: str, what: str, value: float, bar: float, unit: str, machine_ms: float | None = None) -> Figure:
    """Measured."""
    return Figure(claim, what, f"{value:.0f} {unit}", f"<= {bar:g} {unit}", value <= bar, False, machine_ms)


def table(figures: Sequence[Figure]) -> str:
    rows = [("claim", "what", "figure", "bar", "met", "machine")]
    for each in figures:
        met = "yes" if each.met else MISSED if each.counted else "no"
        machine = "" if each.machine_ms is None else f"{each.machine_ms:.0f} ms"
        rows.append((each.claim, each.what, each.value, each.bar, met, machine))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)
