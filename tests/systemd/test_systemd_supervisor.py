"""The supervisor under a real systemd: killed, hanging, replaced by its next version; its workers serve all along."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from tests.systemd.service import Service, assert_nothing_lost


def workers(service: Service) -> list[int]:
    return [slot["pid"] for slot in service.newest()["slots"]]


@contextlib.contextmanager
def the_same_workers(service: Service) -> Iterator[None]:
    """Clients during the `with` notice nothing, the same processes serve them, and each request is counted once."""
    before, requests = workers(service), service.stats()["http.web.downstream_rq_total"]
    with service.load() as load:
        yield
        assert workers(service) == before
        counts = load.stop()
    assert_nothing_lost(counts, service)
    service.eventually(
        lambda: service.stats()["http.web.downstream_rq_total"] == requests + counts["requests"], "the last counts"
    )


def until_another_serves(service: Service, killed: int) -> None:
    service.eventually(lambda: service.pid not in (0, killed), "systemd to start it again")
    service.eventually(lambda: service.show("ActiveState") == "active", "it to serve")


def test_one_that_is_killed_is_replaced(service: Service) -> None:
    service.start()
    with the_same_workers(service):
        for _ in range(2):
            killed = service.pid
            service.kill(killed)
            until_another_serves(service, killed)
    assert service.show("NRestarts") == "2"
    service.reload()
    service.stop()
    assert service.processes() == [], "they are the next one's as they were the first one's"


def test_one_that_hangs_is_replaced_by_the_watchdog(service: Service) -> None:
    """The limit is shorter here, so that the test is."""
    service.drop_in("[Service]\nWatchdogSec=5\n")
    service.start()
    hangs = service.pid
    with the_same_workers(service):
        service.kill(hangs, "STOP")
        until_another_serves(service, hangs)
    service.logs("Watchdog timeout (limit 5s)!")


def test_its_own_code_is_replaced_in_the_same_process(service: Service) -> None:
    """systemd does not notice: the same pid, the same notifications, the same watchdog."""
    service.start()
    pid = service.pid
    with service.load() as load:
        service.kill(pid, "USR2")
        service.logs("re-attached to generation 2")
        service.eventually(lambda: service.show("ActiveState") == "active", "the restart to end")
        service.reload()
        counts = load.stop()
    assert_nothing_lost(counts, service)
    assert (service.pid, service.show("NRestarts")) == (pid, "0")


@pytest.mark.slow
def test_an_upgrade_is_a_reload(service: Service) -> None:
    """Of all that there is: the generation's code, and the supervisor's, which is replaced once that one serves."""
    (package,) = service.machine.root.glob("opt/hotproxy/lib/*/site-packages/hotproxy")
    source = package / "restarter" / "log.py"
    before = source.read_text()
    service.start()
    pid, old = service.pid, service.status()["supervisor"]["code"]
    with service.load() as load:
        try:
            source.write_text(f"{before}# of the next version\n")
            service.reload()
            service.eventually(lambda: service.status()["supervisor"]["code"] != old, "the supervisor to follow")
        finally:
            source.write_text(before)
        service.reload()
        service.eventually(lambda: service.status()["supervisor"]["code"] == old, "it to come back")
        counts = load.stop()
    assert_nothing_lost(counts, service)
    assert (service.pid, service.show("NRestarts"), service.show("ActiveState")) == (pid, "0", "active")
