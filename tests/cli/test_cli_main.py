"""The command line from outside: exit codes, messages, never a traceback."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from hotproxy.cli import listen, place
from hotproxy.cli import main as cli_main
from hotproxy.cli.main import VERBS, call
from hotproxy.config.address import Address
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
        (["worker", "recycle", "x"], "'x' is not a valid integer"),
        (["worker", "recycle", "-1"], "-1"),
        (["stats", "("], "is no regular expression"),
        (["proxy", "--from", ":8080"], "--to"),
        (["proxy", "--from", "8080", "--to", ":9000", "--emit"], "--from '8080'"),
        (["proxy", "--from", ":0", "--to", "localhost", "--emit"], "needs a port"),
        (["proxy", "--from", ":0", "--to", "h2c://a", "--emit"], "only HTTP/1.1"),
        (["proxy", "--from", ":0", "--to", "https://a", "--to", ":9000", "--emit"], "one and the same host"),
        (["proxy", "--from", ":0", "--to", "https://a", "--to", "https://b", "--emit"], "one and the same host"),
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


@pytest.mark.parametrize(
    ("to", "endpoint", "tls"),
    [
        ("https://localhost", '["127.0.0.1:443"]', "tls: {sni: localhost}"),
        ("https://localhost:8443/", '["127.0.0.1:8443"]', "tls: {sni: localhost}"),
        ("https://127.0.0.1:8443", '["127.0.0.1:8443"]', "tls: {}"),
    ],
)
def test_endpoints_may_speak_tls(to: str, endpoint: str, tls: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["proxy", "--from", ":8080", "--to", to, "--emit"]) == 0
    text = capsys.readouterr().out
    assert endpoint in text
    assert tls in text


def _run(arguments: list[str], redirected: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    command = f"exec {sys.executable} -m hotproxy.cli.main {shlex.join(arguments)} {redirected}"
    return subprocess.run(["bash", "-c", command], capture_output=True, text=True, env=os.environ | environment)


def test_version_says_what_is_not_compiled_and_why() -> None:
    shown = _run(["version"], HOTPROXY_KERNEL="pure").stdout
    assert "(no compiled kernel: switched off by HOTPROXY_KERNEL=pure)\n" in shown
    assert "shm cells: plain Python (switched off by HOTPROXY_KERNEL=pure)\n" in shown


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_closed_pipe_is_no_error(unbuffered: str) -> None:
    """`hotproxy stats | head` ended with 1 (click's answer to EPIPE), or with 120 (the interpreter's last flush)."""
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "hotproxy.cli.main", "version"]
    environment = os.environ | {"PYTHONUNBUFFERED": unbuffered}
    answer = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, env=environment)
    os.close(writing)
    assert (answer.returncode, answer.stderr) == (0, "")


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_full_disk_is_no_bug_of_ours(unbuffered: str) -> None:
    answer = _run(["version"], ">/dev/full", PYTHONUNBUFFERED=unbuffered)
    assert (answer.returncode, answer.stderr) == (1, "hotproxy: No space left on device\n")


def test_closed_streams_are_nobody_elses() -> None:
    """`hotproxy run >&-` was an internal error; and the next descriptor, a socket perhaps, would have become stdout."""
    assert _run(["version"], ">&- <&-").returncode == 0
    assert _run(["stats", "("], "2>&-").returncode == 2


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


def test_another_users_directory_hides_no_instance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory that may not be looked into ended the search, though an instance of this user's came behind it."""
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path / "foreign"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setattr(place.tempfile, "gettempdir", lambda: str(tmp_path / "tmp"))
    (tmp_path / "hotproxy" / "mine").mkdir(parents=True)
    is_dir = Path.is_dir

    def refuse(path: Path) -> bool:
        if path.is_relative_to(tmp_path / "foreign"):
            raise PermissionError(13, "Permission denied", str(path))
        return is_dir(path)

    monkeypatch.setattr(Path, "is_dir", refuse)  # the tests may run as root, who is refused nothing
    assert place.find("mine", None).directory == tmp_path / "hotproxy" / "mine"
    with pytest.raises(HotproxyError, match=r"not permitted to look for instance 'other' in .*foreign") as refused:
        place.find("other", None)
    assert refused.value.exit_code == 4


def test_a_foreign_directory_under_tmp_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everybody can make /tmp/hotproxy-1000 before user 1000 does, and then answer in the name of his proxy."""
    monkeypatch.delenv("RUNTIME_DIRECTORY", raising=False)
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    monkeypatch.setattr(place.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(place, "SYSTEM", Path("/proc/nowhere"))
    planted = tmp_path / f"hotproxy-{os.getuid()}"
    (planted / "a").mkdir(parents=True)
    (planted / "a" / "supervisor.sock").touch()
    planted.chmod(0o777)  # stands for another owner, which only root could give it
    with pytest.raises(HotproxyError, match="there is no instance 'a'"):
        place.find("a", None)
    with pytest.raises(HotproxyError, match="no runtime directory"):
        place.make("a", None)
    planted.rename(tmp_path / "away")
    assert place.make("a", None).runtime_dir.stat().st_mode & 0o777 == 0o700
    assert place.find("a", None).runtime_dir == planted


def test_nowhere_to_put_temporary_files_is_no_reason_not_to_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a container with a read-only root `run` ended with "No usable temporary directory found"."""

    def none() -> str:
        raise FileNotFoundError("No usable temporary directory found")

    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path))
    monkeypatch.setattr(place.tempfile, "gettempdir", none)
    assert place.make("a", None).directory == tmp_path / "a"
    assert place.find("a", None).directory == tmp_path / "a"
    assert place.make("b", str(tmp_path)).directory == tmp_path / "b"


def test_port_0_is_chosen_before_it_is_shown() -> None:
    chosen = listen.with_free_port(Address.parse("127.0.0.1:0"))
    assert chosen.host == "127.0.0.1" and chosen.port > 0
    assert listen.with_free_port(chosen) is chosen
    assert listen.with_free_port(Address.parse("unix:/a")) == Address.parse("unix:/a")
