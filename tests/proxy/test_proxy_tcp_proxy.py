"""The TCP pipe, driven turn by turn between a real client socket and a real endpoint."""

from __future__ import annotations

import gc
import random
import socket

import pytest

from hotproxy.clock import TICK_S
from hotproxy.errors import DRAIN_DEADLINE, LOCAL_CONNECT_FAILURE
from hotproxy.net.connection import FLUSH_S, HIGH_WATERMARK_BYTES, Connection
from hotproxy.net.pipes import PIPE_BYTES
from hotproxy.proxy.tcp_proxy import EARLY_BYTES, Leg, TcpProxy
from hotproxy.upstream.connect import ConnectAttempt
from hotproxy.upstream.endpoint import Endpoint
from tests.kit.clock import pass_time
from tests.kit.tcp_bench import IDLE_S, TcpBench, reset


def assert_reset(sock: socket.socket) -> None:
    """A unix socket knows only ordinary ends."""
    if sock.family == socket.AF_UNIX:
        assert sock.recv(1) == b""
    else:
        with pytest.raises(ConnectionResetError):
            sock.recv(1)


@pytest.fixture(params=["tcp", "unix"])
def bench(request, make):
    return make(request.param)


def test_bytes_go_both_ways_and_everything_is_counted(bench):
    bench.start()
    upstream = bench.connect()
    bench.client.sendall(b"question")
    bench.turn()
    assert upstream.recv(100) == b"question"
    upstream.sendall(b"an answer")
    bench.turn()
    assert bench.client.recv(100) == b"an answer"
    bench.client.close()
    upstream.close()
    bench.turn()
    process, info = bench.process, bench.info
    assert process.ended == [bench.proxy]
    assert (info.rx_bytes, info.tx_bytes, info.flags, info.details) == (8, 9, (), "")
    assert process.tcp_stats.downstream_cx_total.value == 1
    assert process.tcp_stats.downstream_cx_rx_bytes_total.value == 8
    assert process.tcp_stats.downstream_cx_tx_bytes_total.value == 9
    assert process.stats.upstream_cx_total.value == 1
    assert process.stats.upstream_cx_rx_bytes_total.value == 9
    assert process.stats.upstream_cx_tx_bytes_total.value == 8
    assert info.upstream_remote == bench.texts[0]
    assert info.downstream_remote == "10.0.0.1:5000"
    assert info.attempts == 1


@pytest.mark.parametrize("first", ["client", "upstream"])
def test_each_side_closes_its_direction_alone(bench, first):
    bench.start()
    upstream = bench.connect()
    one, other = (bench.client, upstream) if first == "client" else (upstream, bench.client)
    one.sendall(b"all I have")
    one.shutdown(socket.SHUT_WR)
    bench.turn()
    assert other.recv(100) == b"all I have"
    assert other.recv(100) == b""
    for _ in range(3):
        other.sendall(b"more")
        bench.turn()
        assert one.recv(100) == b"more"
    assert bench.process.ended == []
    other.shutdown(socket.SHUT_WR)
    bench.turn()
    assert one.recv(100) == b""
    assert bench.process.ended == [bench.proxy]
    assert bench.info.flags == ()


def test_what_the_client_sends_early_is_kept_bounded_until_there_is_an_endpoint(bench):
    bench.start()
    data = random.Random(5).randbytes(EARLY_BYTES * 3)
    bench.client.setblocking(False)
    sent = 0
    bench.process.loop.writers.clear()  # nothing connects
    while True:
        try:
            sent += bench.client.send(data[sent : sent + 20_000])
        except BlockingIOError:
            break
        bench.turn()
        if sent == len(data):
            break
    assert EARLY_BYTES <= bench.process.gauge.value < EARLY_BYTES * 2
    bench.proxy.close(DRAIN_DEADLINE)
    assert bench.process.gauge.value == 0
    assert bench.info.flags == ("DI",)


def test_a_client_that_speaks_and_closes_before_we_are_connected_gets_its_answer(bench):
    bench.client.sendall(b"question")
    bench.client.shutdown(socket.SHUT_WR)
    bench.start()
    upstream = bench.connect()
    assert upstream.recv(100) == b"question"
    assert upstream.recv(100) == b""
    upstream.sendall(b"answer")
    upstream.close()
    bench.turn()
    assert bench.client.recv(100) == b"answer"
    assert bench.client.recv(100) == b""


def test_the_next_endpoint_is_tried_when_one_refuses(make):
    bench = make(endpoints=3)
    for listener in bench.listeners[:2]:
        listener.close()
    bench.listeners = bench.listeners[2:]
    bench.client.sendall(b"x")
    bench.start()
    upstream = bench.connect()
    assert upstream.recv(1) == b"x"
    stats = bench.process.stats
    assert stats.upstream_cx_connect_fail.value == 2
    assert stats.upstream_cx_total.value == 3
    assert stats.upstream_cx_active.value == 1
    assert [endpoint.active for endpoint in bench.process.endpoints] == [0, 0, 1]
    reset(bench.client)
    bench.turn()
    assert bench.info.attempts == 3
    assert bench.info.flags == ("DC",)


@pytest.mark.parametrize(("endpoints", "attempts", "tried"), [(1, 3, 1), (3, 2, 2), (3, 3, 3), (3, 1, 1)])
def test_when_no_attempt_is_left_the_client_is_told_by_a_close(make, endpoints, attempts, tried):
    bench = make(endpoints=endpoints, attempts=attempts)
    for listener in bench.listeners:
        listener.close()
    bench.start()
    bench.turn()
    assert bench.client.recv(1) == b""
    bench.client.close()
    bench.turn()
    exceeded = attempts <= endpoints  # the limit ended it, and not the lack of endpoints
    assert bench.info.flags == (("UF", "URX") if exceeded else ("UF",))
    assert bench.process.stats.upstream_cx_connect_attempts_exceeded.value == exceeded
    assert bench.info.attempts == tried
    assert "Connection_refused" in bench.info.details
    assert bench.process.stats.upstream_cx_connect_fail.value == tried


class Starved:
    """A connect for which there is no descriptor."""

    def __init__(self, endpoint, timeout_s, owner, runtime) -> None:
        self._owner = owner
        self._loop = runtime.loop

    def start(self) -> None:
        self._loop.call_soon(lambda: self._owner.on_connect_failed(LOCAL_CONNECT_FAILURE, "Too many open files"))


def test_no_descriptor_for_a_connect_is_not_the_endpoints_fault(make):
    bench = make(endpoints=3, attempts=2)
    pools = bench.process.runtime.snapshot.pools
    made: list[Endpoint] = []

    def connector(endpoint, timeout_s, owner, runtime, preface=b""):
        made.append(endpoint)
        return Starved(endpoint, timeout_s, owner, runtime)

    pools.connector = connector
    bench.start()
    bench.turn()
    assert bench.client.recv(1) == b""
    bench.client.close()
    bench.turn()
    assert made == [bench.process.endpoints[0]] * 2, "nobody was avoided"
    assert bench.info.flags == ("UF", "URX")
    assert bench.info.details == (
        "upstream_reset_before_response_started{local_connection_failure|Too_many_open_files}"
    )
    stats = bench.process.stats
    assert (stats.upstream_cx_connect_local_fail.value, stats.upstream_cx_connect_fail.value) == (2, 2)


def test_a_cluster_without_endpoints(make):
    bench = make(endpoints=0)
    bench.start()
    assert bench.client.recv(1) == b""
    bench.client.close()
    bench.turn()
    assert bench.info.flags == ("UH",)
    assert bench.process.stats.upstream_cx_none_healthy.value == 1


def test_a_cluster_that_does_not_exist(make):
    bench = make(cluster="gone")
    bench.start()
    assert bench.client.recv(1) == b""
    bench.client.close()
    bench.turn()
    assert bench.info.flags == ("NC",)
    assert bench.process.tcp_stats.downstream_cx_no_route.value == 1


def test_a_connect_that_takes_too_long(make):
    bench = make()
    bench.start()
    bench.process.loop.writers.clear()  # the SYN is never answered
    pass_time(bench.clock, bench.process.wheel, 1.0)
    bench.turn()
    assert bench.client.recv(1) == b""
    bench.client.close()
    bench.turn()
    assert bench.info.flags == ("UF",)
    assert bench.process.stats.upstream_cx_connect_timeout.value == 1
    assert bench.process.stats.upstream_cx_connect_fail.value == 1  # as for HTTP, and as Envoy counts


def test_a_client_that_leaves_while_we_connect(make):
    bench = make()
    bench.start()
    reset(bench.client)
    bench.process.loop.writers.clear()
    bench.turn()
    assert bench.info.flags == ("DC",)


@pytest.mark.parametrize("who", ["client", "upstream"])
def test_a_reset_is_passed_on_behind_the_last_bytes(make, who):
    """With an ordinary end, whoever reads until the end took half a dump of a database for all of it."""
    bench = make()
    bench.start()
    upstream = bench.connect()
    broken, other = (bench.client, upstream) if who == "client" else (upstream, bench.client)
    broken.sendall(b"last words")
    reset(broken)
    bench.turn()
    assert other.recv(100) == b"last words"
    bench.pass_time(TICK_S * 2)
    assert_reset(other)
    assert bench.info.flags == (("DC",) if who == "client" else ("UC",))
    assert (bench.info.rx_bytes, bench.info.tx_bytes) == ((10, 0) if who == "client" else (0, 10))


@pytest.mark.parametrize("who", ["client", "upstream"])
def test_a_reset_does_not_take_away_what_a_slow_reader_has_not_got_yet(make, who):
    """Our buffer, and then the kernel's, are emptied first: SO_LINGER would throw them away."""
    bench = make()
    bench.start()
    upstream = bench.connect()
    broken, other = (bench.client, upstream) if who == "client" else (upstream, bench.client)
    other.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 * 1024)
    broken.sendall(b"x" * 200_000)
    bench.turn()
    reset(broken)
    bench.turn()
    received = 0
    with pytest.raises(ConnectionResetError):
        while True:
            received += len(other.recv(16 * 1024))
            bench.turn()
            bench.pass_time(TICK_S)
    assert received == 200_000


def test_a_reader_that_takes_nothing_after_a_reset_is_given_up(make):
    bench = make()
    bench.start()
    upstream = bench.connect()
    bench.client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * 1024)
    upstream.sendall(b"x" * 40_000)
    bench.turn()
    reset(upstream)
    for _ in range(3):
        bench.turn()
        bench.pass_time(FLUSH_S)
    assert bench.process.ended == [bench.proxy]
    with pytest.raises(ConnectionResetError):
        while bench.client.recv(16 * 1024):
            pass


@pytest.mark.parametrize("who", ["client", "upstream"])
def test_who_had_ended_before_its_reset_had_said_everything(make, who):
    """An endpoint that answers and closes resets whoever goes on talking: its answer is whole all the same."""
    bench = make()
    bench.start()
    upstream = bench.connect()
    broken, other = (bench.client, upstream) if who == "client" else (upstream, bench.client)
    broken.sendall(b"all of it")
    broken.shutdown(socket.SHUT_WR)
    bench.turn()
    other.sendall(b"too late")
    reset(broken)
    bench.turn()
    assert other.recv(100) == b"all of it"
    assert other.recv(100) == b""


def test_idle_counts_both_directions(make):
    bench = make()
    bench.start()
    upstream = bench.connect()
    for sender, receiver in ((bench.client, upstream), (upstream, bench.client)) * 2:
        bench.pass_time(IDLE_S - 1)
        sender.sendall(b"x")
        bench.turn()
        assert receiver.recv(1) == b"x"
    assert bench.process.ended == []
    bench.pass_time(IDLE_S)
    assert bench.process.ended == [bench.proxy]
    assert bench.process.tcp_stats.idle_timeout.value == 1
    assert_reset(bench.client)
    assert_reset(upstream)


def test_a_slow_reader_is_not_idle(make):
    bench = make("unix")
    bench.start()
    upstream = bench.connect()
    upstream.setblocking(False)
    try:
        while True:
            upstream.send(b"x" * 65536)
            bench.turn()
    except BlockingIOError:
        pass
    for _ in range(8):
        bench.pass_time(IDLE_S * 0.75)
        before = bench.proxy._bytes_moved()
        while bench.proxy._bytes_moved() == before:
            bench.client.recv(10_000)
            bench.turn()
    assert bench.process.ended == []
    upstream.close()


@pytest.mark.parametrize("direction", ["down", "up"])
def test_a_slow_reader_stops_the_other_side(bench, direction):
    bench.start()
    upstream = bench.connect()
    sender, receiver = (upstream, bench.client) if direction == "down" else (bench.client, upstream)
    sender.setblocking(False)
    sent = 0
    stuck = 0
    block = random.Random(6).randbytes(65536)
    while stuck < 3:
        try:
            sent += sender.send(block)
            stuck = 0
        except BlockingIOError:
            stuck += 1
        bench.turn()
    # In our buffer, or in a pipe.
    assert 0 < bench.process.gauge.value <= max(HIGH_WATERMARK_BYTES + 2 * 65536, PIPE_BYTES)
    sender.shutdown(socket.SHUT_WR)
    receiver.setblocking(False)
    received = bytearray()
    at_eof = False
    while not at_eof:  # TCP's window opens when the kernel sees fit
        bench.turn()
        try:
            data = receiver.recv(65536)
        except BlockingIOError:
            continue
        received += data
        at_eof = not data
    assert len(received) == sent
    assert received[: len(block)] == block


def test_draining_goes_on_until_the_deadline(bench):
    bench.start()
    upstream = bench.connect()
    bench.proxy.drain()
    bench.proxy.drain()
    bench.client.sendall(b"x")
    bench.turn()
    assert upstream.recv(1) == b"x"
    bench.proxy.close(DRAIN_DEADLINE)
    assert bench.process.ended == [bench.proxy]
    assert bench.info.flags == ("DI",)
    assert bench.process.tcp_stats.downstream_cx_drain_close.value == 1
    bench.proxy.close(DRAIN_DEADLINE)
    assert_reset(upstream)


@pytest.mark.parametrize("end", ["both close", "client resets", "refused"])
def test_what_ended_does_not_wait_for_a_garbage_collection(end):
    """Workers make no full collections: a cycle would stay for ever."""
    gc.collect()
    gc.disable()
    try:
        bench = TcpBench()
        if end == "refused":
            bench.listeners[0].close()
        bench.start()
        if end == "refused":
            bench.turn()
            bench.client.close()
        else:
            upstream = bench.connect()
            upstream.close()
            reset(bench.client) if end == "client resets" else bench.client.close()
        bench.turn()
        assert bench.process.ended == [bench.proxy]
        bench.process.ended.clear()
        bench.proxy = None
        left = [thing for thing in gc.get_objects() if isinstance(thing, TcpProxy | Leg | Connection | ConnectAttempt)]
        assert left == []
    finally:
        gc.enable()
        bench.listeners[0].close()
