"""Origins for tests: a real nginx, and one that records every byte it receives and answers from a script."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.kit.instance import eventually

NGINX_CONFIG = """
daemon off; master_process off; error_log {directory}/error.log crit; pid {directory}/nginx.pid;
events {{ worker_connections 8192; }}
http {{
  access_log off; keepalive_requests 1000000000; client_body_temp_path {directory}; proxy_temp_path {directory};
  fastcgi_temp_path {directory}; uwsgi_temp_path {directory}; scgi_temp_path {directory};
  default_type text/plain;
  server {{
    # A unix socket refuses at once whom its queue has no room for, and a new generation connects anew, all at once.
    listen unix:{directory}/nginx.sock backlog=4096;
    client_max_body_size 0;
    location / {{ return 200 "$http_x_number\\n"; }}
    location /files/ {{ alias {directory}/files/; }}
  }}
}}
"""


def need(program: str) -> str:
    """The program's path; without it the test is skipped, and fails where all peers must be there (CI)."""
    path = find(program)
    if path is None:
        if os.environ.get("HOTPROXY_TEST_REQUIRE_PEERS"):
            pytest.fail(f"{program} is not installed, and HOTPROXY_TEST_REQUIRE_PEERS is set")
        pytest.skip(f"{program} is not installed")
    return path


def find(program: str) -> str | None:
    """The program's path, in the directories of administrators too."""
    return shutil.which(program) or shutil.which(program, path="/usr/sbin:/usr/local/sbin")


@contextlib.contextmanager
def nginx(directory: Path) -> Iterator[str]:
    """nginx on a unix socket; gives back the header X-Number, and serves `directory/files`. Yields its address."""
    program = need("nginx")
    (directory / "files").mkdir(parents=True, exist_ok=True)
    config = directory / "nginx.conf"
    config.write_text(NGINX_CONFIG.format(directory=directory))
    process = subprocess.Popen(
        [program, "-c", str(config), "-p", str(directory), "-e", str(directory / "error.log")],
        stderr=subprocess.DEVNULL,
    )
    try:
        path = str(directory / "nginx.sock")

        def listening() -> bool:
            assert process.poll() is None, (directory / "error.log").read_text()
            with socket.socket(socket.AF_UNIX) as sock:
                return sock.connect_ex(path) == 0

        eventually(listening, "nginx to listen")
        yield f"unix:{path}"
    finally:
        process.kill()
        process.wait()


class RecordingOrigin:
    """Accepts on a port of its own. `answer(connection number, bytes so far)` says what to send once (None: wait for
    more; b"" closes); every byte that came in is in `received`, one bytearray per connection."""

    def __init__(self, answer: Callable[[int, bytes], bytes | None]) -> None:
        self._answer = answer
        self.received: list[bytearray] = []
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listening.getsockname()[1]}"
        self._open: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listening.accept()
            except OSError:
                return
            self._open.append(sock)
            self.received.append(bytearray())
            thread = threading.Thread(target=self._serve, args=(sock, len(self.received) - 1), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, sock: socket.socket, number: int) -> None:
        so_far = self.received[number]
        with contextlib.suppress(OSError), sock:
            while data := sock.recv(65536):
                so_far += data
                reply = self._answer(number, bytes(so_far))
                if reply == b"":
                    return
                if reply is not None:
                    sock.sendall(reply)

    def close(self) -> None:
        for sock in [self._listening, *self._open]:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()
        for thread in self._threads:
            thread.join(10)

    def __enter__(self) -> RecordingOrigin:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@contextlib.contextmanager
def echo_origin(unix_path: str = "") -> Iterator[dict[str, int]]:
    """`echo_origin.py` as a process; its ports."""
    program = Path(__file__).with_name("echo_origin.py")
    process = subprocess.Popen(
        [sys.executable, str(program), *([unix_path] if unix_path else [])],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        yield json.loads(process.stdout.readline())
    finally:
        process.kill()
        process.communicate()
