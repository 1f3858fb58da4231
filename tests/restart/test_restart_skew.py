"""C15: one release after another and back, under load, where their records of connections are not the same.

What a release can't read stays where it is and drains: clients are asked to go, and nobody is cut off.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.kit import clients, origin, releases
from tests.kit.installation import Installation
from tests.kit.instance import instance
from tests.restart.test_restart_handoff import assert_gauges_zero, config, wishes

KINDS = {"keepalive": 20, "websocket": 10, "tcp_pairs": 10, "streams": 2, "uploads": 2, "pace_s": 0.1}
ALL = 44
ASKED_TO_GO = "keepalive: Connection: close"


@pytest.fixture
def ports() -> Iterator[dict[str, int]]:
    with origin.echo_origin() as made:
        yield made


@pytest.fixture
def installation(short_path: Path) -> Installation:
    return Installation(short_path / "venv")


@pytest.mark.parametrize(
    ("forge", "moves_up", "why"),
    [
        pytest.param(releases.later, True, "a record of kind 'http1', version 3", id="a later release"),
        pytest.param(
            releases.careless, False, "a record of kind 'http1', version 2", id="one that forgot",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            releases.reshaped, False, "another shape, though its version is 2", id="the same version",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            releases.earlier, False, "a record of kind 'http1', version 0", id="an earlier release",
            marks=pytest.mark.slow,
        ),
    ],
)  # fmt: skip
def test_there_and_back_again(
    short_path: Path,
    ports: dict[str, int],
    installation: Installation,
    forge: Callable[[Installation], None],
    moves_up: bool,
    why: str,
) -> None:
    with instance(short_path, config(ports, more="drain_timeout: 60s"), python=installation.python) as proxy:
        with (
            clients.load(proxy.port("web"), new_rate=100) as load,
            clients.long_lived(**wishes(proxy, ports, **KINDS)) as first,
        ):
            forge(installation)
            proxy.reload()
            last = proxy.status()["last_restart"]
            assert (last["moved"], last["refused"]) >= (ALL, 0) if moves_up else last["refused"] >= ALL > last["moved"]
            with clients.long_lived(**wishes(proxy, ports, **KINDS)) as second:
                installation.restore()
                proxy.reload()
                last = proxy.status()["last_restart"]
                assert last["refused"] >= ALL > last["moved"]
                seen = [second.stop(), first.stop()]
            new = load.stop()
        assert new["failures"] == {} and new["ok"] == new["requests"] > 0, f"{new}\n{proxy.log_text()}"
        for counts in seen:
            assert set(counts["failures"]) <= {ASKED_TO_GO}, f"{counts}\n{proxy.log_text()}"
        assert why in proxy.log_text()
        assert_gauges_zero(proxy)
        stats = proxy.stats()
        assert stats["server.internal_errors"] == stats["server.worker_crashes"] == 0
        assert stats["http.web.downstream_rq_total"] == new["requests"] + sum(counts["requests"] for counts in seen)


def test_releases_that_move_otherwise_move_nothing(
    short_path: Path, ports: dict[str, int], installation: Installation
) -> None:
    with instance(short_path, config(ports, more="drain_timeout: 60s"), python=installation.python) as proxy:
        with (
            clients.load(proxy.port("web"), new_rate=100) as load,
            clients.long_lived(**wishes(proxy, ports, **KINDS)) as first,
        ):
            releases.other_handoff(installation)
            proxy.reload()
            with clients.long_lived(**wishes(proxy, ports, **KINDS)) as second:
                installation.restore()
                assert "moved" not in proxy.reload().stdout
                seen = [second.stop(), first.stop()]
            new = load.stop()
        assert new["failures"] == {} and new["ok"] == new["requests"] > 0, f"{new}\n{proxy.log_text()}"
        for counts in seen:
            assert set(counts["failures"]) <= {ASKED_TO_GO}, f"{counts}\n{proxy.log_text()}"
        assert_gauges_zero(proxy)
        stats = proxy.stats()
        assert stats["server.handoff_moved"] == stats["server.handoff_refused"] == 0
        assert stats["http.web.downstream_rq_total"] == new["requests"] + sum(counts["requests"] for counts in seen)
