"""The files in systemd/, read by systemd's own tools; no machine is needed."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.kit.origin import need

UNITS = Path(__file__).parents[2] / "systemd"
SERVICES = ["hotproxy.service", "hotproxy@.service"]


@pytest.mark.parametrize("unit", SERVICES)
def test_exposure_is_low(unit: str) -> None:
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
