"""The report of restarts: what is added up, what is a median, and what is said about both."""

from __future__ import annotations

import json
from typing import Any

from bench.restart import report
from bench.restart.fleet import KINDS, NEW
from bench.restart.plan import Plan
from bench.restart.systems.system import Place, System


class Known(System):
    setting = "defaults"

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__("1.0")

    def prepare(self, place: Place) -> list[str]:
        raise AssertionError("a report starts nobody")

    def order(self) -> None:
        raise AssertionError("and restarts nobody")

    def counted(self) -> int | None:
        return None


def figures(**some: float) -> dict[str, float]:
    """One trial of three restarts, in which nothing was lost but `some`."""
    found = dict.fromkeys((*report.COUNTED, *report.MEASURED), 0.0)
    return found | {"restarts": 3, "requests": 1000, "open": 200, "gone_s": 0.5} | some


def made(rounds: list[dict[str, dict[str, float]]], failures: tuple[str, ...] = ()) -> dict[str, Any]:
    about: dict[str, Any] = {"versions": {"a": "1.0"}, "command": "make bench-restart", "cpu": "a CPU", "cpus": 2}
    about |= {"kernel": "6", "python": "3", "date": "today", "load_before": 0, "load_after": 0, "other_cpus": 0}
    titles = dict.fromkeys(title for each in rounds for title in each)
    systems = [Known(title.partition(",")[0]) for title in titles]
    return report.document(systems, rounds, failures, Plan(), about)


def rows(text: str, title: str) -> list[list[str]]:
    """One in each table."""
    lines = [line for line in text.splitlines() if line.startswith(f"| {title} |")]
    return [[cell.strip() for cell in line.strip("|").split("|")][1:] for line in lines]


def test_losses_are_added_up_over_the_rounds_and_times_are_medians() -> None:
    """One cut connection in three rounds is one too many, and no median shows it."""
    trials = [figures(cut=1, worst_ms=10), figures(worst_ms=90), figures(worst_ms=20)]
    found = report.summary([{"a": each} for each in trials], "a")
    assert (found["cut"], found["held"], found["restarts"], found["worst_ms"], found["rounds"]) == (1, 1800, 9, 20, 3)


def test_a_round_without_it_does_not_count() -> None:
    found = report.summary([{"a": figures(failed=2)}, {}], "a")
    assert (found["rounds"], found["restarts"], found["failed"]) == (1, 3, 2)
    assert report.summary([{}], "a") == {"rounds": 0}


def test_what_was_not_measured_is_a_dash_and_no_zero() -> None:
    trial = figures()
    for key in ("counters_lost", "dip", "loaded_p99_ms", "loaded_failed", "gone_s"):
        del trial[key]
    cells = report.cells(report.summary([{"a": trial}], "a"), 60)
    assert [cells[key] for key in ("counters", "dip", "loaded", "gone")] == ["–"] * 4


def test_the_table_has_a_row_for_each_system() -> None:
    loser = figures(cut=594, failed=40, gone_s=60, counters_lost=700, restarts_refused=1, dip=0.25, worst_ms=12.4)
    text = report.markdown(made([{"a, defaults": figures(), "b, defaults": loser}]))
    lost, kinds, cost = rows(text, "a, defaults")
    assert lost == ["3", "0 of 600", "0 of 1,000", "0", "0", "0.5 s"]
    assert kinds == ["0"] * 8
    lost, _, cost = rows(text, "b, defaults")
    assert lost == ["3, 1 refused", "594 of 600", "40 of 1,000", "0", "700", "> 60 s"]
    assert cost == ["0.0, 0.0 ms", "12 ms", "0 ms", "25.0%", "0 ms", "0, 0 MiB"]


def test_kinds_are_for_one_restart() -> None:
    kinds = {f"cut_{kind}": 3.0 for kind in KINDS if kind != NEW}
    text = "\n".join(report.kinds({"a": report.summary([{"a": figures(**kinds, sent_away=6)}], "a")}))
    assert rows(text, "a") == [["1.0"] * 6 + ["0", "2.0"]]


def test_equals_are_named_and_so_are_those_that_are_not() -> None:
    text = report.markdown(made([{"a, defaults": figures(), "b, defaults": figures(failed_new=2, gone_s=60)}]))
    assert "No request on a new connection failed: a, defaults. Otherwise: b, defaults 2." in text
    assert "No byte and no status was wrong: everybody." in text
    assert "later than anybody looked: b, defaults." in text


def test_nobody_is_praised_for_what_was_not_measured() -> None:
    trial = figures()
    del trial["counters_lost"]
    alone = {"a": report.summary([{"a": trial}], "a")}
    assert not any("counters" in sentence for sentence in report.remarks(alone, {"cap_s": 60}))
    both = report.remarks(alone | {"b": {"counters_lost": 0}}, {"cap_s": 60})
    assert "No request was forgotten by the counters: b." in both


def test_whoever_was_left_out_is_told() -> None:
    text = report.markdown(made([{"a, defaults": figures()}], ("b, round 1: left out: no restart succeeded",)))
    assert "* b, round 1: left out: no restart succeeded" in text


def test_everything_is_in_the_json() -> None:
    document = made([{"a, defaults": figures(cut=5)}])
    assert json.loads(json.dumps(document))["measured"][0]["a, defaults"]["cut"] == 5
