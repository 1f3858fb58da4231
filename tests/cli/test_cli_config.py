"""`hotproxy config`: what is printed is a config."""

from __future__ import annotations

from pathlib import Path

import pytest

from hotproxy.cli.main import call

CONFIG = """
workers: 2
listeners: [{name: a, address: "127.0.0.1:1", cluster: c}]
clusters: [{name: c, endpoints: ["127.0.0.1:${PORT}"]}]
"""


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PORT", "9001")
    file = tmp_path / "a.yaml"
    file.write_text(CONFIG)
    file.chmod(0o600)
    return file


def test_as_the_files_say_it(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["config", "-c", str(config)]) == 0
    assert (
        capsys.readouterr().out
        == """\
workers: 2
listeners:
- name: a
  address: 127.0.0.1:1
  cluster: c
clusters:
- name: c
  endpoints:
  - 127.0.0.1:9001
"""
    )


def test_with_every_default_check_accepts_it(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["config", "--effective", "-c", str(config)]) == 0
    text = capsys.readouterr().out
    assert "workers: 2\n" in text and "connect_timeout: 1s\n" in text and "keepalive_timeout: 1h\n" in text
    config.write_text(text)
    assert call(["check", "-c", str(config)]) == 0
    capsys.readouterr()
    assert call(["config", "--effective", "-c", str(config)]) == 0
    assert capsys.readouterr().out == text


def test_an_invalid_one_is_told(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config.write_text("clusters: [{nam: a}]\n")
    assert call(["config", "-c", str(config)]) == 1
    shown = capsys.readouterr()
    assert shown.out == "" and "a.yaml:1:13" in shown.err


def test_without_an_instance_a_file_must_be_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["--instance", "nobody", "--runtime-dir", str(tmp_path), "config"]) == 3
    assert "-c FILE" in capsys.readouterr().err
