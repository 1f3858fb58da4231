"""hotproxy.socket: systemd listens, so clients wait where they would be refused, and hotproxy accepts on its socket."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.systemd.service import CONFIG, PORT, Service, assert_nothing_lost

SOCKET = "hotproxy.socket"
URL = f"http://127.0.0.1:{PORT}/"


@pytest.fixture
def activated(service: Service) -> Iterator[Service]:
    """The socket unit listens where the config does; the service is not started."""
    service.drop_in(f"[Socket]\nListenStream=\nListenStream=127.0.0.1:{PORT}\n", SOCKET)
    service.machine.must("systemctl", "start", SOCKET)
    yield service
    service.machine.must("systemctl", "stop", SOCKET)
    service.machine.run("systemctl", "reset-failed", SOCKET)
    service.machine.must("rm", "-r", f"/run/systemd/system/{SOCKET}.d")


def test_the_unit_as_it_is_listens_on_port_80_of_both_families(service: Service, origin: str) -> None:
    service.configure(CONFIG.format(origin=origin).replace(f"127.0.0.1:{PORT}", ":80"))
    service.machine.must("systemctl", "start", SOCKET)
    try:
        for host in ("127.0.0.1", "[::1]"):
            assert service.curl(f"http://{host}/").returncode == 0
        assert service.command("listeners").stdout.split()[:2] == ["web:", "[::]:80"]
    finally:
        service.machine.must("systemctl", "stop", SOCKET)


def test_a_unix_socket_of_systemds_keeps_its_mode_and_its_file(service: Service, origin: str) -> None:
    path = "/run/web.sock"
    service.configure(CONFIG.format(origin=origin).replace(f"127.0.0.1:{PORT}", f"unix:{path}"))
    service.drop_in(f"[Socket]\nListenStream=\nListenStream={path}\nSocketMode=0606\n", SOCKET)
    service.machine.must("systemctl", "start", SOCKET)
    try:
        for _ in range(2):
            assert service.curl("http://web/", "--unix-socket", path).returncode == 0
            service.stop()
            assert service.machine.must("stat", "-c", "%F %a %U", path).strip() == "socket 606 root"
    finally:
        service.machine.must("systemctl", "stop", SOCKET)
        service.machine.must("rm", "-r", f"/run/systemd/system/{SOCKET}.d")


def test_the_first_client_starts_the_service_and_is_served(activated: Service) -> None:
    assert activated.show("ActiveState") == "inactive"
    assert activated.curl(URL).returncode == 0
    activated.eventually(lambda: activated.show("ActiveState") == "active", "it to be started")
    assert activated.command("listeners").stdout.split()[:2] == ["web:", f"127.0.0.1:{PORT}"]


def test_a_restart_of_the_service_refuses_nobody(activated: Service) -> None:
    activated.start()
    before = activated.pid
    with activated.load(keepalive=0) as load:
        for _ in range(2):
            assert activated.systemctl("restart").returncode == 0, activated.journal()
        counts = load.stop()
    assert_nothing_lost(counts, activated)
    assert activated.pid != before


@pytest.mark.slow
def test_a_reload_loses_nothing(activated: Service) -> None:
    activated.start()
    before = activated.pid
    with activated.load() as load:
        for _ in range(2):
            activated.reload()
        counts = load.stop()
    assert_nothing_lost(counts, activated)
    assert activated.pid == before


def test_who_comes_after_a_stop_starts_it_again(activated: Service) -> None:
    activated.start()
    activated.stop()
    assert activated.processes() == []
    assert activated.curl(URL).returncode == 0
    activated.eventually(lambda: activated.show("ActiveState") == "active", "it to be started")


@pytest.mark.slow
@pytest.mark.parametrize("non_blocking", ["yes", "no"])
def test_a_killed_supervisor_leaves_the_socket_to_the_next_one(activated: Service, non_blocking: str) -> None:
    """With "no" systemd makes the socket blocking when it starts the next one; its workers accept on it all along."""
    activated.drop_in(f"[Service]\nNonBlocking={non_blocking}\n")
    activated.start()
    before = activated.pid
    with activated.load() as load:
        activated.kill(before)
        activated.eventually(lambda: activated.pid not in (0, before), "systemd to start it again")
        activated.eventually(lambda: activated.show("ActiveState") == "active", "it to serve")
        counts = load.stop()
    assert_nothing_lost(counts, activated)


def test_a_socket_that_no_listener_has_is_refused_at_a_reload_and_at_a_start(activated: Service, origin: str) -> None:
    activated.start()
    elsewhere = CONFIG.format(origin=origin).replace(str(PORT), str(PORT + 1))
    why = f"systemd listens on web 127.0.0.1:{PORT}, and no listener has this address"
    activated.configure(elsewhere)
    assert activated.systemctl("reload").returncode != 0
    assert why in activated.show("StatusText")
    assert activated.curl(URL).returncode == 0, "it is served as before"
    activated.drop_in("[Service]\nRestart=no\n")
    activated.stop()
    assert activated.systemctl("start").returncode != 0
    activated.logs(why, priority=3)


@pytest.mark.slow
def test_a_supervisor_that_replaced_its_code_still_knows_whose_the_socket_is(activated: Service) -> None:
    """Shut down at a stop, it would be dead for systemd too, and for whoever is started next."""
    activated.start()
    pid = activated.pid
    with activated.load() as load:
        activated.kill(pid, "USR2")
        activated.logs("re-attached to generation")
        activated.eventually(lambda: activated.show("ActiveState") == "active", "the restart to end")
        counts = load.stop()
    assert_nothing_lost(counts, activated)
    assert activated.pid == pid
    activated.stop()
    assert activated.curl(URL).returncode == 0
