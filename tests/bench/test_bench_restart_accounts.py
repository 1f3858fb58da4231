"""What clients saw, as figures: a loss that is not counted is worse than no harness."""

from __future__ import annotations

import math
from typing import Any

import pytest

from bench.peers.loads import Failed
from bench.restart import accounts, trial
from bench.restart.fleet import DOWNLOAD, KEPT, NEW, SLOW, TCP, UPLOAD, WEBSOCKET, Sightings
from tests.kit.diary import ASKED, IDLE, REFUSED, SENT_AWAY, WRONG


def sightings(*losses: tuple[float, str, str], answered: int = 0, **answers: list[tuple[float, float]]) -> Sightings:
    named = {kind.replace("_", "-") if kind == "keep_alive" else kind: found for kind, found in answers.items()}
    return Sightings(named, [(when, kind, how, "") for when, kind, how in losses], answered)


def test_everything_that_can_happen_to_a_connection_is_counted_where_it_belongs() -> None:
    seen = sightings(
        (1, NEW, REFUSED),
        (1, NEW, ASKED),
        (1, NEW, WRONG),
        (1, KEPT, ASKED),
        (1, KEPT, IDLE),
        (1, KEPT, SENT_AWAY),
        (1, WEBSOCKET, IDLE),
        (1, WEBSOCKET, ASKED),
        (1, WEBSOCKET, WRONG),  # the upgrade was answered with something else
        (1, TCP, ASKED),
        (1, TCP, REFUSED),
        (1, DOWNLOAD, ASKED),
        (1, SLOW, WRONG),
        (1, UPLOAD, ASKED),
    )
    assert accounts.losses(seen, 0) == accounts.Losses(
        cut={KEPT: 2, WEBSOCKET: 2, TCP: 1, DOWNLOAD: 1, SLOW: 0, UPLOAD: 1},
        idle=2,
        failed=8,
        failed_new=3,
        refused=2,
        wrong=3,
        sent_away=1,
    )


def test_what_happened_before_is_nobodys_restart() -> None:
    seen = sightings((0.9, KEPT, ASKED), (1.0, KEPT, ASKED), (70, WEBSOCKET, IDLE))
    assert accounts.losses(seen, 1.0).cut_in_all == 2
    assert accounts.losses(seen, 0.0, 1.0).cut_in_all == 1


def test_whoever_loses_something_without_a_restart_is_not_measured() -> None:
    with pytest.raises(Failed, match="before any restart"):
        trial.figures(sightings((0.9, KEPT, ASKED), (5.0, KEPT, ASKED)), 1.0, [1.0])


def test_a_client_that_is_asked_to_go_before_a_restart_has_lost_nothing() -> None:
    found = trial.figures(sightings((0.9, KEPT, SENT_AWAY), answered=7), 1.0, [1.0, 9.0])
    assert (found["restarts"], found["requests"], found["cut"], found["sent_away"]) == (2, 7, 0, 0)


@pytest.mark.parametrize(
    ("answered", "counted", "lost"),
    [(100, 100, 0), (100, 40, 60), (100, 103, 0)],
)
def test_counters_may_know_of_more_than_was_answered_but_not_of_less(answered: int, counted: int, lost: int) -> None:
    assert accounts.lost_counts(answered, counted) == lost


@pytest.mark.parametrize(
    ("values", "share", "found"),
    [
        ([], 0.99, None),
        ([5], 0.99, 5),
        (list(range(1, 101)), 0.99, 99),
        (list(range(1, 102)), 0.99, 100),
        ([1, 2], 1, 2),
    ],
)
def test_percentiles(values: list[float], share: float, found: float | None) -> None:
    assert accounts.percentile(values, share) == found


def test_whoever_waited_during_the_restart_is_in_it_however_late_the_answer_came() -> None:
    """By the time of the answer alone, the longest waits would fall out of the window that caused them."""
    seen = sightings(
        new=[
            (9.5, 0.001),  # before
            (10.2, 0.3),  # asked before, answered in it
            (10.5, 0.002),
            (14.9, 4.0),  # asked in it, answered long after
            (15.0, 0.005),
        ]
    )
    assert accounts.windowed(seen, (NEW,), [(10.0, 11.0)]) == [0.002, 0.3, 4.0]


def test_latencies_are_taken_before_and_around_each_restart() -> None:
    calm = [(when / 10, 0.001) for when in range(70, 100)]
    found = accounts.latencies(
        sightings(
            new=[*calm, (10.5, 0.010), (20.5, 0.020), (21.5, 0.5), (25.0, 2.0)],
            keep_alive=[(10.1, 0.030)],
            streams=[(10.3, 0.2), (26.0, 1.0)],
        ),
        [10.0, 20.0],
    )
    assert found == pytest.approx({"p99_before_ms": 1, "p99_ms": 30, "worst_ms": 500, "stall_ms": 200})


def test_a_kind_that_saw_nothing_has_no_figures() -> None:
    assert accounts.latencies(sightings(), [1.0]) == {}


SECOND = 1_000_000_000


def due(*seconds_and_latency_s: tuple[float, float]) -> list[tuple[int, int]]:
    return [(int(when * SECOND), int(after * SECOND)) for when, after in seconds_and_latency_s]


@pytest.mark.parametrize(
    ("requests", "dip", "p99_ms"),
    [
        ([(10.0, 0.1), (10.2, 0.1), (10.4, 0.1), (10.6, 0.1)], 0.0, 100),
        ([(10.0, 0.1), (10.2, 0.1), (10.4, 0.1), (10.6, 0.7)], 0.25, 700),  # one is answered later
        ([(10.0, 0.1), (10.2, 0.1), (10.4, 0.1), (10.6, -1e-9)], 0.25, 2000),  # one fails
        ([(10.0, 0.1), (10.2, 0.1), (10.4, 0), (10.6, 0)], 0.5, 2000),  # two are never answered
        ([(9.9, 0.5), (10.2, 0.1), (10.4, 0.1), (10.6, 0.1), (10.7, 0.9)], 0.0, 900),  # one late, one made up for
        ([(9.5, 0.1), (11.5, 0.1), (10.5, 0.1)], 0.0, 100),  # others do not count
    ],
)
def test_a_dip_is_what_was_due_in_the_second_and_was_not_answered_in_it(
    requests: list[tuple[float, float]], dip: float, p99_ms: float
) -> None:
    found = accounts.dip(due(*requests), 10 * SECOND)
    assert found == pytest.approx({"dip": dip, "loaded_p99_ms": p99_ms})


def test_without_requests_in_the_second_there_is_no_dip() -> None:
    assert accounts.dip(due((1.0, 0.1)), 10 * SECOND) == {}


def test_no_figure_is_infinite() -> None:
    """JSON has no word for it."""
    found: dict[str, Any] = accounts.dip(due((10.1, 0), (10.2, -1e-9)), 10 * SECOND)
    assert all(math.isfinite(value) for value in found.values())
