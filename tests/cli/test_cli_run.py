"""`hotproxy run` before it becomes a supervisor: a config that has no file of its own."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

from hotproxy.cli import run as cli_run
from hotproxy.cli.main import call
from hotproxy.cli.place import make
from hotproxy.cli.run import write_config
from hotproxy.restarter.instance_dir import InstanceLock


def test_the_config_lies_beside_the_sockets(tmp_path: Path) -> None:
    place = make("a", str(tmp_path))
    for text in (b"one", b"tw\xff"):
        path = write_config(place, text)
        assert path.read_bytes() == text
        assert path.stat().st_mode & 0o777 == 0o600
    assert [each.name for each in place.directory.iterdir()] == ["config.yaml"]


def test_a_running_instance_keeps_its_config(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A second `proxy` on the same port was refused, after it had replaced what the first one's reload would read."""
    place = make("a", str(tmp_path))
    path = write_config(place, b"mine")
    lock = InstanceLock(place.directory, place.instance)
    try:
        given = ["--runtime-dir", str(tmp_path), "--instance", "a", "proxy", "--from", "127.0.0.1:1", "--to", ":2"]
        assert call(given) == 1
        assert "instance 'a' is already running" in capsys.readouterr().err
    finally:
        lock.release()
    assert path.read_bytes() == b"mine"


def test_what_stdin_holds_is_the_config_byte_by_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A byte that is no UTF-8 was an internal error of the command, and not a mistake of the config with its place."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a: \xff\r\n"), encoding="utf-8"))
    became: list[Path] = []
    monkeypatch.setattr(cli_run, "become_supervisor", lambda place, path, *_: became.append(path))
    assert call(["--runtime-dir", str(tmp_path), "run", "-c", "-"]) == 0
    assert became[0].read_bytes() == b"a: \xff\r\n"
