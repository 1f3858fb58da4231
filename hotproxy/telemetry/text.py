"""Statistics for people (`name: value` a line) and for scripts (one flat object)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

from hotproxy.shm.reader import HistogramValue, Reading
from hotproxy.shm.schema import Stat

QUANTILES: Final = (50.0, 90.0, 95.0, 99.0, 99.9, 100.0)


def shown(reading: Reading, pattern: re.Pattern[str] | None = None) -> Iterator[tuple[Stat, int | HistogramValue]]:
    """The statistics whose name `pattern` matches anywhere, by name. A response code that never came is left out:
    each cluster has cells for all sixty."""
    for name in sorted(reading.values):
        if pattern is None or pattern.search(name):
            stat, value = reading.stats[name], reading.values[name]
            if value or not any(tag == "envoy_response_code" for tag, _ in stat.tags):
                yield stat, value


def render_text(reading: Reading, pattern: re.Pattern[str] | None = None) -> Iterator[str]:
    """Lines, each with its end; a histogram is `count=… sum=… P50=…`, in the words of Envoy when it is empty."""
    for stat, value in shown(reading, pattern):
        yield f"{stat.name}: {_histogram(value) if isinstance(value, HistogramValue) else value}\n"


def to_json(reading: Reading, pattern: re.Pattern[str] | None = None) -> dict[str, Any]:
    """Name to value; a histogram is {count, sum, buckets: [[largest value counted there, count], ...]}."""
    return {
        stat.name: {"count": value.count, "sum": value.sum, "buckets": [list(bucket) for bucket in value.buckets]}
        if isinstance(value, HistogramValue)
        else value
        for stat, value in shown(reading, pattern)
    }


def quantile(histogram: HistogramValue, percent: float) -> int:
    """The upper end of the bucket in which that many percent of all values are reached; 0 when there are none."""
    wanted = histogram.count * percent / 100
    reached = 0
    for largest, count in histogram.buckets:
        reached += count
        if reached >= wanted:
            return largest
    return 0


def _histogram(value: HistogramValue) -> str:
    if value.count == 0:
        return "No recorded values"
    quantiles = " ".join(f"P{percent:g}={quantile(value, percent)}" for percent in QUANTILES)
    return f"count={value.count} sum={value.sum} {quantiles}"
