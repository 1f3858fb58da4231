"""Prometheus' text format (version 0.0.4), with Envoy's families and labels, so that existing dashboards work.

https://prometheus.io/docs/instrumenting/exposition_formats/ for the format, Envoy's `/stats/prometheus` for the rest:
samples without labels end in `{}`, histogram buckets have Envoy's bounds.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from hotproxy.shm.reader import HistogramValue, Reading
from hotproxy.shm.schema import COUNTER, HISTOGRAM, Stat
from hotproxy.telemetry.text import shown

# Envoy's default buckets (source/common/stats/histogram_impl.cc); ours count whole numbers, so 0.5 holds the zeros.
BOUNDS: Final = (
    *(0.5, 1, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10000),
    *(30000, 60000, 300000, 600000, 1800000, 3600000),
)

_NOT_IN_NAMES: Final = re.compile(r"[^a-zA-Z0-9_]")


def render(reading: Reading, pattern: re.Pattern[str] | None = None) -> Iterator[str]:
    """Lines, each with its end; the samples of a family stand together, as the format demands."""
    families: dict[str, list[tuple[Stat, int | HistogramValue]]] = {}
    for stat, value in shown(reading, pattern):
        families.setdefault(family_of(stat), []).append((stat, value))
    for family in sorted(families):
        samples = families[family]
        kind = samples[0][0].kind
        yield f"# TYPE {family} {'counter' if kind == COUNTER else 'histogram' if kind == HISTOGRAM else 'gauge'}\n"
        for stat, value in samples:
            if isinstance(value, HistogramValue):
                yield from _histogram(family, stat, value)
            else:
                yield f"{family}{{{labels(stat)}}} {value}\n"


def family_of(stat: Stat) -> str:
    """The declared family, or the name itself as one of ours."""
    family = stat.family or f"hotproxy_{stat.name}"
    return _NOT_IN_NAMES.sub("_", family)


def labels(stat: Stat) -> str:
    """`name="value",...` with what the format wants escaped."""
    return ",".join(f'{_NOT_IN_NAMES.sub("_", tag)}="{_escape(value)}"' for tag, value in stat.tags)


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _histogram(family: str, stat: Stat, value: HistogramValue) -> Iterator[str]:
    tags = labels(stat)
    start = f"{tags}," if tags else ""
    for bound, count in zip(BOUNDS, _cumulative(value), strict=True):
        yield f'{family}_bucket{{{start}le="{bound:g}"}} {count}\n'
    yield f'{family}_bucket{{{start}le="+Inf"}} {value.count}\n'
    yield f"{family}_sum{{{tags}}} {value.sum}\n"
    yield f"{family}_count{{{tags}}} {value.count}\n"


def _cumulative(value: HistogramValue) -> Iterator[int]:
    """How many values are at most each bound. A bucket of ours that a bound cuts counts where its largest value
    lies, so a count may be low by what lies within 6 % below the bound; up to 31 all are exact."""
    buckets = iter(value.buckets)
    largest, count = next(buckets, (None, 0))
    total = 0
    for bound in BOUNDS:
        while largest is not None and largest <= bound:
            total += count
            largest, count = next(buckets, (None, 0))
        yield total
