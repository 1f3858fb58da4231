"""Clients that are slow, many, or out for memory: others are served, memory stays bounded, nothing is left."""

from __future__ import annotations

import contextlib
import resource
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.kit import clients
from tests.kit.instance import Instance, eventually, instance
from tests.kit.origin import RecordingOrigin

CONFIG = """
workers: {workers}
listeners:
  - {{name: hurried, address: "127.0.0.1:0", request_headers_timeout: 500ms, idle_timeout: 1s, cluster: origin}}
  - {{name: patient, address: "127.0.0.1:0", request_headers_timeout: 2m, idle_timeout: 2m, cluster: origin}}
clusters:
  - {{name: origin, endpoints: ["{origin}"]}}
"""
MANY = 50
GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
LAST_GET = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
POST_HALF = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nhalf"
GET_LARGE = b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
LARGE = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (8 << 20) + bytes(8 << 20)
# What one connection may hold: unsent bytes up to the mark (256 KiB) and one read (64 KiB), each side's, with some air.
HELD_KIB = 700
# Measured: 2.0 KiB with CPython 3.11.
MOST_PER_CONNECTION_KIB = 4


def answer(connection: int, received: bytes) -> bytes | None:
    """Only complete requests without a body."""
    head = received.rpartition(b"\r\n\r\n")[0].rpartition(b"\r\n\r\n")[2]
    if not received.endswith(b"\r\n\r\n") or not head.startswith(b"GET "):
        return None
    return LARGE if head.startswith(b"GET /large") else OK


@contextlib.contextmanager
def serving(workers: int = 1) -> Iterator[Instance]:
    directory = Path(tempfile.mkdtemp(prefix="hp-"))
    try:
        with (
            RecordingOrigin(answer) as origin,
            instance(directory, CONFIG.format(workers=workers, origin=origin.address)) as proxy,
        ):
            yield proxy
            assert proxy.stats()["server.internal_errors"] == 0
    finally:
        shutil.rmtree(directory)


@pytest.fixture(scope="module")
def proxy() -> Iterator[Instance]:
    with serving() as proxy:
        yield proxy


def crowd(stack: contextlib.ExitStack, port: int, size: int, says: bytes = b"") -> list[socket.socket]:
    socks = [stack.enter_context(clients.connect(port)) for _ in range(size)]
    for sock in socks:
        sock.sendall(says)
    return socks


def somebody_is_served(proxy: Instance) -> None:
    for name in ("hurried", "patient"):
        assert clients.exchange(proxy.port(name), LAST_GET).startswith(b"HTTP/1.1 200 ")


def nobody_is_left(proxy: Instance) -> None:
    names = [f"http.{name}.downstream_cx_active" for name in ("hurried", "patient")]
    eventually(lambda: not any(proxy.stats()[name] for name in names), f"{names} to be 0")


def memory_kib(pid: int) -> int:
    return int(psutil.Process(pid).memory_full_info().uss) // 1024


def test_slow_senders_are_let_go_and_others_served(proxy: Instance) -> None:
    says = {
        b"GET / HTTP/1.1\r\nX: ": b"HTTP/1.1 408 ",  # its time runs from its first byte, whatever drips in
        b"GET / HTTP/1.1\r\nHost: a\r\n": b"HTTP/1.1 408 ",
        POST_HALF: b"HTTP/1.1 408 ",
        b"": b"",
    }
    port = proxy.port("hurried")
    with contextlib.ExitStack() as stack:
        crowds = {said: crowd(stack, port, MANY, said) for said in says}
        for sock in next(iter(crowds.values())):
            with contextlib.suppress(OSError):  # let go already
                sock.sendall(b"y")
        somebody_is_served(proxy)
        for said, socks in crowds.items():
            for sock in socks:
                heard = clients.read_to_end(sock)
                assert heard.startswith(says[said])
                assert bool(heard) == bool(says[said])
        nobody_is_left(proxy)


def test_readers_that_never_read_cost_bounded_memory_and_are_let_go(proxy: Instance) -> None:
    somebody_is_served(proxy)
    worker = proxy.workers()[0]
    before = memory_kib(worker)
    asked = proxy.stats()["http.hurried.downstream_rq_total"] + MANY
    with contextlib.ExitStack() as stack:
        crowd(stack, proxy.port("hurried"), MANY, GET_LARGE)
        eventually(lambda: proxy.stats()["http.hurried.downstream_rq_total"] == asked, "all of them to have asked")
        somebody_is_served(proxy)
        assert memory_kib(worker) - before < MANY * HELD_KIB
        nobody_is_left(proxy)


def test_head_bombs_are_refused_at_their_limit(proxy: Instance) -> None:
    """64 KiB each, and no more is looked at; fifty of them unfinished are what fifty of them weigh."""
    worker, errors = proxy.workers()[0], "http.patient.downstream_cx_protocol_error"
    before, refused = memory_kib(worker), proxy.stats()[errors]
    line = b"X: " + b"y" * 8000 + b"\r\n"
    with contextlib.ExitStack() as stack:
        socks = crowd(stack, proxy.port("patient"), MANY, GET[:-2] + line * 8)  # within the limit
        somebody_is_served(proxy)
        assert memory_kib(worker) - before < MANY * 2 * 64
        for sock in socks:
            with contextlib.suppress(OSError):
                sock.sendall(line * 100)
            with contextlib.suppress(ConnectionResetError):  # much of what was sent is never read
                assert clients.read_to_end(sock).startswith(b"HTTP/1.1 431 ")
        nobody_is_left(proxy)
    assert proxy.stats()[errors] == refused + MANY


def test_without_descriptors_some_are_refused_at_once_and_later_all_are_served(proxy: Instance) -> None:
    """The worker's limit is lowered under it; a reserved descriptor tells whoever comes that nobody is at home."""
    somebody_is_served(proxy)
    port, failed = proxy.port("patient"), "listener.patient.downstream_cx_accept_failed"
    worker = psutil.Process(proxy.workers()[0])
    # The limit is on the numbers: above the highest, or the reserved one could not be taken again.
    used = [int(path.name) for path in Path(f"/proc/{worker.pid}/fd").iterdir()]
    limits = worker.rlimit(psutil.RLIMIT_NOFILE)
    worker.rlimit(psutil.RLIMIT_NOFILE, (max(used) + 11, limits[1]))
    more_than_fit = max(used) + 11 - len(used) + MANY
    with contextlib.ExitStack() as stack:
        served = crowd(stack, port, 1, GET)[0]
        assert clients.read_response(served)[0].startswith(b"HTTP/1.1 200 ")
        others = crowd(stack, port, more_than_fit)
        # From now on: accept() fails for want of a descriptor before it looks whether anybody waits (accept(2)), and
        # with nobody there, nobody is refused.
        before = proxy.stats()[failed]
        eventually(lambda: proxy.stats()[failed] > before, "an accept to fail")
        served.sendall(GET)  # whoever is connected goes on
        assert clients.read_response(served)[0].startswith(b"HTTP/1.1 200 ")
        worker.rlimit(psutil.RLIMIT_NOFILE, limits)
        refused = 0
        for sock in others:
            said = b""
            with contextlib.suppress(ConnectionError):
                sock.sendall(LAST_GET)
                said = clients.read_to_end(sock)
            refused += not said
            assert not said or said.startswith(b"HTTP/1.1 200 ")
    assert 0 < refused <= proxy.stats()[failed]
    assert proxy.workers() == [worker.pid], "somebody died of it"
    somebody_is_served(proxy)
    nobody_is_left(proxy)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_ten_thousand_idle_connections() -> None:
    """Each asks once, stays, and asks again; prints what one weighs (`pytest -s`)."""
    count = 10_000
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 1.2 * count:
        pytest.skip(f"RLIMIT_NOFILE is {hard}, this needs {int(1.2 * count)}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        with serving(workers=2) as proxy, contextlib.ExitStack() as stack:
            somebody_is_served(proxy)
            workers = proxy.workers()
            before = sum(memory_kib(worker) for worker in workers)
            socks = crowd(stack, proxy.port("patient"), count)
            active = "http.patient.downstream_cx_active"
            eventually(lambda: proxy.stats()[active] == count, "all to be accepted")
            connected = sum(memory_kib(worker) for worker in workers)
            for _ in range(2):
                for sock in socks:
                    sock.sendall(GET)
                    assert clients.read_response(sock)[0].startswith(b"HTTP/1.1 200 ")
            asked = sum(memory_kib(worker) for worker in workers)
            silent, kept = (connected - before) / count, (asked - before) / count
            print(f"\nmemory per connection: {silent:.2f} KiB silent, {kept:.2f} KiB after two requests")
            assert kept < MOST_PER_CONNECTION_KIB
            somebody_is_served(proxy)
            stack.close()
            nobody_is_left(proxy)
            assert proxy.workers() == workers
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
