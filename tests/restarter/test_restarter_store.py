"""systemd's descriptor store: what listens is there, and comes back to the next start with its queue."""

from __future__ import annotations

import array
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hotproxy.restarter.hello import WantedAddress
from hotproxy.restarter.sockets import SocketTable
from hotproxy.restarter.store import MAX_NAME, Store
from hotproxy.restarter.systemd import Notifier
from tests.kit.plane import PATIENCE_S, STAND_IN, Dialled, Plane
from tests.restarter.test_restarter_sockets import hello, tcp, unix


class Systemd:
    """Its end of $NOTIFY_SOCKET: keeps what it is told to, by name."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "n"
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.sock.bind(str(self.path))
        self.sock.setblocking(False)
        self.stored: dict[str, int] = {}

    @property
    def environment(self) -> dict[str, str]:
        return {"NOTIFY_SOCKET": str(self.path), "FDSTORE": "100"}

    def hear(self) -> None:
        """All that was said."""
        while True:
            try:
                data, ancillary, _, _ = self.sock.recvmsg(4096, 1000, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            said = dict(line.split("=", 1) for line in data.decode().split("\n"))
            fds = array.array("i", ancillary[0][2] if ancillary else b"")
            if "FDSTORE" in said:
                self.stored[said["FDNAME"]] = fds[0]
            elif "FDSTOREREMOVE" in said:
                os.close(self.stored.pop(said["FDNAME"]))

    def copies(self) -> list[tuple[str, int]]:
        """As they are passed to a new process."""
        return [(name, os.dup(fd)) for name, fd in self.stored.items()]

    def close(self) -> None:
        self.sock.close()
        for fd in self.stored.values():
            os.close(fd)


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[Systemd]:
    made = Systemd(tmp_path)
    yield made
    made.close()


def table_and_store(systemd: Systemd, **environment: str) -> tuple[SocketTable, Store]:
    said = {**systemd.environment, **environment}
    store = Store(Notifier(said), said)
    return SocketTable(lambda pid: False, store.remove), store


def test_what_listens_is_stored_and_taken_with_its_queue(systemd: Systemd, tmp_path: Path) -> None:
    table, store = table_and_store(systemd)
    wanted = hello(2, a=tcp("127.0.0.1", 0), u=unix(str(tmp_path / "ü :%41")))
    lease = table.acquire(wanted)
    store.add(table.all())
    systemd.hear()
    assert systemd.stored == {}, "none of them listens"
    for owned in lease.sockets:
        owned.sock.listen()
    store.add(table.all())
    store.add(table.all())
    systemd.hear()
    assert len(systemd.stored) == 3
    assert not any(":" in name or not name.isascii() or not name.isprintable() for name in systemd.stored)
    port = lease.sockets[0].sock.getsockname()[1]
    with socket.create_connection(("127.0.0.1", port)) as waits:
        store.keeps = True
        table.close()  # and everybody dies
        again, second = table_and_store(systemd)
        second.take(again, systemd.copies())
        taken = again.acquire(wanted)
        assert taken.created == [], "nothing is bound anew"
        assert {each.slot for each in taken.sockets if each.path is None} == {0, 1}
        assert taken.sockets[0].sock.getsockname()[1] == port
        readable, _, _ = select.select([each.sock for each in taken.sockets if each.path is None], [], [], PATIENCE_S)
        accepted, address = readable[0].accept()
        assert address == waits.getsockname()
        accepted.close()
    for owned in again.all():
        again.shut(owned)
    systemd.hear()
    assert systemd.stored == {}
    assert not (tmp_path / "ü :%41").exists()


def test_what_nobody_can_be_served_on_is_taken_out(systemd: Systemd, tmp_path: Path) -> None:
    table, store = table_and_store(systemd)
    lease = table.acquire(hello(1, a=tcp("127.0.0.1", 0), u=unix(str(tmp_path / "s"))))
    for owned in lease.sockets:
        owned.sock.listen()
    store.add(table.all())
    systemd.hear()
    lease.sockets[0].sock.shutdown(socket.SHUT_RDWR)
    (tmp_path / "s").unlink()
    again, second = table_and_store(systemd)
    broken = os.open(os.devnull, os.O_RDONLY)
    second.take(again, [*systemd.copies(), ("hotproxy/nonsense", broken)])
    assert len(again) == 0
    systemd.stored["hotproxy/nonsense"] = os.dup(0)
    systemd.hear()
    assert systemd.stored == {}
    table.close()


def test_no_more_than_it_has_room_for(systemd: Systemd) -> None:
    table, store = table_and_store(systemd, FDSTORE="1")
    for owned in table.acquire(hello(3, a=tcp("127.0.0.1", 0))).sockets:
        owned.sock.listen()
    store.add(table.all())
    systemd.hear()
    assert len(systemd.stored) == 1
    assert [owned.stored for owned in table.all()].count(True) == 1
    table.close()


@pytest.mark.parametrize("environment", [{"FDSTORE": ""}, {"FDSTORE": "0"}, {"FDSTORE": "many"}, {"NOTIFY_SOCKET": ""}])
def test_without_a_store_nothing_is_said(systemd: Systemd, environment: dict[str, str]) -> None:
    table, store = table_and_store(systemd, **environment)
    for owned in table.acquire(hello(1, a=tcp("127.0.0.1", 0))).sockets:
        owned.sock.listen()
    store.add(table.all())
    systemd.hear()
    assert systemd.stored == {}
    table.close()


def test_an_address_too_long_for_a_name_is_not_stored(systemd: Systemd) -> None:
    table, store = table_and_store(systemd)
    text = "x" * MAX_NAME + ":0"
    for owned in table.acquire(hello(1, a=WantedAddress(text, "tcp", host="127.0.0.1"))).sockets:
        owned.sock.listen()
    store.add(table.all())
    systemd.hear()
    assert systemd.stored == {}
    table.close()


class Stored(Plane):
    """A plane that is started with what is stored, as systemd does it."""

    systemd: Systemd

    def launch(self) -> None:
        self.systemd.hear()
        names, fds = list(self.systemd.stored), list(self.systemd.stored.values())
        program = (
            "import os, sys\n"
            f"for number, fd in enumerate({[fd + 500 for fd in fds]!r}): os.dup2(fd, 3 + number)\n"
            "os.environ['LISTEN_PID'] = str(os.getpid())\n"
            "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])\n"
        )
        copies = []
        for fd in fds:
            copies.append(fd + 500)
            os.dup2(fd, fd + 500, inheritable=True)
        self.environment |= {**self.systemd.environment, "LISTEN_FDS": str(len(fds)), "LISTEN_FDNAMES": ":".join(names)}
        arguments = [self.config, self.instance_dir, self.late_ticks, self.zygote, self.own_program, self.last_good, ""]
        module = str(STAND_IN.with_name("plane.py"))
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", program, module, *map(str, arguments)],
                stdout=log, stderr=log, pass_fds=copies,
                env={**self.environment, "PYTHONPATH": str(STAND_IN.parents[2])},
            )  # fmt: skip
        for copy in copies:
            os.close(copy)


@pytest.fixture
def it(tmp_path: Path, systemd: Systemd) -> Iterator[Stored]:
    made = Stored(tmp_path)
    made.systemd = systemd
    try:
        yield made
    finally:
        made.end()


ONE = {"a": ["127.0.0.1:0"]}


def until_stored(it: Stored, count: int = 3) -> None:
    def all_there() -> bool:
        it.systemd.hear()
        return len(it.systemd.stored) == count  # two slots, and the control process's unix socket

    it.eventually(all_there)


def test_everybody_is_killed_and_no_queue_is_lost(it: Stored) -> None:
    it.start(listeners=ONE, slots=2)
    until_stored(it)
    port = it.port()
    assert it.process is not None
    generation = it.serving()
    for pid in (it.process.pid, generation["pid"], generation["control"]["pid"], *it.slots()):
        os.kill(pid, signal.SIGKILL)
    it.process.wait()
    waiting = [Dialled(socket.create_connection(("127.0.0.1", port), PATIENCE_S)) for _ in range(50)]
    it.launch()
    assert {each.epoch for each in waiting} == {2}
    it.until_serving()
    assert it.port() == port


def test_a_kill_of_the_supervisor_alone_has_each_socket_once(it: Stored) -> None:
    it.start(listeners=ONE, slots=2)
    until_stored(it)
    pids, port = it.slots(), it.port()
    assert it.process is not None
    it.process.kill()
    it.process.wait()
    it.launch()
    it.until_serving()
    assert (it.slots(), it.port()) == (pids, port)
    it.reload(listeners=ONE, slots=2)
    assert {it.dial().epoch for _ in range(40)} == {2}
    until_stored(it)


def test_term_keeps_them_for_the_next_start(it: Stored) -> None:
    it.start(listeners=ONE, slots=2)
    until_stored(it)
    port = it.port()
    it.signal(signal.SIGTERM)
    assert it.wait() == 0
    waiting = [Dialled(socket.create_connection(("127.0.0.1", port), PATIENCE_S)) for _ in range(50)]
    it.launch()
    assert {each.epoch for each in waiting} == {1}
    assert all(each.echoes() for each in waiting)


def test_the_command_shuts_them(it: Stored) -> None:
    it.start(listeners=ONE, slots=2)
    until_stored(it)
    port = it.port()
    it.ask("stop")
    assert it.wait() == 0
    until_stored(it, 0)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))


def test_what_a_new_config_does_not_want_is_shut_and_taken_out(it: Stored) -> None:
    it.start(listeners={**ONE, "b": ["127.0.0.1:0"]}, slots=1)
    until_stored(it)
    port = it.port("b")
    it.signal(signal.SIGTERM)
    assert it.wait() == 0
    it.wish(listeners=ONE, slots=1)
    it.launch()
    it.until_serving()
    until_stored(it, 2)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))


def test_orphans_leave_what_is_stored_to_the_next_start(it: Stored) -> None:
    it.start(listeners=ONE, slots=1, orphan_s=0.1, drain_s=0.1)
    until_stored(it, 2)
    port = it.port()
    pids = [it.serving()["pid"], *it.slots()]
    pidfds = [os.pidfd_open(pid) for pid in pids]
    assert it.process is not None
    it.process.kill()
    it.process.wait()
    for pidfd in pidfds:
        it.eventually(lambda pidfd=pidfd: _ended(pidfd))  # type: ignore[misc]
        os.close(pidfd)
    waiting = Dialled(socket.create_connection(("127.0.0.1", port), PATIENCE_S))
    it.launch()
    assert waiting.epoch == 2


def _ended(pidfd: int) -> bool:
    return bool(select.select([pidfd], [], [], 0)[0])
