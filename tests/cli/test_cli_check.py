"""`hotproxy check`: what it prints where, and its exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from hotproxy.cli.check import check

GOOD = "listeners: [{name: web, address: ':8080', cluster: api}]\nclusters: [{name: api, endpoints: ['127.0.0.1:1']}]\n"


def _write(directory: Path, text: str) -> str:
    path = directory / "a.yaml"
    path.write_text(text)
    path.chmod(0o600)
    return str(path)


def test_a_valid_config(tmp_path: Path) -> None:
    path = _write(tmp_path, GOOD)
    done = CliRunner().invoke(check, ["-c", path])
    assert (done.exit_code, done.stdout, done.stderr) == (0, f"{path} is valid: 1 listener, 1 cluster\n", "")


def test_an_invalid_config(tmp_path: Path) -> None:
    path = _write(tmp_path, GOOD.replace("cluster: api", "cluster: apj") + "wrkers: 1\n")
    done = CliRunner().invoke(check, ["--config", path])
    assert done.exit_code == 1
    assert done.stdout == ""
    assert done.stderr.count("error: ") == 2
    assert "unknown cluster 'apj'" in done.stderr
    assert done.stderr.endswith(f"{path} is not valid: 2 errors\n")


def test_a_log_format_is_checked_too(tmp_path: Path) -> None:
    """`check` called such a config valid, and the start that followed refused it."""
    log = "access_log: {path: /dev/stdout, format: '%PROTOCOLL%'}"
    path = _write(tmp_path, GOOD.replace("cluster: api}", f"cluster: api, {log}}}", 1))
    done = CliRunner().invoke(check, ["-c", path])
    assert done.exit_code == 1
    column = GOOD.index(", cluster: api") + len(", cluster: api, access_log: {path: /dev/stdout, format: ") + 1
    assert f"unknown operator %PROTOCOLL% at position 1 {' ' * 20}"[:60] in done.stderr
    assert f"{path}:1:{column}\n" in done.stderr
    assert "^^^^^^^^^^^^^ did you mean %PROTOCOL%?\n   at listeners[0].access_log.format\n" in done.stderr


def test_warnings_do_not_count(tmp_path: Path) -> None:
    done = CliRunner().invoke(check, ["-c", _write(tmp_path, "listeners: []\n")])
    assert done.exit_code == 0
    assert done.stderr.startswith("warning: ")


@pytest.mark.parametrize(("text", "code"), [(GOOD, 0), ("workers: x\n", 1), ("", 1)])
def test_json(tmp_path: Path, text: str, code: int) -> None:
    done = CliRunner().invoke(check, ["-c", _write(tmp_path, text), "--format", "json"])
    assert done.exit_code == code
    data = json.loads(done.stdout)
    assert data["valid"] is (code == 0)
    for problem in data["problems"]:
        assert set(problem) == {"severity", "message", "file", "line", "column", "end_column", "path", "hint"}


def test_a_missing_file_is_one_problem(tmp_path: Path) -> None:
    done = CliRunner().invoke(check, ["-c", str(tmp_path / "no.yaml"), "--format", "json"])
    assert done.exit_code == 1
    assert len(json.loads(done.stdout)["problems"]) == 1


def test_offline(tmp_path: Path) -> None:
    path = _write(tmp_path, GOOD.replace("':8080'", "'unix:/no/such/a.sock'"))
    assert CliRunner().invoke(check, ["-c", path]).exit_code == 1
    assert CliRunner().invoke(check, ["-c", path, "--offline"]).exit_code == 0


def test_usage() -> None:
    assert CliRunner().invoke(check, ["--format", "xml"]).exit_code == 2
