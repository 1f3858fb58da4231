"""A generation that fails before it is ready changes nothing: the old one serves on, and the reason is told."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.kit import clients
from tests.kit.installation import Installation
from tests.kit.instance import Instance, instance
from tests.restart.test_restart_under_load import assert_nothing_lost, config

Break = Callable[[Instance, Installation, str], None]


def bad_config(proxy: Instance, _: Installation, address: str) -> None:
    proxy.write(config(address).replace("cluster: origin", "cluster: orijin"))


def broken_yaml(proxy: Instance, _: Installation, address: str) -> None:
    proxy.write(config(address) + "\n  - [")


def missing_file(proxy: Instance, _: Installation, address: str) -> None:
    proxy.config.unlink()


def writable_by_others(proxy: Instance, _: Installation, address: str) -> None:
    proxy.config.chmod(0o666)


def import_error(_: Instance, installation: Installation, address: str) -> None:
    installation.edit("proxy/router.py", "from __future__ import annotations", "import no_such_module")


def syntax_error(_: Instance, installation: Installation, address: str) -> None:
    installation.edit("worker/main.py", "from __future__ import annotations", "from __future__ import (")


def crash_at_import(_: Instance, installation: Installation, address: str) -> None:
    installation.edit("worker/main.py", "from __future__ import annotations", "import os; os._exit(7)")


def crash_of_every_worker(_: Instance, installation: Installation, address: str) -> None:
    installation.edit("worker/main.py", "def run(start: WorkerStart) -> int:\n", DYING_RUN)


def error_in_every_worker(_: Instance, installation: Installation, address: str) -> None:
    installation.edit("worker/main.py", "def run(start: WorkerStart) -> int:\n", RAISING_RUN)


def crash_of_the_control_process(_: Instance, installation: Installation, address: str) -> None:
    installation.edit(
        "control/main.py", "def run(start: ControlStart) -> int:\n", DYING_RUN.replace("WorkerStart", "ControlStart")
    )


def hang_at_import(_: Instance, installation: Installation, address: str) -> None:
    installation.edit("worker/main.py", "from __future__ import annotations", "import time; time.sleep(1000)")


def hang_of_every_worker(_: Instance, installation: Installation, address: str) -> None:
    installation.edit("worker/main.py", "def run(start: WorkerStart) -> int:\n", HANGING_RUN)


DYING_RUN = "def run(start: WorkerStart) -> int:\n    import os; os._exit(9)\n\n\ndef unused(start) -> int:\n"
RAISING_RUN = "def run(start: WorkerStart) -> int:\n    raise OSError('no luck')\n\n\ndef unused(start) -> int:\n"
HANGING_RUN = "def run(start: WorkerStart) -> int:\n    import time; time.sleep(1000)\n\n\ndef unused(start) -> int:\n"

CAUSES: list[tuple[Break, str]] = [
    (bad_config, "did you mean 'origin'?"),
    (broken_yaml, "hotproxy.yaml:"),
    (missing_file, "hotproxy.yaml"),
    (writable_by_others, "hotproxy.yaml"),
    (import_error, "no_such_module"),
    (syntax_error, "SyntaxError"),
    (crash_at_import, "exit code 7"),
    (crash_of_every_worker, "exit code 9"),
    (error_in_every_worker, "no luck"),
    (crash_of_the_control_process, "exit code 9"),
    (hang_at_import, "2"),
    (hang_of_every_worker, "2"),
]


@pytest.fixture
def installation(short_path: Path) -> Iterator[Installation]:
    yield Installation(short_path / "venv")


@pytest.mark.parametrize(("cause", "reason"), CAUSES, ids=lambda each: getattr(each, "__name__", None))
def test_a_refused_reload_changes_nothing(
    short_path: Path, nginx_address: str, installation: Installation, cause: Break, reason: str
) -> None:
    with instance(short_path, config(nginx_address), python=installation.python) as proxy:
        before = proxy.status()
        with clients.load(proxy.port("web"), new_rate=200, keepalive=50) as load:
            cause(proxy, installation, nginx_address)
            arguments = ["--timeout", "2"] if "hang" in cause.__name__ else []
            answer = proxy.command("reload", *arguments)
            assert answer.returncode == 1, answer.stdout
            assert reason in answer.stderr, answer.stderr
            assert "Traceback" not in answer.stderr
            counts = load.stop()
        after = proxy.status()
        assert after["generations"][0]["pid"] == before["generations"][0]["pid"]
        assert len(after["generations"]) == 1
        assert after["last_restart"]["ok"] is False
        assert reason in after["last_restart"]["reason"]
        assert proxy.stats()["server.restarts_failed"] == 1
        assert_nothing_lost(counts, proxy)


def test_a_port_in_use_refuses_the_reload_and_the_next_one_is_served(short_path: Path, nginx_address: str) -> None:
    with instance(short_path, config(nginx_address)) as proxy, socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        second = f"  - name: second\n    address: 127.0.0.1:{port}\n    cluster: origin\nclusters:"
        proxy.write(config(nginx_address).replace("clusters:", second))
        with clients.load(proxy.port("web"), new_rate=200, keepalive=50) as load:
            answer = proxy.command("reload")
            assert answer.returncode == 1
            assert f"127.0.0.1:{port}" in answer.stderr and "address in use" in answer.stderr
            taken.close()
            proxy.reload()
            counts = load.stop()
        assert_nothing_lost(counts, proxy)
        assert clients.exchange(port, b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").startswith(
            b"HTTP/1.1 200"
        )


def test_new_code_serves_after_a_reload(short_path: Path, nginx_address: str, installation: Installation) -> None:
    """An upgrade of the package on disk: the old generation runs the old code to its end, the new one the new code."""
    with instance(short_path, config(nginx_address), python=installation.python) as proxy:
        request = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
        with clients.load(proxy.port("web"), new_rate=200, keepalive=50) as load:
            before = clients.exchange(proxy.port("web"), request)
            assert b"1.1 hotproxy" in before
            installation.edit("proxy/forwarding.py", 'b"1.1 hotproxy"', 'b"1.1 hotproxy-next"')
            assert clients.exchange(proxy.port("web"), request).count(b"hotproxy-next") == 0
            proxy.reload()
            assert b"1.1 hotproxy-next" in clients.exchange(proxy.port("web"), request)
            counts = load.stop()
        counts["ok"] += 3
        counts["requests"] += 3
        counts["connects"] += 3
        assert_nothing_lost(counts, proxy)
