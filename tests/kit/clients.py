"""Clients for tests with a whole proxy: load generators and a watcher as processes, and raw connections."""

from __future__ import annotations

import contextlib
import json
import select
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from tests.kit.instance import PATIENCE_S, Instance


class LoadRun:
    """A running `load.py`. `stop()` gives its counts."""

    def __init__(
        self,
        host: str,
        port: int | str,
        new_rate: float,
        keepalive: int,
        pace_s: float,
        prefix: Sequence[str] = (),
        diary: bool = False,
    ) -> None:
        program = Path(__file__).with_name("load.py")
        arguments = [host, str(port), "--new-rate", str(new_rate), "--keepalive", str(keepalive)]
        arguments += ["--diary"] if diary else []
        self.process = subprocess.Popen(
            [*prefix, sys.executable, str(program), *arguments, "--pace", str(pace_s)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"running\n"

    def stop(self) -> dict[str, Any]:
        return counts(self.process, PATIENCE_S)


def counts(process: subprocess.Popen[bytes], patience_s: float) -> dict[str, Any]:
    """What a program of clients prints once its stdin is closed."""
    output, _ = process.communicate(timeout=patience_s)
    whole = process.returncode == 0 and output.endswith(b"}\n")
    assert whole, f"clients ended with {process.returncode} and {output[-200:]!r}"
    found: dict[str, Any] = json.loads(output)
    return found


class Run(Protocol):
    process: subprocess.Popen[bytes]


RunT = TypeVar("RunT", bound=Run)


@contextlib.contextmanager
def _killed_at_the_end(run: RunT) -> Iterator[RunT]:
    """Unless it has stopped by itself."""
    try:
        yield run
    finally:
        if run.process.poll() is None:
            run.process.kill()
        run.process.communicate()


@contextlib.contextmanager
def load(
    port: int | str,
    new_rate: float = 0,
    keepalive: int = 0,
    pace_s: float = 0.4,
    host: str = "127.0.0.1",
    prefix: Sequence[str] = (),
    diary: bool = False,
) -> Iterator[LoadRun]:
    """`host` "unix": `port` is a path. `prefix`: the command that runs it where the proxy can be reached."""
    with _killed_at_the_end(LoadRun(host, port, new_rate, keepalive, pace_s, prefix, diary)) as run:
        yield run


def connect(port: int) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def exchange(port: int, request: bytes, pieces: int = 0) -> bytes:
    """Send `request` (in pieces of so many bytes; 0: whole), and read until the proxy closes."""
    with connect(port) as sock:
        try:
            for start in range(0, len(request), pieces or len(request) or 1):
                sock.sendall(request[start : start + (pieces or len(request))])
        except OSError:
            pass  # refused half-way: what it said is what counts
        return read_to_end(sock)


def read_to_end(sock: socket.socket) -> bytes:
    received = bytearray()
    while data := sock.recv(65536):
        received += data
    return bytes(received)


def read_response(sock: socket.socket) -> tuple[bytes, bytes]:
    """One response with Content-Length: head and body."""
    received = bytearray()
    while b"\r\n\r\n" not in received:
        data = sock.recv(65536)
        assert data, f"EOF after {bytes(received)!r}"
        received += data
    head, _, body = bytes(received).partition(b"\r\n\r\n")
    length = next(
        int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")
    )
    while len(body) < length:
        data = sock.recv(65536)
        assert data, f"EOF inside the body after {len(body)} of {length} bytes"
        body += data
    return head, body


def queue_requests(port: int, count: int) -> list[socket.socket]:
    """As many clients that have connected and asked, each with a number of its own."""
    waiting = []
    for number in range(count):
        sock = connect(port)
        sock.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nX-Number: %d\r\nConnection: close\r\n\r\n" % number)
        waiting.append(sock)
    return waiting


def unanswered(waiting: list[socket.socket]) -> list[str]:
    """What those have seen who did not get their own right answer."""
    wrong = []
    for number, sock in enumerate(waiting):
        with sock:
            try:
                answer = read_to_end(sock)
            except OSError as error:
                wrong.append(f"{number}: {error}")
                continue
            if not (answer.startswith(b"HTTP/1.1 200 ") and answer.endswith(b"\r\n\r\n%d\n" % number)):
                wrong.append(f"{number}: {answer!r}")
    return wrong


class LongLived:
    """A running `long_lived.py`. `stop()` gives its counts."""

    def __init__(self, wishes: dict[str, Any]) -> None:
        program = Path(__file__).with_name("long_lived.py")
        self.process = subprocess.Popen(
            [sys.executable, str(program), json.dumps(wishes)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self.process.stdout is not None
        assert select.select([self.process.stdout], [], [], PATIENCE_S)[0], "not every client was answered"
        assert self.process.stdout.readline() == b"running\n"

    def stop(self) -> dict[str, Any]:
        return counts(self.process, 2 * PATIENCE_S)


@contextlib.contextmanager
def long_lived(**wishes: Any) -> Iterator[LongLived]:
    """Connections that live through what the test does meanwhile: see `long_lived.py` for the wishes."""
    with _killed_at_the_end(LongLived(wishes)) as run:
        yield run


class Watch:
    """A running `watcher.py`. `stop()` gives what it has seen."""

    def __init__(self, proxy: Instance) -> None:
        program = Path(__file__).with_name("watcher.py")
        instance_dir = proxy.directory / "run" / proxy.name
        self.process = subprocess.Popen(
            [sys.executable, str(program), str(instance_dir), proxy.shared_memory_name()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"running\n"

    def stop(self) -> dict[str, Any]:
        output, _ = self.process.communicate(timeout=PATIENCE_S)
        seen: dict[str, Any] = json.loads(output)
        return seen


@contextlib.contextmanager
def watch(proxy: Instance) -> Iterator[Watch]:
    """Somebody who asks for statistics and status 20 times a second: see `watcher.py`."""
    with _killed_at_the_end(Watch(proxy)) as run:
        yield run
