"""hotproxy@.service: several instances on one machine, and none of them disturbs another."""

from __future__ import annotations

import contextlib

import pytest

from tests.systemd.machine import Machine
from tests.systemd.service import CONFIG, PORT, Service, assert_nothing_lost


@pytest.mark.slow
def test_two_instances_live_and_end_apart(machine: Machine, origin: str) -> None:
    with contextlib.ExitStack() as stack:
        first, second = Service(machine, "hotproxy@a"), Service(machine, "hotproxy@b")
        for service, port in ((first, PORT), (second, PORT + 1)):
            service.configure(CONFIG.format(origin=origin).replace(str(PORT), str(port)))
            stack.callback(service.end)
            service.start()
        with second.load(PORT + 1) as load:
            first.reload()
            first.kill(first.newest()["pid"])
            first.stop()
            assert first.processes() == []
            assert second.curl(f"http://127.0.0.1:{PORT + 1}/").returncode == 0
            first.start()
            counts = load.stop()
        assert_nothing_lost(counts, second)
        assert second.stats()["http.web.downstream_rq_total"] == counts["requests"] + 1
        assert first.stats()["http.web.downstream_rq_total"] == 0


def test_the_port_of_another_instance_is_refused_and_that_one_named(machine: Machine, origin: str) -> None:
    with contextlib.ExitStack() as stack:
        first, second = Service(machine, "hotproxy@a"), Service(machine, "hotproxy@b")
        for service in (first, second):
            service.configure(CONFIG.format(origin=origin))
            stack.callback(service.end)
        first.start()
        second.drop_in("[Service]\nRestart=no\n")
        assert second.systemctl("start").returncode != 0
        second.logs(f"address in use by hotproxy (pid {first.pid})", priority=3)
        assert first.curl(f"http://127.0.0.1:{PORT}/").returncode == 0
