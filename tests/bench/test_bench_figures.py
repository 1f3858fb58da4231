"""The arithmetic of `make bench`: a figure that is made wrongly is worse than none."""

from __future__ import annotations

import pytest

from bench.peers import figures


def rounds(**values: list[float]) -> list[figures.Round]:
    """Rounds of one metric, m."""
    count = max(len(each) for each in values.values())
    return [
        {name: {"m": each[number]} for name, each in values.items() if number < len(each)} for number in range(count)
    ]


def test_ratios_are_taken_within_a_round_and_not_between_medians() -> None:
    """In the second round the machine was three times as slow for everybody: no ratio may show it."""
    measured = rounds(nginx=[10, 30, 10], hotproxy=[12, 36, 12])
    assert figures.ratios(measured, "hotproxy", "nginx", "m") == pytest.approx([1.2, 1.2, 1.2])
    assert figures.summary(measured, "nginx", "m")["hotproxy"] == pytest.approx(
        {"median": 12, "rounds": 3, "ratio": 1.2, "least": 1.2, "most": 1.2}
    )


def test_a_round_in_which_one_failed_counts_for_the_others_only() -> None:
    measured = rounds(nginx=[10, 10, 10], hotproxy=[20, 20], haproxy=[10, 12, 14])
    assert figures.ratios(measured, "hotproxy", "nginx", "m") == [2, 2]
    assert figures.summary(measured, "nginx", "m")["haproxy"]["ratio"] == pytest.approx(1.2)


def test_without_the_reference_there_are_medians_and_no_ratios() -> None:
    assert figures.summary(rounds(hotproxy=[1, 2, 3]), "nginx", "m") == {"hotproxy": {"median": 2, "rounds": 0}}


def test_a_round_counts_when_the_floor_is_at_most_twice_as_slow_as_in_its_best() -> None:
    measured = rounds(floor=[10, 20, 20.1, 50], nginx=[1, 2, 3, 4])
    assert [each["nginx"]["m"] for each in figures.undisturbed(measured, "floor", "m")] == [1, 2]


def test_a_round_without_the_floor_cannot_be_judged_and_does_not_count() -> None:
    measured = rounds(floor=[10], nginx=[1, 2])
    assert figures.undisturbed(measured, "floor", "m") == measured[:1]


def test_without_any_floor_all_rounds_count() -> None:
    measured = rounds(nginx=[1, 2])
    assert figures.undisturbed(measured, "floor", "m") == measured
