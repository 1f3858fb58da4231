"""The files in systemd/, read by systemd's own tools."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.kit.origin import need
from tests.systemd.machine import Machine

UNITS = Path(__file__).parents[2] / "systemd"
SERVICES = ["hotproxy.service", "hotproxy@.service"]


@pytest.mark.parametrize("unit", SERVICES)
def test_exposure_is_low(unit: str) -> None:
    said = subprocess.run([need("systemd-analyze"), "--version"], capture_output=True, text=True, check=True).stdout
    if int(said.split()[1].partition("~")[0].partition(".")[0]) < 250:
        pytest.skip("systemd 250 is the first that looks at a unit file which is not installed")
    command = [need("systemd-analyze"), "security", "--offline=true", "--threshold=30", "--no-pager", str(UNITS / unit)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, f"above 3.0: {done.stdout}"


def test_the_template_is_the_same_unit_for_another_instance() -> None:
    service, template = ((UNITS / unit).read_text() for unit in SERVICES)
    assert (
        template.replace(", instance %i", "")
        .replace("further instances: hotproxy@edge reads /etc/hotproxy/edge.yaml", "the instance `default`")
        .replace("/etc/hotproxy/%i.yaml", "/etc/hotproxy/hotproxy.yaml")
        .replace("%i", "default")
        == service
    )


@pytest.mark.parametrize("unit", [*SERVICES, "hotproxy.socket"])
def test_systemd_has_nothing_to_say_about_it(machine: Machine, unit: str) -> None:
    done = machine.run("systemd-analyze", "verify", unit.replace("@", "@edge"))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_sockets_are_not_installed_with_the_service(machine: Machine) -> None:
    """Whoever wants systemd to listen says so: the ports are those of nobody's config."""
    machine.must("systemctl", "enable", "hotproxy.service")
    assert machine.run("systemctl", "is-enabled", "hotproxy.socket").stdout == "disabled\n"
    machine.must("systemctl", "disable", "hotproxy.service")
