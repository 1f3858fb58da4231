"""When an exchange began: ISO 8601, Envoy's own specifiers, strftime's, and no others."""

from __future__ import annotations

import pytest

from hotproxy.telemetry.log_time import StartTime
from hotproxy.telemetry.stream_info import StreamInfo

WALL_S = 1460751420.310  # 2016-04-15T20:17:00.310Z


@pytest.mark.parametrize(
    ("form", "text"),
    [
        ("%Y/%m/%dT%H:%M:%S%z %s", "2016/04/15T20:17:00+0000 1460751420"),
        ("%s.%3f", "1460751420.310"),
        ("%s.%6f %1f %f %9f", "1460751420.310000 3 310000000 310000000"),
        ("%3f%3f", "310310"),
        ("%%s %%3f %%", "%s %3f %"),
        ("%Ey %b no specifier", "16 Apr no specifier"),
    ],
)
def test_forms(form: str, text: str) -> None:
    assert StartTime(form).text(StreamInfo(WALL_S)) == text


@pytest.mark.parametrize("form", ["%n", "%Q", "%", "%H:%", "%0f", "%10f", "%E"])
def test_a_form_strftime_does_not_know_is_refused(form: str) -> None:
    with pytest.raises(ValueError, match="is not a time specifier"):
        StartTime(form)


def test_the_second_is_made_once_and_renewed() -> None:
    start_time = StartTime()
    assert [start_time.text(StreamInfo(wall)) for wall in (0.0, 59.9994, 59.9999996, 0.001)] == [
        "1970-01-01T00:00:00.000Z",
        "1970-01-01T00:00:59.999Z",
        "1970-01-01T00:01:00.000Z",
        "1970-01-01T00:00:00.001Z",
    ]


def test_the_time_is_utc_wherever_the_machine_is(monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        assert StartTime("%H %s").text(StreamInfo(WALL_S)) == "20 1460751420"
        assert StartTime().json(StreamInfo(WALL_S)) == '"2016-04-15T20:17:00.310Z"'
    finally:
        monkeypatch.undo()
        time.tzset()
