"""`hotproxy respond` from outside: what it answers, and that it leaves nothing behind."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from hotproxy.cli.main import call


def heed_ctrl_c() -> None:
    """A shell starts what runs in the background with SIGINT ignored, tests among it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_it_answers_and_removes_its_socket(tmp_path: Path, number: signal.Signals) -> None:
    """TERM left the socket's file, so the next start found an address in use; content-type came twice."""
    path = tmp_path / "o.sock"
    command = [sys.executable, "-m", "hotproxy.cli.main", "respond", "<b>hi</b>", "--listen", f"unix:{path}"]
    command += ["--status", "201", "--header", "Content-Type: text/html", "--header", "x-a: 1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, preexec_fn=heed_ctrl_c) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == f"responding on unix:{path}\n".encode()
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
            client.sendall(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
            answer = client.makefile("rb").read()
        process.send_signal(number)
        assert process.wait() == (0 if number == signal.SIGTERM else 130)
    assert answer.startswith(b"HTTP/1.1 201 ") and answer.endswith(b"\r\n\r\n<b>hi</b>")
    assert answer.lower().count(b"content-type") == 1 and b": text/html\r\n" in answer and b"x-a: 1\r\n" in answer
    assert not path.exists()


@pytest.mark.parametrize("header", ["nonsense", ": x", "a b: c", "x: a\nb", "ü: 1"])
def test_a_header_that_cannot_be_sent_is_refused(header: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["respond", "--listen", ":0", "--header", header]) == 2
    assert "'name: value'" in capsys.readouterr().err
