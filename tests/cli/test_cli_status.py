"""What `hotproxy status` shows to people, and where the config that serves is kept."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import pytest

from hotproxy.cli import place as places
from hotproxy.cli.admin_line import NoAnswer, get
from hotproxy.cli.place import Place
from hotproxy.cli.status import render_status
from hotproxy.errors import EXIT_REFUSED, HotproxyError

STATUS: dict[str, Any] = {
    "pid": 7, "instance": "a", "config": "/etc/a.yaml", "config_fallback": "", "config_changed": [], "pure_kernel": "",
    "state": "LIVE", "epoch": 1, "uptime_s": 3.0, "listeners": [], "last_restart": {}, "generations": [],
}  # fmt: skip


@pytest.mark.parametrize(
    ("found", "lines"),
    [
        ({}, []),
        ({"config_changed": None}, []),  # nobody knows
        (
            {"config_changed": ["/etc/a.yaml", "/etc/b.yaml"]},
            ["  not what runs, changed since: /etc/a.yaml (and 1 more); `hotproxy reload` brings it in"],
        ),
        (
            {"config_fallback": "error: it is bad        /etc/a.yaml:1:1\n  1 | x", "config_changed": ["/etc/a.yaml"]},
            ["  BROKEN, the last good config runs instead: error: it is bad /etc/a.yaml:1:1"],
        ),
        ({"pure_kernel": "it crashed"}, ["NO COMPILED CODE: it crashed; `hotproxy reload` tries it again"]),
    ],
)
def test_what_somebody_should_look_at(found: dict[str, Any], lines: list[str]) -> None:
    assert render_status({**STATUS, **found}).splitlines()[1:] == ["config /etc/a.yaml", *lines]


def test_a_supervisor_that_does_not_know_of_it() -> None:
    """After an upgrade of the package the command is new, and the supervisor what it was."""
    old = {name: value for name, value in STATUS.items() if name not in ("config_fallback", "pure_kernel")}
    assert render_status(old) == render_status(STATUS)


def test_no_control_process_is_no_answer(tmp_path: Path) -> None:
    with pytest.raises(NoAnswer, match="No such file"):
        get(Place("a", tmp_path), "/config_changed", ["changed"])


def test_where_the_config_that_serves_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = Place("a", tmp_path / "run")
    monkeypatch.delenv("STATE_DIRECTORY", raising=False)
    assert places.last_good(place, None) == tmp_path / "run" / "a" / "a.last-good.yaml"
    monkeypatch.setenv("STATE_DIRECTORY", "/var/lib/hotproxy:/var/lib/other")
    assert places.last_good(place, None) == Path("/var/lib/hotproxy/a.last-good.yaml")
    chosen = tmp_path / "state" / "deep"
    assert places.last_good(place, str(chosen)) == chosen / "a.last-good.yaml"
    assert stat.S_IMODE(os.stat(chosen).st_mode) == 0o700


def test_a_state_directory_that_can_not_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(HotproxyError, match="can't be made: Not a directory") as refused:
        places.last_good(Place("a", tmp_path), str(tmp_path / "file" / "state"))
    assert refused.value.exit_code == EXIT_REFUSED
