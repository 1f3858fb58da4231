"""hotproxy.service under a real systemd: what `systemctl` says is so, and clients notice nothing of it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.systemd.service import CONFIG, PORT, Service, assert_nothing_lost, assert_only_the_crashed_ones_lost

DOCS = Path(__file__).parents[2] / "docs"
URL = f"http://127.0.0.1:{PORT}/"


@contextlib.contextmanager
def nothing_lost(service: Service) -> Iterator[None]:
    """Clients of both kinds during the `with`; none of them has noticed anything."""
    with service.load() as load:
        yield
        counts = load.stop()
    assert_nothing_lost(counts, service)


def test_start_returns_when_it_serves(service: Service) -> None:
    service.start()
    assert service.curl(URL).returncode == 0, "not later than that"
    assert service.show("ActiveState") == "active"
    assert service.show("StatusText").startswith("generation 1 ok in ")


def test_start_fails_with_a_config_that_is_wrong(service: Service) -> None:
    service.drop_in("[Service]\nRestart=no\n")
    service.configure("listeners: []\nclutsers: []\n")
    done = service.systemctl("start")
    assert done.returncode != 0
    service.logs("unknown field 'clutsers'", priority=3)
    assert service.processes() == []


@pytest.mark.slow
def test_a_start_may_fall_back_on_the_last_good_config(service: Service) -> None:
    """The drop-in of docs/systemd.md."""
    drop_in = (DOCS / "systemd.md").read_text().partition("d/fallback.conf\n")[2].partition("```")[0]
    assert "--fallback-last-good" in drop_in
    service.drop_in(drop_in)
    service.start()
    kept = service.machine.root / "var/lib/hotproxy/default.last-good.yaml"
    service.eventually(kept.exists, "the config to be kept")
    service.stop()
    service.configure("listeners: []\nclutsers: []\n")
    service.start()
    assert service.curl(URL).returncode == 0
    assert "unknown field 'clutsers'" in service.status()["config_fallback"]
    assert "BROKEN, the last good one runs" in service.show("StatusText")
    service.logs("unknown field 'clutsers'", priority=3)


def test_reload_returns_when_the_new_config_serves(service: Service, origin: str) -> None:
    service.start()
    pid = service.pid
    with nothing_lost(service):
        for number in range(3):
            port = PORT + 1 + number
            more = f"  - {{name: more, address: '127.0.0.1:{port}', cluster: origin}}\nclusters:"
            service.configure(CONFIG.format(origin=origin).replace("clusters:", more))
            service.reload()
            assert service.curl(f"http://127.0.0.1:{port}/").returncode == 0
            assert f"generation {number + 1} -> {number + 2} ok in " in service.show("StatusText")
            assert service.show("ActiveState") == "active"
    assert (service.pid, service.show("NRestarts")) == (pid, "0")


def test_a_reload_that_is_refused_fails_says_why_and_changes_nothing(service: Service, origin: str) -> None:
    service.start()
    pid = service.pid
    with nothing_lost(service):
        service.configure(CONFIG.format(origin=origin) + "clutsers: []\n")
        done = service.systemctl("reload")
        assert done.returncode != 0
        told = service.systemctl("status", "--no-pager", "-l").stdout
        assert "Active: active (running)" in told
        assert "Status: \"reload refused: error: unknown field 'clutsers'" in told
        service.logs("did you mean 'clusters'?", priority=3)
        service.configure(CONFIG.format(origin=origin))
        service.reload()
    assert (service.pid, service.show("NRestarts")) == (pid, "0")


def test_a_hangup_of_every_process_is_a_reload(service: Service) -> None:
    """`systemctl kill` means all of them; only the supervisor listens to signals."""
    service.start()
    pid = service.pid
    with nothing_lost(service):
        assert service.systemctl("kill", "--signal=HUP").returncode == 0
        service.eventually(lambda: "generation 1 -> 2 ok" in service.show("StatusText"), "the reload")
    assert (service.pid, service.show("ActiveState")) == (pid, "active")


@pytest.mark.slow
def test_a_systemd_that_is_replaced_itself_goes_on_with_it(service: Service) -> None:
    """As an upgrade of systemd does. It tells the service nothing of this, and expects its notifications at once."""
    service.start()
    pid = service.pid
    with nothing_lost(service):
        service.machine.must("systemctl", "daemon-reexec")
        service.reload()
        service.machine.must("systemctl", "restart", "systemd-journald")
        service.reload()
        service.logs("generation 2 -> 3 ok")
    assert (service.pid, service.show("NRestarts")) == (pid, "0")


def test_a_killed_worker_is_replaced_within_the_unit(service: Service) -> None:
    service.start()
    pid, killed = service.pid, service.newest()["slots"][0]["pid"]
    with service.load() as load:
        service.kill(killed)
        service.eventually(lambda: service.stats()["server.worker_crashes"] == 1, "the crash to be counted")
        service.eventually(lambda: killed not in [slot["pid"] for slot in service.newest()["slots"]], "a new worker")
        counts = load.stop()
    assert_only_the_crashed_ones_lost(counts, service)
    assert (service.pid, service.show("NRestarts"), service.show("ActiveState")) == (pid, "0", "active")


def test_a_killed_control_process_is_replaced_and_nobody_notices(service: Service) -> None:
    service.start()
    pid, killed = service.pid, service.newest()["control"]["pid"]
    with nothing_lost(service):
        service.kill(killed)
        service.eventually(lambda: service.newest()["control"]["pid"] not in (killed, None, 0), "a new one")
    assert (service.pid, service.show("NRestarts")) == (pid, "0")


def test_a_killed_zygote_is_replaced_and_nobody_notices(service: Service) -> None:
    service.start()
    pid, killed = service.pid, service.newest()["pid"]
    with nothing_lost(service):
        service.kill(killed)
        service.eventually(
            lambda: service.newest()["pid"] != killed and service.newest()["state"] == "active", "a new one"
        )
    assert (service.pid, service.show("NRestarts")) == (pid, "0")


def test_stop_leaves_nothing_but_the_numbers(service: Service) -> None:
    service.start()
    for _ in range(10):
        assert service.curl(URL).returncode == 0
    service.machine.write("/run/hotproxy/default/admin.sock.99", "of a supervisor that was killed")
    service.stop()
    assert (service.show("Result"), service.show("ActiveState")) == ("success", "inactive")
    assert service.processes() == []
    assert service.machine.run("pgrep", "-u", "hotproxy").stdout == ""
    assert service.machine.must("find", "/run/hotproxy/default", "!", "-type", "d") == "", "no socket, no lock"
    assert "Failed to connect" in service.curl(URL).stderr
    left = [name for name in service.machine.must("ls", "/dev/shm").split() if name.startswith("hotproxy.default.")]
    assert len(left) == 1
    assert service.stats()["http.web.downstream_rq_total"] == 10, "readable with every process gone"
    service.start()
    assert service.stats()["http.web.downstream_rq_total"] == 0, "and begun anew"


@pytest.mark.slow
def test_stop_lets_requests_end(service: Service) -> None:
    service.start()
    with service.load(new_rate=0, keepalive=20) as load:
        service.stop()
        counts = load.process
        assert counts.poll() is None
        ended = load.stop()
    answered = {what: count for what, count in ended["failures"].items() if "connect" not in what}
    assert answered == {}, f"whoever asked was answered: {ended}"


def test_a_port_below_1024_is_bound_and_only_the_supervisor_may(service: Service, origin: str) -> None:
    service.configure(CONFIG.format(origin=origin).replace(f"127.0.0.1:{PORT}", "0.0.0.0:443"))
    service.start()
    assert service.curl("http://127.0.0.1:443/").returncode == 0
    newest = service.newest()
    everybody = {service.pid, newest["pid"], newest["control"]["pid"], *(slot["pid"] for slot in newest["slots"])}
    assert everybody == set(service.processes()) and len(everybody) == 5
    capabilities = {pid: capabilities_of(service, pid) for pid in everybody}
    bind_service = "0000000000000400"  # CAP_NET_BIND_SERVICE is number 10
    nothing = {"CapBnd": bind_service, **dict.fromkeys(("CapInh", "CapPrm", "CapEff", "CapAmb"), "0" * 16)}
    assert capabilities.pop(service.pid) == dict.fromkeys(nothing, bind_service)
    # The bounding set can't be made smaller without CAP_SETPCAP; with no_new_privs no exec can give what it allows.
    assert all(each == nothing for each in capabilities.values()), capabilities
    assert {service.machine.must("grep", "NoNewPrivs", f"/proc/{pid}/status").split()[1] for pid in everybody} == {"1"}
    uids = {service.machine.must("stat", "-c", "%U", f"/proc/{pid}").strip() for pid in everybody}
    assert uids == {"hotproxy"}


def capabilities_of(service: Service, pid: int) -> dict[str, str]:
    lines = service.machine.must("cat", f"/proc/{pid}/status").splitlines()
    return {line.split(":")[0]: line.split()[1] for line in lines if line.startswith("Cap")}


def test_the_journal_has_priorities(service: Service, origin: str) -> None:
    log = "cluster: origin\n    access_log: {path: /dev/stdout}"
    service.configure(CONFIG.format(origin=origin).replace("cluster: origin", log, 1))
    service.start()
    assert service.curl(f"{URL}some/path").returncode == 0
    service.logs("GET /some/path")
    service.configure("listeners: []\nclutsers: []\n")
    assert service.systemctl("reload").returncode != 0
    service.kill(service.newest()["slots"][0]["pid"])
    service.eventually(lambda: service.stats()["server.worker_crashes"] == 1, "the crash to be counted")
    found = {entry["MESSAGE"]: int(entry["PRIORITY"]) for entry in service.entries() if "MESSAGE" in entry}
    assert not [message for message in found if message.startswith("<")], "no prefix is left in a line"
    assert {level for message, level in found.items() if "start: generation 1 ok" in message} == {5}
    assert {level for message, level in found.items() if "GET /some/path" in message} == {6}
    assert {level for message, level in found.items() if "restart refused" in message} == {3}
    assert {level for message, level in found.items() if "unknown field 'clutsers'" in message} == {3}


@pytest.mark.slow
def test_rotated_logs_are_opened_anew(service: Service, origin: str) -> None:
    log = "/var/log/hotproxy/access.log"
    service.configure(
        CONFIG.format(origin=origin).replace("cluster: origin", f"cluster: origin\n    access_log: {{path: {log}}}", 1)
    )
    service.start()
    with nothing_lost(service):
        service.eventually(lambda: service.machine.must("cat", log), "something to rotate")
        service.machine.must("logrotate", "--force", "/etc/logrotate.d/hotproxy")
        service.curl(URL, "-A", "after-rotation")
        service.eventually(lambda: "after-rotation" in service.machine.must("cat", log), "the new file to be written")
    assert service.machine.must("stat", "-c", "%U %a", log).split() == ["hotproxy", "640"]
    assert service.machine.must("cat", f"{log}.1") != ""
