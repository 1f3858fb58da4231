"""The table of a soak: what is counted fails it, what is measured is only shown, and everything is in it."""

from __future__ import annotations

import pytest

from bench.soak import __main__ as soak
from bench.soak.figures import Figure, at_most, none, table


def test_only_what_is_counted_fails() -> None:
    assert not none("C1", "failed", {}, "9").fails
    assert none("C1", "failed", {"EOF": 2}, "9").fails
    assert none("C3", "moved less", -1).fails
    late = at_most("C4", "stall", 120.0, 100, "ms", 80.0)
    assert not late.met and not late.fails


def test_the_table_shows_each_figure_beside_its_bar() -> None:
    figures = [
        none("C1", "failed", {"EOF": 2}, "9"),
        at_most("C4", "stall", 120.0, 100, "ms", 80.0),
        none("C18", "no answer", 0, "100"),
    ]
    assert table(figures) == (
        "claim  what       figure           bar        met     machine\n"
        "-----  ---------  ---------------  ---------  ------  -------\n"
        "C1     failed     {'EOF': 2} of 9  0          MISSED\n"
        "C4     stall      120 ms           <= 100 ms  no      80 ms\n"
        "C18    no answer  0 of 100         0          yes"
    )


@pytest.mark.parametrize(("met", "code"), [(True, 0), (False, 1)])
def test_a_missed_bar_is_the_exit_code(
    met: bool, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(soak, "PARTS", {"one": lambda directory, share: [Figure("C1", "x", "1", "1", met)]})
    monkeypatch.setattr("sys.argv", ["soak", "one"])
    assert soak.main() == code
    assert capsys.readouterr().out.count("C1     x") == 2, "its part's, and in the table of all"
