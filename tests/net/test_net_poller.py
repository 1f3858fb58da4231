"""The nested epoll, on a real event loop of both kinds: what uvloop forgets, stays."""

from __future__ import annotations

import asyncio
import os
import socket
import struct

import pytest
import uvloop

from hotproxy.net.poller import Poller


class Bench:
    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.bugs: list[Exception] = []
        self.poller = Poller(loop, self.on_bug)
        self.heard: list[object] = []

    def on_bug(self, callback: object, error: Exception) -> None:
        self.bugs.append(error)

    def run(self, turns: int = 10) -> None:
        """So many turns, waiting for nothing."""

        async def turn() -> None:
            for _ in range(turns):
                await asyncio.sleep(0)

        self.loop.run_until_complete(turn())


@pytest.fixture(params=[uvloop.new_event_loop, asyncio.new_event_loop], ids=["uvloop", "asyncio"])
def bench(request):
    loop = request.param()
    made = Bench(loop)
    yield made
    assert made.poller.watched == 0
    made.poller.close()
    loop.close()


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        one = socket.create_connection(listener.getsockname())
        two, _ = listener.accept()
    two.setblocking(False)
    return one, two


def test_the_bytes_before_a_reset_and_the_reset_are_both_heard(bench):
    """uvloop's add_reader ran the callback once for both (EPOLLERR), and never again: half an answer, then a hang."""
    client, server = tcp_pair()

    def read() -> None:
        try:
            data = server.recv(3)
            bench.heard.append(data)
        except ConnectionResetError:
            data = b""
            bench.heard.append("reset")
        if not data:
            bench.poller.remove_reader(server.fileno())

    client.sendall(b"abcdef")
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
    bench.poller.add_reader(server.fileno(), read)
    bench.run(50)
    assert bench.heard == [b"abc", b"def", "reset"]
    server.close()


def test_reader_and_writer_of_one_descriptor_come_and_go_alone(bench):
    one, two = socket.socketpair()
    two.setblocking(False)
    fd = two.fileno()

    def read() -> None:
        bench.heard.append(two.recv(100))

    def wrote() -> None:
        bench.heard.append("writable")
        bench.poller.remove_writer(fd)

    bench.poller.add_reader(fd, read)
    bench.poller.add_writer(fd, wrote)
    bench.run()
    one.send(b"x")
    bench.run()
    bench.poller.add_writer(fd, wrote)
    bench.poller.remove_reader(fd)
    one.send(b"y")
    bench.run()
    assert bench.heard == ["writable", b"x", "writable"]
    bench.poller.remove_reader(fd)
    bench.poller.remove_writer(fd)
    one.close()
    two.close()


def test_a_callback_that_raises_is_reported_and_stays(bench):
    one, two = socket.socketpair()
    two.setblocking(False)

    def read() -> None:
        bench.heard.append(two.recv(1))
        raise RuntimeError("a bug")

    bench.poller.add_reader(two.fileno(), read)
    one.send(b"ab")
    bench.run()
    assert bench.heard == [b"a", b"b"]
    assert [str(error) for error in bench.bugs] == ["a bug", "a bug"]
    bench.poller.remove_reader(two.fileno())
    one.close()
    two.close()


def test_an_event_of_a_closed_descriptor_is_not_given_to_its_successor(bench):
    """Both were ready; the first callback closed the second descriptor, and the kernel gave out its number again."""
    pairs = [socket.socketpair() for _ in range(2)]
    spare = socket.socketpair()
    fds = [pair[1].fileno() for pair in pairs]
    called: list[int] = []

    def replace_the_other(mine: int) -> None:
        called.append(mine)
        other = 1 - mine
        bench.poller.remove_reader(fds[mine])
        bench.poller.remove_reader(fds[other])
        os.dup2(spare[1].fileno(), fds[other])  # closes it, and takes its number
        bench.poller.add_reader(fds[other], lambda: bench.heard.append("successor"))

    for index, pair in enumerate(pairs):
        bench.poller.add_reader(fds[index], lambda index=index: replace_the_other(index))
        pair[0].send(b"x")
    bench.run()
    assert len(called) == 1
    assert bench.heard == []
    bench.poller.remove_reader(fds[1 - called[0]])
    for one, two in [*pairs, spare]:
        one.close()
        two.close()


def test_call_soon_runs_in_the_next_turn(bench):
    bench.poller.call_soon(lambda: bench.heard.append("called"))
    assert bench.heard == []
    bench.run()
    assert bench.heard == ["called"]


def test_an_exclusive_reader_is_called_and_removed_like_any_other(bench):
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(b"\0hotproxy-test-" + os.urandom(8))
    listener.listen()
    listener.setblocking(False)

    def accept() -> None:
        bench.heard.append(listener.accept()[0])

    bench.poller.add_exclusive_reader(listener.fileno(), accept)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(listener.getsockname())
        bench.run()
        assert len(bench.heard) == 1
        bench.poller.remove_reader(listener.fileno())
        client2 = socket.socket(socket.AF_UNIX)
        client2.connect(listener.getsockname())
        bench.run()
        assert len(bench.heard) == 1
        client2.close()
    bench.heard.pop().close()
    listener.close()


def test_removing_what_is_not_there_is_nothing(bench):
    bench.poller.remove_reader(9999)
    bench.poller.remove_writer(9999)
