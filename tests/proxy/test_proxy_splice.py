"""Bulk through a TCP proxy by way of a pipe: every byte once, whatever happens while some are in it."""

from __future__ import annotations

import random
import socket
from typing import Any

import pytest

from hotproxy.clock import TICK_S
from hotproxy.errors import DRAIN_DEADLINE
from hotproxy.proxy.tcp_proxy import BULK_READS, LARGE_BYTES
from tests.kit.tcp_bench import TcpBench, reset

BLOCK = random.Random(7).randbytes(1 << 20)
FAMILY = pytest.mark.parametrize("family", ["tcp", "unix"])
WAY = pytest.mark.parametrize("way", ["down", "up"])


class Bulk:
    """One side sends as much as is taken, the other one reads when it is told to."""

    def __init__(self, make: Any, family: str = "tcp", way: str = "down") -> None:
        self.bench: TcpBench = make(family)
        self.bench.start()
        # The bench's small one would let a segment through for every delayed acknowledgement.
        self.bench.proxy.socks()[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 256 * 1024)
        upstream = self.bench.connect()
        self.sender, self.receiver = (upstream, self.bench.client) if way == "down" else (self.bench.client, upstream)
        self.sender.setblocking(False)
        self.receiver.setblocking(False)
        self.sent = 0
        self.received = 0
        self.right = True

    @property
    def leg(self) -> Any:
        proxy = self.bench.proxy
        return proxy._up if self.sender is self.bench.upstream else proxy._down

    def send(self) -> bool:
        """Some more; False: nothing is taken now."""
        at = self.sent % len(BLOCK)
        try:
            self.sent += self.sender.send(BLOCK[at : at + 200_000])
        except BlockingIOError:
            return False
        return True

    def receive(self) -> bool:
        """What there is; False: nothing now."""
        try:
            data = self.receiver.recv(100_000)
        except BlockingIOError:
            return False
        at = self.received % len(BLOCK)
        expected = (BLOCK[at:] + BLOCK)[: len(data)]
        self.right = self.right and data == expected
        self.received += len(data)
        return bool(data)

    def flow(self, rounds: int) -> None:
        for _ in range(rounds):
            self.send()
            self.bench.turn()
            while self.receive():
                self.bench.turn()

    def begin(self) -> None:
        """Until it goes by way of a pipe."""
        for _ in range(1000):
            self.flow(1)
            if self.leg.splice is not None:
                return
        raise AssertionError("it is still copied")

    def block(self) -> None:
        """Until nothing is taken any more, and some is in the pipe."""
        self.begin()
        stuck = 0
        while stuck < 3:
            stuck = 0 if self.send() else stuck + 1
            self.bench.turn()
        assert self.leg.splice._in_pipe > 0
        assert self.bench.process.gauge.value == self.leg.splice._in_pipe

    def finish(self) -> None:
        """The sender ends; the receiver reads to the end."""
        self.sender.shutdown(socket.SHUT_WR)
        while True:
            self.bench.turn()
            before = self.received
            if not self.receive() and before == self.received:
                try:
                    if self.receiver.recv(1, socket.MSG_PEEK) == b"":
                        break
                except BlockingIOError:
                    continue
        assert self.right and self.received == self.sent


@FAMILY
@WAY
def test_every_byte_arrives_once_and_is_counted(make: Any, family: str, way: str) -> None:
    bulk = Bulk(make, family, way)
    bulk.begin()
    assert bulk.sent >= BULK_READS * LARGE_BYTES
    bulk.flow(30)
    bulk.finish()
    bulk.bench.client.close()
    assert bulk.bench.upstream is not None
    bulk.bench.upstream.close()
    bulk.bench.turn()
    info = bulk.bench.info
    assert (info.tx_bytes if way == "down" else info.rx_bytes) == bulk.sent
    stats = bulk.bench.process.stats
    assert (stats.upstream_cx_rx_bytes_total if way == "down" else stats.upstream_cx_tx_bytes_total).value == bulk.sent


def test_a_conversation_is_never_spliced(make: Any) -> None:
    bulk = Bulk(make)
    for _ in range(10 * BULK_READS):
        bulk.sender.send(BLOCK[: LARGE_BYTES - 1])
        bulk.bench.turn()
        bulk.receiver.recv(100_000)
    assert bulk.leg.splice is None


@FAMILY
@WAY
def test_a_slow_reader_stops_the_sender_and_both_go_on(make: Any, family: str, way: str) -> None:
    bulk = Bulk(make, family, way)
    for _ in range(3):
        bulk.block()
        bulk.flow(10)
    bulk.finish()


@FAMILY
@WAY
@pytest.mark.parametrize("commit", [True, False], ids=["commit", "rollback"])
def test_it_moves_with_bytes_in_the_pipe(make: Any, family: str, way: str, commit: bool) -> None:
    """They are unsent bytes like any others; over there it becomes bulk again."""
    bulk = Bulk(make, family, way)
    for _ in range(2):
        bulk.block()
        bulk.bench.proxy._up.settle()  # so that gauges before and after can be compared
        bulk.bench.proxy._down.settle()
        bulk.bench.move(commit)
        assert bulk.leg.splice is None
        bulk.flow(10)
    bulk.finish()


@WAY
def test_freezing_empties_the_pipe(make: Any, way: str) -> None:
    bulk = Bulk(make, "unix", way)
    bulk.block()
    in_pipe = bulk.leg.splice._in_pipe
    assert bulk.bench.proxy.freeze()
    state: Any = bulk.bench.proxy.dump()
    assert len(state["down" if way == "down" else "up"]["pending"]) == in_pipe
    pipes = bulk.bench.process.runtime.pipes
    assert pipes._made == len(pipes._free)
    bulk.bench.proxy.thaw()
    bulk.finish()


@pytest.mark.parametrize("who", ["sender", "receiver"])
@WAY
def test_a_reset_while_bytes_are_in_the_pipe(make: Any, who: str, way: str) -> None:
    """What the sender had sent still arrives, and then a reset; nothing is lost: no pipe, no gauge, no descriptor."""
    bulk = Bulk(make, "tcp", way)
    bulk.block()
    if who == "receiver":
        reset(bulk.receiver)
    else:
        reset(bulk.sender)
        bulk.bench.turn()
        with pytest.raises(ConnectionResetError):
            for _ in range(1000):
                bulk.receive()
                bulk.bench.pass_time(TICK_S)
    bulk.bench.pass_time(100.0)
    assert bulk.right and bulk.bench.process.ended == [bulk.bench.proxy]
    if who == "sender":
        info, stats = bulk.bench.info, bulk.bench.process.stats
        upstream = (stats.upstream_cx_rx_bytes_total.value, stats.upstream_cx_tx_bytes_total.value)
        read, written = (upstream[0], info.tx_bytes) if way == "down" else (info.rx_bytes, upstream[1])
        assert read == written == bulk.received > 0


def test_the_drain_deadline_drops_what_is_in_the_pipe(make: Any) -> None:
    bulk = Bulk(make)
    bulk.block()
    bulk.bench.proxy.close(DRAIN_DEADLINE)
    assert bulk.bench.process.ended == [bulk.bench.proxy]


def test_an_idle_timeout_sees_that_bytes_move(make: Any) -> None:
    bulk = Bulk(make)
    bulk.block()
    for _ in range(4):
        bulk.bench.pass_time(45.0)
        before = bulk.bench.proxy._bytes_moved()
        while bulk.bench.proxy._bytes_moved() == before:
            bulk.receive()
            bulk.bench.turn()
    assert not bulk.bench.process.ended
    bulk.bench.pass_time(200.0)
    assert bulk.bench.process.ended and bulk.bench.process.tcp_stats.idle_timeout.value == 1


def test_without_a_pipe_it_is_copied(make: Any) -> None:
    bulk = Bulk(make)
    bulk.bench.process.runtime.pipes._useless = True
    bulk.begin()
    bulk.flow(20)
    bulk.finish()


def test_both_ways_at_once(make: Any) -> None:
    down = Bulk(make)
    down.begin()
    upstream = down.bench.upstream
    assert upstream is not None
    sent = received = 0
    for _ in range(300):
        down.flow(1)
        try:
            sent += down.receiver.send(BLOCK[:100_000])
        except BlockingIOError:
            pass
        down.bench.turn()
        try:
            received += len(upstream.recv(200_000))
        except BlockingIOError:
            pass
    assert down.bench.proxy._down.splice is not None and down.bench.proxy._up.splice is not None
    while received < sent:
        down.bench.turn()
        try:
            received += len(upstream.recv(200_000))
        except BlockingIOError:
            pass
    assert down.right and received == sent
