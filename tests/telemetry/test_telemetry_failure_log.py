"""Lines about peers: no more than anybody wants to read."""

from __future__ import annotations

from hotproxy.telemetry.failure_log import LINES_A_SECOND, FailureLog
from tests.kit.clock import FakeClock


def test_a_flood_is_cut_and_counted() -> None:
    clock = FakeClock(1000.0)
    lines: list[str] = []
    log = FailureLog(lines.append, clock)
    for number in range(LINES_A_SECOND + 5):
        log.tell(f"line {number}")
    assert lines == [f"line {number}" for number in range(LINES_A_SECOND)]
    clock.advance(1.0)
    log.tell("the next")
    log.tell("and another")
    assert lines[LINES_A_SECOND:] == ["the next (5 others like it were not logged)", "and another"]
