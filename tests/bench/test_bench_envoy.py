"""The one installer of Envoy: what is there is used, and what cannot be had is told in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.kit import envoy


def test_what_is_installed_is_used(tmp_path: Path) -> None:
    binary = tmp_path / "lib" / "python3.99" / "site-packages" / "envoy" / "_bin" / "envoy"
    binary.parent.mkdir(parents=True)
    binary.touch()
    assert envoy.program(tmp_path, tmp_path / "no such requirements") == str(binary)


def test_what_cannot_be_installed_says_why_in_one_line(tmp_path: Path) -> None:
    requirements = tmp_path / "envoy.txt"
    requirements.write_text(f"--no-index\nnothing-of-this-name==1 --hash=sha256:{'0' * 64}\n")
    with pytest.raises(envoy.NoEnvoy) as raised:
        envoy.program(tmp_path / "environment", requirements)
    message = str(raised.value)
    assert message.startswith("Envoy cannot be installed from envoy.txt: ERROR: ") and "nothing-of-this-name" in message
    assert "\n" not in message


def test_a_package_without_the_program_is_told(tmp_path: Path) -> None:
    requirements = tmp_path / "envoy.txt"
    requirements.write_text("")
    with pytest.raises(envoy.NoEnvoy, match="there is no Envoy in it"):
        envoy.program(tmp_path / "environment", requirements)
