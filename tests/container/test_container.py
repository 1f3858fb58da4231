"""hotproxy as the first process of a container: a read-only root, little shared memory, no systemd, no privilege.

The namespaces and mounts are those that a container engine makes, which is not needed (docs/containers.md).
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.kit import clients, origin
from tests.kit.installation import Installation
from tests.kit.instance import PATIENCE_S, eventually
from tests.kit.namespaces import First, Refused, first_process

ROOT_SCRIPT = Path(__file__).with_name("root.sh")
CONFIG = """
workers: {workers}
drain_timeout: 5s
listeners:
  - name: web
    address: 127.0.0.1:0
    cluster: origin
clusters:
  - name: origin
    endpoints: ["{origin}"]
"""
REQUEST = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"


class Container:
    """One that runs. `config` is what it has at /etc/hotproxy, which is read-only to it."""

    def __init__(self, first: First, config: Path) -> None:
        self.first = first
        self.config = config
        self.root = Path(f"/proc/{first.pid}/root")

    def exec(self, *command: str) -> subprocess.CompletedProcess[str]:
        """As `docker exec` does."""
        enter = ["nsenter", "--target", str(self.first.pid), "--mount", "--pid", "--ipc", "--uts", "--root", "--wd"]
        user = ["setpriv", "--reuid=65532", "--regid=65532", "--clear-groups"]
        return subprocess.run([*enter, *user, *command], capture_output=True, text=True, timeout=PATIENCE_S)

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.exec("/opt/hotproxy/bin/python", "-I", "-m", "hotproxy.cli.main", *arguments)

    def status(self) -> dict[str, Any]:
        answer = self.command("status", "--json")
        assert answer.returncode == 0, answer.stderr + self.first.said
        found: dict[str, Any] = json.loads(answer.stdout)
        return found

    def serves(self) -> bool:
        assert self.first.unshare.poll() is None, self.first.said
        answer = self.command("status", "--json")
        return answer.returncode == 0 and json.loads(answer.stdout)["state"] == "LIVE"

    def port(self) -> int:
        (web,) = (each for each in self.status()["listeners"] if each["name"] == "web")
        return int(web["addresses"][0].rpartition(":")[2])


class Containers:
    """What they have in common; `run` starts one."""

    def __init__(self, directory: Path) -> None:
        self.installed = directory / "installed"
        self.config = directory / "config"
        self.config.mkdir()
        self.base = Installation(self.installed).base_python
        # Where the packages are in the container, whatever path the checkout has here.
        dependencies = next(self.installed.glob("lib/*/site-packages/dependencies.pth"))
        dependencies.write_text("/opt/dependencies\n")

    @contextlib.contextmanager
    def run(self, config: str, shm: str = "64m", more: tuple[str, ...] = ()) -> Iterator[Container]:
        (self.config / "hotproxy.yaml").write_text(config)
        purelib = sysconfig.get_paths()["purelib"]
        binds = [str(self.installed), "/opt/hotproxy", purelib, "/opt/dependencies"]
        binds += [str(self.config), "/etc/hotproxy", *more]
        if os.stat(sys.base_prefix).st_dev != os.stat("/").st_dev:
            binds += [sys.base_prefix, sys.base_prefix]
        with first_process(ROOT_SCRIPT, [shm, self.base, *binds], "hotproxy", "mount pid ipc uts") as first:
            yield Container(first, self.config / "hotproxy.yaml")


@pytest.fixture(scope="module")
def containers(tmp_path_factory: pytest.TempPathFactory) -> Containers:
    return Containers(tmp_path_factory.mktemp("containers"))


@pytest.fixture
def container(containers: Containers, short_path: Path) -> Iterator[Container]:
    """With two workers and an nginx behind them."""
    nginx = short_path / "nginx"
    nginx.mkdir()
    with origin.nginx(nginx) as address, contextlib.ExitStack() as stack:
        # The socket itself lies on a file system that the container sees as it is.
        config = CONFIG.format(workers=2, origin="unix:/run/origin/nginx.sock")
        assert address == f"unix:{nginx}/nginx.sock"
        try:
            made = stack.enter_context(containers.run(config, more=(str(nginx), "/run/origin")))
        except Refused as refused:
            pytest.skip(str(refused))
        eventually(made.serves, "it to serve")
        yield made


def test_it_reloads_and_ends_as_the_first_process(container: Container) -> None:
    assert container.status()["pid"] == 1
    with clients.load(container.port(), new_rate=200, keepalive=50, pace_s=0.1) as load:
        answer = container.command("reload")
        assert answer.returncode == 0, answer.stderr
        os.kill(container.first.pid, signal.SIGHUP)
        eventually(lambda: container.status()["epoch"] == 3, "the second reload")
        counts = load.stop()
    assert counts["failures"] == {} and counts["ok"] == counts["requests"] > 0
    os.kill(container.first.pid, signal.SIGTERM)
    assert container.first.unshare.wait(PATIENCE_S) == 0, container.first.said
    assert container.first.said.rstrip().endswith("generation 3 is gone")


def test_it_reaps_whoever_is_left_to_it(container: Container) -> None:
    orphan = int(container.exec("sh", "-c", "sleep 0.1 >&- 2>&- & echo $!").stdout)
    eventually(lambda: not (container.root / f"proc/{orphan}").exists(), "the orphan to be reaped")
    assert container.status()["pid"] == 1


def test_it_replaces_a_zygote_that_was_killed(container: Container) -> None:
    with clients.load(container.port(), new_rate=200, keepalive=50, pace_s=0.1) as load:
        (generation,) = container.status()["generations"]
        container.exec("sh", "-c", f"kill -9 {generation['pid']}")
        eventually(
            lambda: [each["state"] for each in container.status()["generations"] if each["epoch"] == 2] == ["active"],
            "a new generation",
        )
        counts = load.stop()
    assert counts["failures"] == {} and counts["ok"] == counts["requests"] > 0


def test_its_root_is_read_only_and_its_user_nobody(container: Container) -> None:
    """Or the other tests here would show nothing."""
    for directory in ("/", "/tmp", "/dev", "/etc/hotproxy", "/opt/hotproxy"):
        assert "Read-only file system" in container.exec("touch", f"{directory}/x").stderr
    assert "cannot find name" in container.exec("whoami").stderr
    status = Path(f"/proc/{container.first.pid}/status").read_text()
    assert [line.split()[1] for line in status.splitlines() if line.startswith("Cap")] == ["0" * 16] * 5


def test_64_mib_of_shared_memory_is_enough_for_32_workers(containers: Containers) -> None:
    with contextlib.ExitStack() as stack:
        try:
            made = stack.enter_context(containers.run(CONFIG.format(workers=32, origin="127.0.0.1:9")))
        except Refused as refused:
            pytest.skip(str(refused))
        eventually(made.serves, "it to serve")
        assert len(made.status()["generations"][0]["slots"]) == 32
        used = os.statvfs(made.root / "dev/shm")
        assert (used.f_blocks - used.f_bfree) * used.f_frsize < 4 << 20
        assert made.command("reload").returncode == 0


def test_too_little_shared_memory_is_an_error_that_says_so(containers: Containers) -> None:
    with contextlib.ExitStack() as stack:
        try:
            made = stack.enter_context(containers.run(CONFIG.format(workers=2, origin="127.0.0.1:9"), shm="64k"))
        except Refused as refused:
            pytest.skip(str(refused))
        assert made.first.unshare.wait(PATIENCE_S) == 1
        assert "generation 1: /dev/shm is full: " in made.first.said
