"""What is made of the rounds: ratios within each round, medians over the rounds. No measuring here.

A round is {proxy: {metric: value}}; a proxy that failed in a round is not in it.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

Round = dict[str, dict[str, float]]


# In a round in which even copying bytes took twice its best tail, the machine was measured and no proxy.
DISTURBED = 2.0


def undisturbed(rounds: Sequence[Round], floor: str, metric: str) -> list[Round]:
    """Without the rounds in which `floor` itself was more than twice as slow as in its best one.

    Where there is no floor at all, no round can be told from another, and all of them count.
    """
    own = [each[floor][metric] for each in rounds if floor in each]
    if not own:
        return list(rounds)
    return [each for each in rounds if floor in each and each[floor][metric] <= DISTURBED * min(own)]


def median(rounds: Sequence[Round], proxy: str, metric: str) -> float | None:
    values = [each[proxy][metric] for each in rounds if proxy in each]
    return statistics.median(values) if values else None


def ratios(rounds: Sequence[Round], proxy: str, reference: str, metric: str) -> list[float]:
    """One for each round in which both were measured."""
    return [
        each[proxy][metric] / each[reference][metric]
        for each in rounds
        if proxy in each and reference in each and each[reference][metric] > 0
    ]


def summary(rounds: Sequence[Round], reference: str, metric: str) -> dict[str, dict[str, float]]:
    """For each proxy: the median, and of its ratio to `reference` the median, the least and the largest."""
    found: dict[str, dict[str, float]] = {}
    for proxy in sorted({proxy for each in rounds for proxy in each}):
        middle = median(rounds, proxy, metric)
        quotients = ratios(rounds, proxy, reference, metric)
        if middle is None:
            continue
        found[proxy] = {"median": middle, "rounds": len(quotients)}
        if quotients:
            found[proxy] |= {"ratio": statistics.median(quotients), "least": min(quotients), "most": max(quotients)}
    return found
