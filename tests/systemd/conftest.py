"""One machine with a real systemd for all tests here, hotproxy installed on it as docs/systemd.md says."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit.instance import eventually
from tests.kit.namespaces import Refused
from tests.kit.origin import NGINX_CONFIG, need
from tests.systemd import machine as machines
from tests.systemd.machine import DEPENDENCIES, Machine
from tests.systemd.service import CONFIG, Service

UNITS = Path(__file__).parents[2] / "systemd"
SCRIPT = "#!/opt/hotproxy/bin/python\nimport sys\nfrom hotproxy.cli.main import main\nsys.exit(main())\n"


@pytest.fixture(scope="session")
def machine() -> Iterator[Machine]:
    try:
        with machines.machine() as booted:
            _install(booted)
            yield booted
    except Refused as refused:
        pytest.skip(str(refused))


def _install(machine: Machine) -> None:
    """The package, and the units by the commands of docs/systemd.md."""
    from tests.kit.installation import Installation

    installed = Installation(machine.root / "opt/hotproxy")
    (installed.package.parent / "dependencies.pth").write_text(DEPENDENCIES + "\n")
    machine.open_to_all(installed.base_python)
    machine.write("/opt/hotproxy/bin/hotproxy", SCRIPT, 0o755)
    machine.must("ln", "-s", "/opt/hotproxy/bin/hotproxy", "/usr/local/bin/hotproxy")
    for unit in ("hotproxy.service", "hotproxy@.service", "hotproxy.socket"):
        machine.write(f"/etc/systemd/system/{unit}", (UNITS / unit).read_text())
    machine.write("/etc/sysusers.d/hotproxy.conf", (UNITS / "hotproxy.sysusers").read_text())
    machine.write("/etc/tmpfiles.d/hotproxy.conf", (UNITS / "hotproxy.tmpfiles").read_text())
    machine.write("/etc/logrotate.d/hotproxy", (UNITS / "hotproxy.logrotate").read_text())
    machine.must("systemd-sysusers")
    machine.must("systemd-tmpfiles", "--create", "hotproxy.conf")
    machine.must("systemctl", "daemon-reload")


@pytest.fixture(scope="session")
def origin(machine: Machine) -> Iterator[str]:
    """nginx in the machine, which gives X-Number back; the address of an endpoint."""
    directory = "/run/origin"
    machine.write(f"{directory}/nginx.conf", NGINX_CONFIG.format(directory=directory))
    command = [need("nginx"), "-c", f"{directory}/nginx.conf", "-p", directory, "-e", f"{directory}/error.log"]
    process = subprocess.Popen([*machine.entered, *command], stderr=subprocess.DEVNULL)
    try:
        ask = ["curl", "-s", "--unix-socket", f"{directory}/nginx.sock", "http://origin/"]
        eventually(lambda: machine.run(*ask).returncode == 0, "nginx to listen")
        yield f"unix:{directory}/nginx.sock"
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def service(machine: Machine, origin: str) -> Iterator[Service]:
    """hotproxy.service, not started; its config is there. Nothing of it is left for the next test."""
    made = Service(machine, "hotproxy")
    made.configure(CONFIG.format(origin=origin))
    yield made
    made.end()
