"""A worker that has too few descriptors for what it is to take: what does not fit stays where it is, and drains."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit import clients, origin
from tests.kit.instance import eventually, instance
from tests.restart.test_restart_handoff import assert_gauges_zero, config, wishes
from tests.restart.test_restart_under_load import one_generation

# Four workers have room for the 100 clients' connections and the 100 to endpoints behind them; one has not.
DESCRIPTORS = 150


@pytest.fixture
def ports() -> Iterator[dict[str, int]]:
    with origin.echo_origin() as made:
        yield made


def test_what_a_worker_has_no_descriptors_for_stays_and_drains(short_path: Path, ports: dict[str, int]) -> None:
    with instance(short_path, config(ports, workers=4, more="drain_timeout: 60s")) as proxy:
        with clients.long_lived(**wishes(proxy, ports, websocket=50, tcp_pairs=50, pace_s=0.1)) as living:
            # Whom the supervisor starts from now on may have no more than that.
            supervisor, hard = proxy.pids()[0], resource.getrlimit(resource.RLIMIT_NOFILE)[1]
            resource.prlimit(supervisor, resource.RLIMIT_NOFILE, (DESCRIPTORS, hard))
            proxy.write(config(ports, workers=1, more="drain_timeout: 60s"))
            said = proxy.reload().stdout
            assert "drain" in said, said
            resource.prlimit(supervisor, resource.RLIMIT_NOFILE, (hard, hard))
            proxy.write(config(ports, workers=2, more="drain_timeout: 60s"))
            proxy.reload()
            counts = living.stop()
        assert counts["failures"] == {}, f"{counts}\n{proxy.log_text()}"
        eventually(lambda: one_generation(proxy), "the old generations to be gone")
        assert "were lost on the way (MSG_CTRUNC" in proxy.log_text(), proxy.log_text()
        assert_gauges_zero(proxy)
        stats = proxy.stats()
        assert stats["server.handoff_refused"] > 0
        assert stats["server.worker_crashes"] == stats["server.internal_errors"] == 0
