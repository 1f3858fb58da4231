"""The supervisor's own code is replaced under load: the same process, by two real versions of the package."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hotproxy.cli import line, place
from hotproxy.shm import reader
from tests.kit import clients
from tests.kit.installation import Installation
from tests.kit.instance import Instance, eventually, instance
from tests.restart.test_restart_under_load import assert_nothing_lost, config, one_generation

NEW_SENTENCE = 'caller.answer(True, "alive, and newer")'
OLD_SENTENCE = 'caller.answer(True, "alive")'


@pytest.fixture
def installation(short_path: Path) -> Iterator[Installation]:
    yield Installation(short_path / "venv")


def code(proxy: Instance) -> dict[str, str]:
    found: dict[str, str] = proxy.status()["supervisor"]
    return found


def until_new(proxy: Instance, before: str) -> None:
    """Another code runs, and a generation came back to it."""
    eventually(
        lambda: code(proxy)["code"] != before and "re-attached" in code(proxy)["note"],
        f"the supervisor's new code:\n{proxy.log_text()}",
    )


def becomes(proxy: Instance) -> int:
    return proxy.log_text().count("the supervisor becomes")


def everybody(proxy: Instance) -> list[int]:
    eventually(lambda: one_generation(proxy), "one generation")
    return proxy.pids()


class Asker:
    """`status` and `stats`, 20 times a second, by supervisor.sock and from shared memory; every answer counts."""

    def __init__(self, proxy: Instance) -> None:
        self._proxy = proxy
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.asked = 0
        self.failures: list[str] = []
        self.totals: list[int] = []

    def _run(self) -> None:
        where = place.find(self._proxy.name, str(self._proxy.directory / "run"))
        while not self._ended.wait(0.05):
            try:
                assert line.ask(where, "status").data["pid"]
                values = reader.read(self._proxy.shared_memory_name()).values
                self.totals.append(int(values["http.web.downstream_rq_total"]))  # type: ignore[arg-type]
                self.asked += 1
            except Exception as error:
                self.failures.append(repr(error))

    def __enter__(self) -> Asker:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()


def test_up_and_down_again_in_place_under_load(
    short_path: Path, nginx_address: str, installation: Installation
) -> None:
    """As pip does it: the files are replaced, and replaced again by the older ones."""
    with instance(short_path, config(nginx_address), python=installation.python) as proxy:
        first, pid = code(proxy), proxy.status()["pid"]
        assert first["code"] == first["on_disk"]
        with clients.load(proxy.port("web"), new_rate=200, keepalive=50, pace_s=0.1) as load, Asker(proxy) as asker:
            installation.edit("restarter/requests.py", OLD_SENTENCE, NEW_SENTENCE)
            eventually(lambda: code(proxy)["on_disk"] != first["code"], "other code on the disk")
            assert code(proxy)["code"] == first["code"], "nobody has asked for it"
            proxy.reload()
            until_new(proxy, first["code"])
            second = code(proxy)
            pids = everybody(proxy)
            assert pids[0] == pid == proxy.process.pid  # type: ignore[union-attr]
            installation.edit("restarter/requests.py", NEW_SENTENCE, OLD_SENTENCE)
            proxy.reload()
            until_new(proxy, second["code"])
            assert code(proxy)["code"] == first["code"]
            assert proxy.status()["last_restart"]["ok"]
            assert everybody(proxy)[0] == pid
            counts = load.stop()
        assert (asker.failures, asker.totals) == ([], sorted(asker.totals)) and asker.asked > 20
        assert counts["closes"] <= proxy.stats()["server.handoff_refused"]
        assert_nothing_lost(counts, proxy)
        assert proxy.stats()["server.worker_crashes"] == 0
        assert proxy.command("stop").returncode == 0
        assert [each.name for each in (short_path / "run" / "test").iterdir()] == ["test.last-good.yaml"]


def test_a_virtual_environment_that_is_swapped_by_symlink(short_path: Path, nginx_address: str) -> None:
    old, new = Installation(short_path / "venv-1"), Installation(short_path / "venv-2")
    new.edit("restarter/requests.py", OLD_SENTENCE, NEW_SENTENCE)
    current = short_path / "current"

    def point_to(installation: Installation) -> None:
        part = short_path / "current.new"
        part.symlink_to(Path(installation.python).parents[1])
        part.replace(current)

    point_to(old)
    with instance(short_path, config(nginx_address), python=str(current / "bin" / "python")) as proxy:
        first, pid = code(proxy)["code"], proxy.status()["pid"]
        with clients.load(proxy.port("web"), new_rate=200, keepalive=50, pace_s=0.1) as load:
            for target in (new, old):
                before = code(proxy)["code"]
                point_to(target)
                proxy.reload()
                until_new(proxy, before)
            counts = load.stop()
        assert (code(proxy)["code"], proxy.status()["pid"]) == (first, pid)
        assert_nothing_lost(counts, proxy)


def test_usr2_under_load_and_a_storm_of_hangups(short_path: Path, nginx_address: str) -> None:
    with instance(short_path, config(nginx_address)) as proxy:
        pid = proxy.status()["pid"]
        with clients.load(proxy.port("web"), new_rate=200, keepalive=50, pace_s=0.1) as load, Asker(proxy) as asker:
            for number in (1, 2, 3):
                proxy.signal(signal.SIGUSR2)

                def renewed(number: int = number) -> bool:
                    if becomes(proxy) == number:
                        proxy.signal(signal.SIGHUP)  # in the very moment, which would kill a process that is not ready
                    return proxy.log_text().count("re-attached to generation") == number

                eventually(renewed, "the supervisor to execute itself")
            proxy.reload()
            eventually(lambda: one_generation(proxy), "the restarts to end")
            counts = load.stop()
        assert proxy.status()["pid"] == pid == proxy.process.pid  # type: ignore[union-attr]
        assert asker.failures == [] and asker.asked > 20
        assert_nothing_lost(counts, proxy)


BROKEN: dict[str, tuple[str, str, str, str]] = {
    "syntax error": ("restarter/moves.py", "from __future__ import annotations", "def (", "SyntaxError"),
    "import error": ("restarter/moves.py", "import socket\n", "import socket\nimport nowhere\n", "nowhere"),
    "exception in init": ("restarter/supervisor.py", "        self.options = options\n",
                          "        raise ValueError('no luck')\n", "no luck"),
    "does not answer": ("restarter/requests.py", "        supervisor = self._supervisor\n        timeout_s = ",
                        "        return\n        timeout_s = ", "not ready within 10 s"),
}  # fmt: skip


@pytest.mark.parametrize(
    "what", [pytest.param(each, marks=pytest.mark.slow if each == "does not answer" else ()) for each in BROKEN]
)
def test_new_code_that_is_broken_is_not_run(
    short_path: Path, nginx_address: str, installation: Installation, what: str
) -> None:
    """The zygote imports the same files, and its worker must not: so the break is one of the supervisor's alone."""
    file, old, new, why = BROKEN[what]
    with instance(short_path, config(nginx_address), python=installation.python) as proxy:
        first = code(proxy)["code"]
        with clients.load(proxy.port("web"), new_rate=100, keepalive=50, pace_s=0.2) as load:
            installation.edit(file, old, new)
            proxy.reload()
            eventually(lambda: why in code(proxy)["note"], f"the reason:\n{proxy.log_text()}")
            assert code(proxy)["code"] == first != code(proxy)["on_disk"]
            assert proxy.reload().returncode == 0
            counts = load.stop()
        assert proxy.log_text().count("it is rehearsed") == 1, "the same code is not tried twice"
        assert_nothing_lost(counts, proxy)


def test_a_kill_right_after_it_has_replaced_its_code(short_path: Path, nginx_address: str) -> None:
    """Before its generations have come back, or while they do."""
    with instance(short_path, config(nginx_address)) as proxy:
        with clients.load(proxy.port("web"), new_rate=100, keepalive=50, pace_s=0.2) as load:
            for number in range(1, 4):
                proxy.signal(signal.SIGUSR2)
                eventually(lambda number=number: becomes(proxy) == number, "the execve")  # type: ignore[misc]
                proxy._remember()
                assert proxy.process is not None
                proxy.process.kill()
                proxy.process.wait()
                proxy.start()
            counts = load.stop()
        assert_nothing_lost(counts, proxy)
        status: dict[str, Any] = proxy.status()
        assert status["epoch"] == 4
