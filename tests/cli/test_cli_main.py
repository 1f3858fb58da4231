"""The command line from outside: exit codes, messages, never a traceback."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from hotproxy.cli import main as cli_main
from hotproxy.cli import place
from hotproxy.cli.main import VERBS, call
from hotproxy.errors import HotproxyError


def test_no_instance_says_where_it_looked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for verb in ("status", "reload", "stop", "stats"):
        assert call(["--instance", "nobody", "--runtime-dir", str(tmp_path), verb]) == 3
        assert f"{tmp_path}/nobody" in capsys.readouterr().err


def test_an_instance_that_is_not_running_is_told_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "stopped").mkdir()
    assert call(["--instance", "stopped", "--runtime-dir", str(tmp_path), "status"]) == 3
    assert "is not running" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sttus"], "Did you mean 'status'?"),
        (["--instance", "../up", "status"], "is no instance name"),
        (["run", "--workers", "0"], "--workers"),
        (["stats", "("], "is no regular expression"),
        (["proxy", "--from", ":8080"], "--to"),
        (["proxy", "--from", "8080", "--to", ":9000", "--emit"], "--from '8080'"),
        (["proxy", "--from", ":0", "--to", "localhost", "--emit"], "needs a port"),
        (["proxy", "--from", ":0", "--to", "https://a", "--emit"], "only plain HTTP/1.1"),
        (["respond", "--listen", ":0", "--header", "nonsense"], "'name: value'"),
    ],
    ids=lambda each: " ".join(each) if isinstance(each, list) else None,
)
def test_usage_errors_are_two_and_say_what(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(arguments) == 2
    assert message in capsys.readouterr().err


def test_our_own_bugs_are_seventy_with_their_place(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(VERBS, "version", ("hotproxy.cli.version", "no_such_command", ""))
    assert call(["version"]) == 70
    error = capsys.readouterr().err
    assert error.startswith("hotproxy: internal error: AttributeError") and "main.py:" in error
    assert "Traceback" not in error


def test_every_verb_can_be_asked_for_help(capsys: pytest.CaptureFixture[str]) -> None:
    for verb in cli_main.VERBS:
        assert call([verb, "--help"]) == 0
        assert "Usage: hotproxy" in capsys.readouterr().out


def test_version_in_all_three_spellings(capsys: pytest.CaptureFixture[str]) -> None:
    shown = set()
    for spelling in (["version"], ["--version"], ["-V"]):
        assert call(spelling) == 0
        shown.add(capsys.readouterr().out)
    assert len(shown) == 1
    text = shown.pop()
    assert text.startswith("hotproxy 0.") and "shm layout: " in text and "protocol: " in text


def test_emit_shows_a_config_that_check_accepts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    targets = ["--to", "127.0.0.1:9000", "--to", "unix:/run/app.sock", "--to", "http://localhost"]
    assert call(["proxy", "--from", ":8080", *targets, "--emit"]) == 0
    text = capsys.readouterr().out
    assert '"127.0.0.1:8080"' in text
    assert '["127.0.0.1:9000", "unix:/run/app.sock", "127.0.0.1:80"]' in text
    config = tmp_path / "emitted.yaml"
    config.write_text(text)
    config.chmod(0o600)
    assert call(["check", "-c", str(config)]) == 0


def test_a_closed_pipe_is_no_error(tmp_path: Path) -> None:
    import sys

    command = f"{sys.executable} -I -m hotproxy.cli.main --help | head -c 1"
    answer = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True)
    assert answer.stderr == ""


def test_the_instance_directory_must_be_ours_alone(tmp_path: Path) -> None:
    made = place.make("one", str(tmp_path / "run"))
    assert made.directory.stat().st_mode & 0o777 == 0o750
    made.directory.chmod(0o777)
    with pytest.raises(HotproxyError, match="nobody else can write"):
        place.make("one", str(tmp_path / "run"))
    (tmp_path / "run" / "two").symlink_to(tmp_path)
    with pytest.raises(HotproxyError, match="must be a directory"):
        place.make("two", str(tmp_path / "run"))


def test_the_first_runtime_directory_that_can_be_written_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path / "systemd"))
    assert place.make("a", None).runtime_dir == tmp_path / "systemd"
    assert place.find("a", None).directory == tmp_path / "systemd" / "a"
    monkeypatch.setenv("RUNTIME_DIRECTORY", "/proc/nowhere")
    assert place.candidates()[0] == Path("/proc/nowhere")
    assert place.make("a", None).runtime_dir != Path("/proc/nowhere")
    place.make("a", None).directory.rmdir()
