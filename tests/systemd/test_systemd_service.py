"""hotproxy.service under a real systemd: what `systemctl` promises is so, and clients notice nothing of it."""

from __future__ import annotations

from tests.kit.instance import eventually
from tests.systemd.service import PORT, Service, assert_nothing_lost


def test_start_returns_when_it_serves(service: Service) -> None:
    service.start()
    assert service.curl(f"http://127.0.0.1:{PORT}/").returncode == 0, "not later than that"
    assert service.show("ActiveState") == "active"
    assert service.show("StatusText").startswith("generation 1 ok in ")
    assert service.show("NRestarts") == "0"
