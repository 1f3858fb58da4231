"""One question, one answer: what the commands make of a supervisor that refuses, or says nothing."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hotproxy.cli import lifecycle
from hotproxy.cli.main import call
from hotproxy.restarter.frames import Channel


@contextmanager
def supervisor(directory: Path, reason: str | None) -> Iterator[list[dict[str, object]]]:
    """Listens as the supervisor of the instance `a`; refuses the one command that comes, or (None) says nothing."""
    asked: list[dict[str, object]] = []
    (directory / "a").mkdir()

    def answer() -> None:
        sock, _ = listening.accept()
        with sock:
            sock.setblocking(True)
            channel = Channel(sock)
            while (message := channel.receive()) is None:
                pass
            asked.append(message.fields)
            if reason is not None:
                channel.send("RESULT", {"ok": False, "reason": reason, "data": {}})
            gone.wait()

    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listening:
        listening.bind(str(directory / "a" / "supervisor.sock"))
        listening.listen()
        gone = threading.Event()
        thread = threading.Thread(target=answer)
        thread.start()
        try:
            yield asked
        finally:
            gone.set()
            thread.join()


def test_a_refused_reload_says_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with supervisor(tmp_path, "127.0.0.1:80: address in use") as asked:
        assert call(["--runtime-dir", str(tmp_path), "--instance", "a", "reload", "--timeout", "7"]) == 1
    assert asked == [{"verb": "reload", "arguments": {"timeout_s": 7.0}}]
    assert capsys.readouterr().err == "hotproxy: reload refused: 127.0.0.1:80: address in use\n"


def test_mistakes_of_a_config_keep_their_columns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mistakes = "error: unknown field 'x'        a.yaml:1:1\n    1 | x: 1\n      | ^"
    with supervisor(tmp_path, mistakes):
        assert call(["--runtime-dir", str(tmp_path), "--instance", "a", "reload"]) == 1
    assert capsys.readouterr().err == f"hotproxy: reload refused:\n{mistakes}\n"


def test_a_supervisor_that_hangs_is_not_reachable(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lifecycle, "ANSWER_S", 0.0)
    with supervisor(tmp_path, None):
        assert call(["--runtime-dir", str(tmp_path), "--instance", "a", "reload", "--timeout", "0.1"]) == 3
    assert "did not answer 'reload' in 0.1s" in capsys.readouterr().err


def test_a_worker_that_can_not_be_recycled(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with supervisor(tmp_path, "there is no worker 7 that serves; these do: 0, 1") as asked:
        assert call(["--runtime-dir", str(tmp_path), "--instance", "a", "worker", "recycle", "7"]) == 1
    assert asked == [{"verb": "recycle", "arguments": {"slot": 7}}]
    assert capsys.readouterr().err == "hotproxy: refused: there is no worker 7 that serves; these do: 0, 1\n"
