"""A flame graph as one SVG file, without scripts: width is CPU time, what is above a box was called by it.

The titles of the boxes (a browser shows them under the pointer) say how much each is. The topmost boxes are groups of
the table, and have their colours.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from html import escape
from typing import NamedTuple

WIDTH = 1200
ROW = 17
TOP = 40
# A box that is narrower would be a line; what is in it is missing above, and the box below has it.
LEAST_WIDTH = 0.8
CHARACTER = 6.6
_COLOURS = {"kernel": "#d98f5c", "Python": "#7fa8c9", "compiled": "#8fb573", "event": "#c5b26b"}
_PLAIN = "#e3d9c9"
_OTHER = "#bbbbbb"


class Box(NamedTuple):
    name: str
    depth: int
    start: int  # in samples
    count: int
    is_group: bool


def boxes(folded: Mapping[tuple[str, ...], int]) -> list[Box]:
    """Equal neighbours of a row become one box; stacks are in the order of their names."""
    made: list[Box] = [Box("all", 0, 0, sum(folded.values()), False)]
    made += _layers(Counter(folded), 0, 1)
    return made


def _layers(folded: Counter[tuple[str, ...]], start: int, depth: int) -> Iterator[Box]:
    below: dict[tuple[str, bool], Counter[tuple[str, ...]]] = {}
    for stack, count in sorted(folded.items()):
        if stack:
            below.setdefault((stack[0], len(stack) == 1), Counter())[stack[1:]] += count
    for (name, is_group), rest in below.items():
        count = sum(rest.values())
        yield Box(name, depth, start, count, is_group)
        yield from _layers(rest, start, depth + 1)
        start += count


def svg(folded: Mapping[tuple[str, ...], int], title: str, us_per_request: float) -> str:
    """The picture. `us_per_request` is what all samples together stand for."""
    every = boxes(folded)
    total = every[0].count
    drawn = [box for box in every if box.count * WIDTH / total >= LEAST_WIDTH]
    height = TOP + ROW * (1 + max(box.depth for box in drawn)) + 10
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="monospace" '
        'font-size="11">',
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        f'<text x="{WIDTH / 2}" y="24" text-anchor="middle" font-size="15">{escape(title)}</text>',
    ]
    for box in drawn:
        x, width = box.start * WIDTH / total, box.count * WIDTH / total
        y = height - 10 - ROW * (box.depth + 1)
        about = f"{box.name}: {box.count / total:.1%}, {box.count / total * us_per_request:.1f} µs per request"
        room = int((width - 4) / CHARACTER)
        label = box.name if len(box.name) <= room else box.name[: room - 1] + "…" if room > 3 else ""
        lines.append(
            f'<g><title>{escape(about)}</title><rect x="{x:.1f}" y="{y}" width="{max(width - 0.4, 0.4):.1f}" '
            f'height="{ROW - 1}" rx="1" fill="{_colour(box)}"/>'
            f'<text x="{x + 3:.1f}" y="{y + 12}">{escape(label)}</text></g>'
        )
    return "\n".join([*lines, "</svg>", ""])


def _colour(box: Box) -> str:
    return _COLOURS.get(box.name.replace(":", " ").split(" ")[0], _OTHER) if box.is_group else _PLAIN
