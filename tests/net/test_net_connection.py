"""One socket, seen from its owner: what is called, in which order, and what the kernel and the peer see of it."""

from __future__ import annotations

import random
import socket
import struct

import pytest

from hotproxy.clock import TimerWheel
from hotproxy.net.connection import (
    BROKEN,
    CLOSED,
    FLUSH_S,
    FLUSHING,
    HIGH_WATERMARK_BYTES,
    LINGER_BYTES,
    LINGER_S,
    LINGERING,
    LOW_WATERMARK_BYTES,
    OPEN,
    Connection,
)
from hotproxy.net.saved_state import read_state
from tests.kit.clock import FakeClock, pass_time
from tests.kit.connection import FakeGauge
from tests.kit.loop import FakeLoop, WatchedLoop


class Owner:
    """Writes down what it hears; `on_next` is called once from inside on_data."""

    def __init__(self) -> None:
        self.heard: list[object] = []
        self.in_on_data = None

    def on_data(self, data: bytes) -> None:
        self.heard.append(data)
        if self.in_on_data is not None:
            self.in_on_data(data)

    def on_eof(self) -> None:
        self.heard.append("eof")

    def on_lost(self, error: str) -> None:
        self.heard.append(("lost", error))

    def on_pressure(self, high: bool) -> None:
        self.heard.append(high)


class Bench:
    """A connection on a real pair of sockets; `peer` is the other end, blocking."""

    def __init__(self, family: str = "unix", loop: FakeLoop | None = None) -> None:
        self.clock = FakeClock()
        self.wheel = TimerWheel(self.clock)
        self.loop = loop or FakeLoop()
        self.gauge = FakeGauge()
        self.owner = Owner()
        ours, self.peer = tcp_pair() if family == "tcp" else socket.socketpair()
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        ours.setblocking(False)
        self.peer.settimeout(5)
        self.connection = Connection(ours, self.owner, self.loop, self.wheel, self.gauge)
        self.done = 0

    def count_done(self) -> None:
        self.done += 1

    def pass_time(self, seconds: float) -> None:
        pass_time(self.clock, self.wheel, seconds)

    def read_all(self, expected: int) -> bytes:
        """What the peer gets while the loop turns."""
        got = bytearray()
        self.peer.setblocking(False)
        while len(got) < expected:
            self.loop.turn()
            try:
                got += self.peer.recv(65536)
            except BlockingIOError:
                pass
        self.peer.settimeout(5)
        return bytes(got)

    def close(self) -> None:
        self.connection.close()
        self.peer.close()
        assert not self.loop.readers and not self.loop.writers
        assert self.gauge.value == 0


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        one = socket.create_connection(listener.getsockname())
        two, _ = listener.accept()
    return one, two


def reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


@pytest.fixture(params=["unix", "tcp"])
def bench(request):
    made = Bench(request.param)
    yield made
    made.close()


@pytest.fixture
def tcp():
    made = Bench("tcp")
    yield made
    made.close()


def test_bytes_and_eof_arrive_in_order(bench):
    bench.connection.start()
    bench.peer.sendall(b"one")
    bench.loop.run()
    bench.peer.sendall(b"two")
    bench.peer.shutdown(socket.SHUT_WR)
    bench.loop.run()
    assert bench.owner.heard == [b"one", b"two", "eof"]
    assert bench.connection.rx_bytes == 6


def test_nothing_is_read_before_start(bench):
    bench.peer.sendall(b"early")
    bench.connection.read_disable()
    bench.connection.read_enable()
    assert bench.loop.run() == 0
    bench.connection.start()
    bench.loop.run()
    assert bench.owner.heard == [b"early"]


def test_reading_is_disabled_as_often_as_it_was_disabled(bench):
    bench.connection.start()
    bench.connection.read_disable()
    bench.connection.read_disable()
    bench.peer.sendall(b"x")
    bench.connection.read_enable()
    assert bench.loop.run() == 0
    bench.connection.read_enable()
    bench.loop.run()
    assert bench.owner.heard == [b"x"]
    with pytest.raises(AssertionError, match="read_enable without"):
        bench.connection.read_enable()


def test_after_the_peers_eof_we_still_write(bench):
    bench.connection.start()
    bench.peer.shutdown(socket.SHUT_WR)
    bench.loop.run()
    bench.connection.write(b"answer")
    assert bench.peer.recv(100) == b"answer"
    bench.connection.shutdown_write()
    assert bench.peer.recv(100) == b""
    assert bench.connection.state == OPEN


def test_after_our_half_close_we_still_read(bench):
    bench.connection.start()
    bench.connection.shutdown_write()
    assert bench.peer.recv(100) == b""
    bench.peer.sendall(b"late")
    bench.loop.run()
    assert bench.owner.heard == [b"late"]


def test_a_half_close_waits_for_what_is_pending_and_takes_nothing_more(bench):
    data = random.Random(1).randbytes(400_000)
    bench.connection.start()
    bench.connection.write(data)
    assert bench.connection.pending_bytes > 0
    bench.connection.shutdown_write()
    bench.connection.write(b"too late")
    assert bench.read_all(len(data)) == data
    bench.loop.run()
    assert bench.connection.write_closed
    assert bench.peer.recv(1) == b""


def test_the_gauge_counts_exactly_what_is_pending(bench):
    bench.connection.start()
    data = b"x" * 300_000
    bench.connection.write(data)
    bench.connection.write(b"y" * 1000)
    assert bench.gauge.value == bench.connection.pending_bytes == 301_000 - bench.connection.tx_bytes
    bench.read_all(150_000)
    assert bench.gauge.value == bench.connection.pending_bytes
    bench.connection.close()
    assert bench.gauge.value == 0


def test_pressure_comes_strictly_in_turns(bench):
    bench.connection.start()
    rounds = 3
    for _ in range(rounds):
        size = 0
        while bench.connection.pending_bytes <= HIGH_WATERMARK_BYTES:
            bench.connection.write(b"z" * 50_000)
            size += 50_000
        bench.connection.write(b"z" * 50_000)  # above is above: not told twice
        bench.read_all(size + 50_000)
        bench.loop.run()
        assert bench.connection.pending_bytes < LOW_WATERMARK_BYTES
    assert bench.owner.heard == [True, False] * rounds


def test_a_reset_while_idle_is_told_once_and_the_descriptor_is_closed(tcp):
    tcp.connection.start()
    reset(tcp.peer)
    tcp.loop.run()
    assert tcp.owner.heard == [("lost", "Connection reset by peer")]
    assert tcp.connection.state == CLOSED
    assert tcp.connection.sock.fileno() == -1


def test_a_write_that_fails_inside_on_data_is_told_afterwards(tcp):
    """The owner wrote to a dead peer from within on_data and found itself torn down in the middle of its own loop."""
    tcp.connection.start()
    during: list[int] = []

    def write_back(data: bytes) -> None:
        reset(tcp.peer)
        tcp.connection.write(b"a")  # meets ECONNRESET
        tcp.connection.write(b"b")
        during.append(len(tcp.owner.heard))

    tcp.owner.in_on_data = write_back
    tcp.peer.sendall(b"question")
    tcp.loop.run()
    assert during == [1]
    assert tcp.owner.heard == [b"question", ("lost", "Connection reset by peer")]


def test_an_early_answer_before_a_reset_is_heard(tcp):
    """An origin that refuses a body answers and closes; the reset that follows must not eat the answer."""
    tcp.connection.start()
    tcp.peer.sendall(b"413")
    reset(tcp.peer)
    tcp.connection.write(b"more body")
    assert tcp.connection.state == BROKEN
    tcp.loop.run()
    assert tcp.owner.heard == [b"413", ("lost", "Connection reset by peer")]


def test_a_failed_write_is_told_even_if_reading_is_disabled(tcp):
    tcp.connection.start()
    tcp.connection.read_disable()
    reset(tcp.peer)
    tcp.connection.write(b"x")
    tcp.connection.read_disable()
    tcp.loop.run()
    assert [event for event in tcp.owner.heard if event != b""] == [("lost", "Connection reset by peer")]


def test_a_failed_flush_is_told_by_the_next_turn(tcp):
    tcp.connection.start()
    tcp.connection.read_disable()
    tcp.connection.write(b"x" * 8_000_000)
    reset(tcp.peer)
    tcp.loop.run()
    assert tcp.owner.heard[-1] in {("lost", "Connection reset by peer"), ("lost", "Broken pipe")}
    assert tcp.owner.heard[:-1] == [True]
    assert tcp.gauge.value == 0


@pytest.mark.parametrize("how", ["close", "finish"])
def test_whoever_closes_after_a_failed_write_hears_nothing_more(tcp, how):
    tcp.connection.start()
    reset(tcp.peer)
    tcp.connection.write(b"x")
    getattr(tcp.connection, how)()
    assert tcp.connection.state == CLOSED
    tcp.loop.run()
    assert tcp.owner.heard == []


def test_closing_from_inside_on_data(bench):
    bench.connection.start()
    bench.owner.in_on_data = lambda data: bench.connection.close()
    bench.peer.sendall(b"x" * 200_000)
    bench.loop.run()
    assert len(bench.owner.heard) == 1


def test_finish_sends_everything_then_eof_then_waits_for_the_peer(bench):
    data = random.Random(2).randbytes(500_000)
    bench.connection.start()
    bench.connection.write(data)
    bench.connection.finish(bench.count_done)
    assert bench.connection.state == FLUSHING
    assert bench.read_all(len(data)) == data
    bench.loop.run()
    assert bench.connection.state == LINGERING
    assert bench.peer.recv(1) == b""
    assert bench.done == 0
    bench.peer.close()
    bench.loop.run()
    assert bench.connection.state == CLOSED
    assert bench.done == 1


def test_an_answer_survives_what_the_client_still_sends(tcp):
    """Closing at once made the kernel send RST, and the client read ECONNRESET instead of its 413."""
    tcp.connection.start()
    tcp.peer.sendall(b"x" * 20_000)
    tcp.connection.write(b"413")
    tcp.connection.finish()
    tcp.loop.run()
    tcp.peer.sendall(b"y" * 20_000)
    tcp.loop.run()
    assert tcp.peer.recv(100) == b"413"
    assert tcp.peer.recv(100) == b""
    assert tcp.connection.state == LINGERING


def test_a_descriptor_that_is_read_stays_watched_while_it_lingers():
    loop = WatchedLoop()
    bench = Bench(loop=loop)
    bench.connection.start()
    bench.connection.write(b"bye")
    bench.connection.finish(bench.count_done)
    bench.peer.sendall(b"late")
    loop.run()
    assert bench.connection.state == LINGERING
    assert loop.changes == 1
    bench.peer.close()
    loop.run()
    assert (bench.connection.state, bench.owner.heard, loop.changes) == (CLOSED, [], 2)


def test_lingering_ends_after_a_second(bench):
    bench.connection.start()
    bench.connection.finish(bench.count_done)
    bench.pass_time(LINGER_S - 0.2)
    assert bench.connection.state == LINGERING
    bench.pass_time(0.2)
    assert bench.connection.state == CLOSED
    assert bench.done == 1


def test_lingering_has_a_limit_that_no_window_reaches(bench):
    """It was 64 KiB: an upload that is refused has more under way, and its 413 was destroyed by the reset."""
    bench.connection.start()
    bench.connection.finish(bench.count_done)
    sent = 0
    while bench.connection.state == LINGERING:
        bench.peer.sendall(b"x" * 16 * 1024)
        sent += 16 * 1024
        bench.loop.turn()
    assert sent == LINGER_BYTES > 6 * 1024 * 1024


def test_without_anything_unread_there_is_nothing_to_linger_for(bench):
    bench.connection.start()
    bench.peer.shutdown(socket.SHUT_WR)
    bench.loop.run()
    bench.connection.write(b"bye")
    bench.connection.finish(bench.count_done)
    assert bench.connection.state == CLOSED
    assert bench.done == 1
    assert bench.peer.recv(10) == b"bye"


def test_a_reader_that_never_reads_is_given_up_after_a_minute_without_progress(bench):
    bench.connection.start()
    bench.connection.write(b"x" * 1_000_000)
    bench.connection.finish(bench.count_done)
    bench.pass_time(FLUSH_S - 1)
    bench.read_all(10_000)
    bench.pass_time(FLUSH_S - 1)
    assert bench.connection.state == FLUSHING
    bench.pass_time(2)
    assert bench.connection.state == CLOSED
    assert bench.done == 1


def test_a_reader_that_is_given_up_does_not_take_the_part_for_all(tcp):
    tcp.connection.start()
    tcp.connection.write(b"x" * 8_000_000)
    tcp.connection.finish(tcp.count_done)
    tcp.pass_time(FLUSH_S + 1)
    assert tcp.done == 1
    with pytest.raises(ConnectionResetError):
        while tcp.peer.recv(1 << 20):
            pass


def test_a_peer_that_resets_during_the_flush_ends_it(tcp):
    tcp.connection.start()
    tcp.connection.write(b"x" * 8_000_000)
    tcp.connection.finish(tcp.count_done)
    reset(tcp.peer)
    tcp.loop.run()
    assert tcp.connection.state == CLOSED
    assert tcp.done == 1
    assert True in tcp.owner.heard and len(tcp.owner.heard) == 1


def test_finish_of_a_closed_connection_is_done_at_once(bench):
    bench.connection.close()
    bench.connection.finish(bench.count_done)
    assert bench.done == 1
    bench.connection.close()
    assert bench.done == 1


def test_abort_is_told_like_a_loss(bench):
    bench.connection.start()
    bench.connection.abort("internal error")
    bench.connection.abort("internal error")
    assert bench.owner.heard == [("lost", "internal error")]


def test_a_dup_of_the_descriptor_does_not_keep_us_registered(bench):
    dup = bench.connection.sock.dup()
    bench.connection.start()
    bench.connection.write(b"x" * 1_000_000)
    bench.connection.close()
    assert not bench.loop.readers and not bench.loop.writers
    dup.close()


@pytest.mark.parametrize("sent", [0, 1, 1000, 300_000])
@pytest.mark.parametrize("half_closed", [False, True])
def test_dump_and_load_carry_the_connection_on(bench, sent, half_closed):
    data = random.Random(3).randbytes(sent)
    bench.connection.start()
    bench.peer.sendall(b"before")
    bench.loop.run()
    bench.connection.write(data)
    if half_closed:
        bench.connection.shutdown_write()
    state = bench.connection.dump()
    pending = bench.connection.pending_bytes
    pressed = bench.connection.pressed
    sock = bench.connection.sock
    bench.connection.detach()
    assert bench.gauge.value == 0
    assert not bench.loop.readers and not bench.loop.writers

    owner = Owner()
    bench.connection = Connection.load(sock, state, owner, bench.loop, bench.wheel, bench.gauge)
    assert bench.connection.dump() == state
    assert bench.gauge.value == bench.connection.pending_bytes == pending
    assert bench.connection.pressed == pressed
    bench.connection.start()
    bench.peer.sendall(b"after")
    assert bench.read_all(sent) == data
    bench.loop.run()
    assert owner.heard == ([b"after", False] if pressed else [b"after"]) or owner.heard == [False, b"after"]
    assert bench.connection.rx_bytes == len(b"before" + b"after")
    assert bench.connection.tx_bytes == sent
    assert bench.connection.write_closed == half_closed


def test_another_version_is_refused(bench):
    state = {**bench.connection.dump(), "version": 2}
    with pytest.raises(ValueError, match="version"):
        read_state(state)


@pytest.mark.parametrize(
    "change",
    [
        {"rx": -1}, {"rx": None}, {"tx": 1 << 62}, {"tx": True}, {"read_closed": 1}, {"pending": "text"}, {"more": 1},
        {"write_closed": True, "pending": b"x"}, {"write_closed": True, "shut_after_flush": True},
        {"shut_after_flush": True}, {"pressed": True}, {"pending": bytes(HIGH_WATERMARK_BYTES + 1)},
    ],
    ids=lambda change: ",".join(change),
)  # fmt: skip
def test_a_state_that_no_connection_can_be_in_is_refused(bench, change):
    with pytest.raises(ValueError):
        read_state({**bench.connection.dump(), **change})


@pytest.mark.parametrize("what", ["every", "version", "rx", "pending"])
def test_so_is_one_that_lacks_something(bench, what):
    state = {} if what == "every" else {k: v for k, v in bench.connection.dump().items() if k != what}
    with pytest.raises(ValueError):
        read_state(state)
    with pytest.raises(ValueError):
        read_state([state])


def test_a_frozen_connection_is_not_watched_and_goes_on_where_it_was(bench):
    bench.connection.start()
    data = random.Random(4).randbytes(4_000_000)
    bench.connection.write(data)
    assert bench.connection.freeze()
    assert not bench.loop.readers and not bench.loop.writers
    before = bench.connection.dump()
    bench.peer.sendall(b"meanwhile")
    received = bench.read_all(1)
    bench.loop.run()
    assert bench.owner.heard == [True]  # from inside `write`
    assert bench.connection.dump() == before
    bench.connection.thaw()
    received += bench.read_all(len(data) - len(received))
    bench.loop.run()
    assert received == data
    assert b"meanwhile" in bench.owner.heard


def test_a_reader_that_was_disabled_still_is_afterwards(bench):
    bench.connection.start()
    bench.connection.read_disable()
    assert bench.connection.freeze()
    bench.connection.thaw()
    assert not bench.loop.readers
    bench.connection.read_enable()
    assert bench.loop.readers


def test_only_an_open_connection_freezes(bench):
    """The others end by themselves: flushing, lingering, or broken until the next turn."""
    bench.connection.start()
    reset(bench.peer)
    bench.connection.write(b"x")
    assert bench.connection.state == BROKEN
    assert not bench.connection.freeze()
    bench.loop.run()
    assert not bench.connection.freeze()


def test_leaving_ends_nothing(bench):
    bench.connection.start()
    copy = bench.connection.sock.dup()
    assert bench.connection.freeze()
    bench.connection.leave()
    assert bench.connection.state == CLOSED and bench.owner.heard == []
    bench.peer.sendall(b"still there?")
    assert copy.recv(100) == b"still there?"
    copy.sendall(b"yes")
    assert bench.peer.recv(100) == b"yes"
    copy.close()


def test_a_body_through_a_slow_reader_is_bounded_by_the_watermarks():
    """Two connections back to back, as every proxy here has them: what piles up is HIGH plus one read."""
    source, sink = Bench(), Bench()

    class Pipe(Owner):
        def __init__(self, side: str) -> None:
            super().__init__()
            self.side = side

        def on_data(self, data: bytes) -> None:
            sink.connection.write(data)

        def on_pressure(self, high: bool) -> None:
            if high:
                source.connection.read_disable()
            else:
                source.connection.read_enable()

    source.connection.owner = Pipe("source")
    sink.connection.owner = Pipe("sink")
    source.connection.start()
    sink.connection.start()
    source.peer.setblocking(False)
    sink.peer.setblocking(False)
    block = b"q" * 65536
    sent = received = peak = 0
    while received < 20_000_000:
        try:
            sent += source.peer.send(block)
        except BlockingIOError:
            pass
        for _ in range(3):
            source.loop.turn()
            sink.loop.turn()
        peak = max(peak, sink.connection.pending_bytes)
        if sink.gauge.value:
            try:
                received += len(sink.peer.recv(20_000))
            except BlockingIOError:
                pass
    assert HIGH_WATERMARK_BYTES < peak <= HIGH_WATERMARK_BYTES + 65536
    source.close()
    sink.close()
