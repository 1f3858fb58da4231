"""The C programs of `make bench`: a generator that flatters or a floor that loses bytes would spoil every figure."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.peers import loads, native
from bench.startup import free_port
from tests.kit import clients
from tests.kit.instance import eventually
from tests.kit.origin import RecordingOrigin

REQUEST = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
RATE = 100
STALL_S = 0.5


def program(name: str) -> Path:
    found = native.build(name)
    if found is None:
        pytest.skip("no C compiler")
    return found


def open_loop(directory: Path, answer: Callable[[int], bytes]) -> dict[str, Any]:
    """A second of it, over one connection; `answer` is told how many requests have come so far."""
    (directory / "request").write_bytes(REQUEST)
    answered = 0

    def reply(connection: int, received: bytes) -> bytes | None:
        nonlocal answered
        if received.count(REQUEST) == answered:
            return None
        answered += 1
        return answer(answered)

    with RecordingOrigin(reply) as origin:
        port = origin.address.rpartition(":")[2]
        arguments = [port, "1", str(RATE), "1", "7", str(directory / "request")]
        done = subprocess.run([program("open_loop"), *arguments], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    said: dict[str, Any] = json.loads(done.stdout)
    assert said["requests"] == answered
    return said


def test_every_request_is_sent_and_answered(tmp_path: Path) -> None:
    said = open_loop(tmp_path, lambda number: OK)
    assert (said["unanswered"], said["errors"]) == (0, 0)
    assert RATE / 2 < said["requests"] < RATE * 2
    assert 0 < said["p50_us"] <= said["p99_us"] <= said["p999_us"]


def test_an_answer_with_another_status_is_an_error(tmp_path: Path) -> None:
    said = open_loop(tmp_path, lambda number: OK.replace(b"200", b"503") if number % 2 else OK)
    assert said["errors"] == (said["requests"] + 1) // 2


def test_whoever_was_due_while_the_proxy_stood_still_has_waited(tmp_path: Path) -> None:
    """A closed loop sees a stall once, in the one request that met it; half of these requests were due in it."""

    def stalls_once(number: int) -> bytes:
        if number == RATE // 3:
            time.sleep(STALL_S)
        return OK

    said = open_loop(tmp_path, stalls_once)
    assert said["p50_us"] > STALL_S * 1e6 / 10
    assert said["p99_us"] > STALL_S * 1e6 / 2


LAST = OK.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n")


def through_closes(directory: Path, answer: Callable[[int], bytes]) -> tuple[dict[str, Any], list[tuple[int, int]]]:
    """As above, with a diary, which is what makes it go on; `answer` is told how many requests came on all connections.

    Returns what it says, and (due, latency) of each request.
    """
    (directory / "request").write_bytes(REQUEST)
    before: list[int] = []  # requests that each connection has had
    came = 0

    def reply(connection: int, received: bytes) -> bytes | None:
        nonlocal came
        before.extend([0] * (connection + 1 - len(before)))
        if received.count(REQUEST) == before[connection]:
            return None
        before[connection] += 1
        came += 1
        return answer(came)

    with RecordingOrigin(reply) as origin:
        port = int(origin.address.rpartition(":")[2])
        program("open_loop")
        said = loads.run(loads.open_loop(port, 1, RATE, 1, 7, directory / "request", directory / "diary"), 0)
    diary = loads.read(directory / "diary")
    assert said["requests"] == came == len(diary)
    return said, diary


def test_a_request_that_is_cut_fails_and_the_next_one_has_a_new_connection(tmp_path: Path) -> None:
    said, diary = through_closes(tmp_path, lambda number: b"" if number in (5, 6) else OK)
    assert (said["failed"], said["closed"], said["unanswered"], said["errors"]) == (2, 0, 0, 0)
    assert [number for number, (_, after_ns) in enumerate(diary, 1) if after_ns == -1] == [5, 6]
    assert all(after_ns > 0 for number, (_, after_ns) in enumerate(diary, 1) if number not in (5, 6))


def test_whoever_is_asked_to_go_goes_and_nothing_failed(tmp_path: Path) -> None:
    said, _ = through_closes(tmp_path, lambda number: LAST if number % 10 == 0 else OK)
    assert (said["failed"], said["closed"], said["unanswered"]) == (0, said["requests"] // 10, 0)


def test_the_diary_is_in_the_order_and_on_the_clock_of_everybody(tmp_path: Path) -> None:
    began_ns = time.monotonic_ns()
    _, diary = through_closes(tmp_path, lambda number: OK)
    assert sorted(diary) == diary
    assert began_ns < diary[0][0] and diary[-1][0] < time.monotonic_ns()


@contextlib.contextmanager
def pass_through(origin_port: str) -> Iterator[int]:
    port = free_port()
    process = subprocess.Popen([program("passthrough"), str(port), origin_port])
    try:
        eventually(lambda: _listens(port), "the pass-through to listen")
        yield port
    finally:
        process.kill()
        process.wait()


def _listens(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


def test_the_floor_passes_every_byte_in_both_directions() -> None:
    question, answer = bytes(range(256)) * 4096, bytes(reversed(range(256))) * 8192
    with RecordingOrigin(lambda number, data: answer if len(data) == len(question) else None) as origin:
        with pass_through(origin.address.rpartition(":")[2]) as port, clients.connect(port) as sock:
            sock.sendall(question)
            received = b""
            while len(received) < len(answer) and (data := sock.recv(65536)):
                received += data
        assert received == answer
        assert question in [bytes(each) for each in origin.received]
