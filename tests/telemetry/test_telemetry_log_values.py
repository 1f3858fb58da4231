"""Values out of the record: parts of addresses, durations that were or were not measured."""

from __future__ import annotations

import pytest

from hotproxy.telemetry import log_values
from hotproxy.telemetry.log_values import ABSENT, HostOf, PortOf
from hotproxy.telemetry.stream_info import StreamInfo


@pytest.mark.parametrize(
    ("address", "host", "port"),
    [
        ("10.0.0.1:80", "10.0.0.1", 80),
        ("[::1]:8080", "::1", 8080),
        ("/run/app:80", "/run/app:80", ABSENT),
        ("@abstract", "@abstract", ABSENT),
        ("", "", ABSENT),
    ],
)
def test_host_and_port_of_an_address(address: str, host: str, port: int) -> None:
    info = StreamInfo()
    info.upstream_remote = address
    assert HostOf(log_values.upstream_remote).get(info) == host
    assert PortOf(log_values.upstream_remote).get(info) == port


@pytest.mark.parametrize(
    ("start_s", "end_s", "duration_ms"),
    [(1.0, 0.0, ABSENT), (0.02, 0.03, 10), (100.0, 100.0009, 0), (100.0, 100.0059, 5), (5.0, 4.0, 0)],
)
def test_durations_are_whole_milliseconds(start_s: float, end_s: float, duration_ms: int) -> None:
    info = StreamInfo(0.0, start_s)
    info.end_s = end_s
    assert log_values.duration_ms(info) == duration_ms
