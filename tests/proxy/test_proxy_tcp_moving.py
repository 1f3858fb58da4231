"""A TCP connection that moves to another process, at every byte; that is given back; whose record is damaged."""

from __future__ import annotations

import random
import socket

import msgpack
import pytest

from hotproxy.config.model import SocketOptions as Config
from hotproxy.errors import DRAIN_DEADLINE
from hotproxy.net.socket_options import SocketOptions
from hotproxy.proxy.tcp_proxy import TcpProxy
from hotproxy.telemetry.stream_info import FIELDS
from tests.kit.tcp_bench import IDLE_S, Process, reset

CONVERSATION = [
    ("client", b"hello"),
    ("upstream", b"welcome"),
    ("client", b"select 1"),
    ("upstream", b"1"),
    ("client", None),
    ("upstream", b"bye"),
    ("upstream", None),
]


COMMIT = pytest.mark.parametrize("commit", [True, False], ids=["commit", "rollback"])


def say(bench, upstream, who, data):
    """One side says this, or ends (None); what the other one got of it."""
    speaker, listener = (bench.client, upstream) if who == "client" else (upstream, bench.client)
    if data is None:
        speaker.shutdown(socket.SHUT_WR)
    elif data:
        speaker.sendall(data)
    bench.turn()
    return listener.recv(100) if data != b"" else b""


def assert_counted(bench, commit):
    assert bench.process.ended == [bench.proxy]
    assert (bench.info.rx_bytes, bench.info.tx_bytes) == (13, 11)
    for name in ("rx", "tx"):
        counted = [getattr(p.tcp_stats, f"downstream_cx_{name}_bytes_total").value for p in bench.processes]
        assert sum(counted) == {"rx": 13, "tx": 11}[name]
    assert [len(process.log.lines) for process in bench.processes] == ([0, 1] if commit else [1])


@COMMIT
@pytest.mark.parametrize("at", range(len(CONVERSATION)))
@pytest.mark.parametrize("family", ["tcp", "unix"])
def test_it_can_be_moved_at_every_byte_of_a_conversation(make, family, at, commit):
    for split in range(len(CONVERSATION[at][1] or b"x")):
        bench = make(family)
        bench.start()
        upstream = bench.connect()
        heard = {"client": b"", "upstream": b""}
        for step, (who, data) in enumerate(CONVERSATION):
            if step != at:
                heard[who] += say(bench, upstream, who, data)
                continue
            if split:
                heard[who] += say(bench, upstream, who, data[:split])
            bench.move(commit)
            heard[who] += say(bench, upstream, who, data and data[split:])
        assert heard == {"client": b"helloselect 1", "upstream": b"welcome1bye"}
        assert_counted(bench, commit)


@COMMIT
@pytest.mark.parametrize("at", range(len(CONVERSATION)))
@pytest.mark.parametrize("family", ["tcp", "unix"])
def test_what_comes_while_nobody_reads_is_passed_on_afterwards(make, family, at, commit):
    bench = make(family)
    bench.start()
    upstream = bench.connect()
    for step, (who, data) in enumerate(CONVERSATION):
        if step != at:
            say(bench, upstream, who, data)
            continue
        speaker, listener = (bench.client, upstream) if who == "client" else (upstream, bench.client)

        def meanwhile(speaker=speaker, data=data):
            speaker.shutdown(socket.SHUT_WR) if data is None else speaker.sendall(data)

        bench.move(commit, meanwhile)
        bench.turn()
        assert listener.recv(100) == (data or b"")
    assert_counted(bench, commit)


@COMMIT
@pytest.mark.parametrize("who", ["client", "upstream"])
def test_so_is_a_reset(make, who, commit):
    bench = make()
    bench.start()
    upstream = bench.connect()
    reset_one, other = (bench.client, upstream) if who == "client" else (upstream, bench.client)
    bench.move(commit, lambda: reset(reset_one))
    bench.turn()
    with pytest.raises(ConnectionResetError):
        other.recv(1)
    assert bench.info.flags == (("DC",) if who == "client" else ("UC",))


@COMMIT
def test_the_idle_timeout_goes_on_meanwhile(make, commit):
    bench = make()
    bench.start()
    bench.connect()
    bench.pass_time(IDLE_S * 0.5)
    bench.move(commit, lambda: bench.clock.advance(IDLE_S * 0.4))
    bench.pass_time(IDLE_S * 0.1 - 1)
    assert bench.process.ended == []
    bench.pass_time(1)
    assert bench.process.ended == [bench.proxy]
    assert sum(process.tcp_stats.idle_timeout.value for process in bench.processes) == 1


def test_a_slow_reader_that_took_something_before_it_moved_is_not_idle(make):
    """The new process took what had been moved until then for the beginning."""
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
    bench.pass_time(IDLE_S * 0.5)
    before = bench.proxy._bytes_moved()
    while bench.proxy._bytes_moved() == before:
        bench.client.recv(10_000)
        bench.process.loop.turn()
    bench.move()
    bench.pass_time(IDLE_S * 0.5)
    assert bench.process.ended == []
    upstream.close()


@COMMIT
def test_whoever_ends_a_frozen_connection_ends_it_when_it_thaws(make, commit):
    bench = make()
    bench.start()
    bench.connect()
    proxy = bench.proxy
    bench.move(commit, lambda: proxy.close(DRAIN_DEADLINE))
    assert bench.process.ended == ([] if commit else [proxy])


def test_what_ends_by_itself_does_not_move(make):
    bench = make()
    bench.start()
    upstream = bench.connect()
    upstream.shutdown(socket.SHUT_WR)
    bench.client.shutdown(socket.SHUT_WR)
    bench.turn()
    assert not bench.proxy.freeze()


def test_a_side_that_breaks_in_this_turn_keeps_it_here(make):
    bench = make()
    bench.start()
    upstream = bench.connect()
    reset(upstream)
    bench.proxy._up.connection.write(b"x")
    assert not bench.proxy.freeze()
    bench.turn()
    bench.client.close()
    bench.turn()
    assert bench.info.flags == ("UC",)


def test_a_connection_that_runs_can_be_neither_released_nor_thawed(make):
    bench = make()
    bench.start()
    for wrong in (bench.proxy.release, bench.proxy.thaw, bench.proxy.discard):
        with pytest.raises(AssertionError):
            wrong()


def load_where(bench, state, endpoints):
    """In a process with another config; the one of before has released it."""
    new = Process(bench.clock, endpoints)
    loaded = TcpProxy.load(state, [sock.dup() for sock in bench.proxy.socks()], new.listener, new, new.runtime)
    bench.proxy.release()
    loaded.start()
    bench.moved_away = True
    return new, loaded


def test_its_endpoint_may_be_gone_from_the_config(make):
    bench = make()
    bench.start()
    upstream = bench.connect()
    assert bench.proxy.freeze()
    new, loaded = load_where(bench, bench.proxy.dump(), ["10.0.0.9:1"])
    bench.client.sendall(b"x")
    new.loop.run()
    assert upstream.recv(1) == b"x"
    assert new.gauges() == {"upstream_cx_active": 1}
    loaded.close(DRAIN_DEADLINE)
    assert new.ended == [loaded] and new.stats.upstream_cx_destroy.value == 1
    new.assert_clean()


def test_so_may_its_cluster(make):
    """Then nobody counts it; but it goes on."""
    bench = make()
    bench.start()
    upstream = bench.connect()
    assert bench.proxy.freeze()
    state = bench.proxy.dump()
    state["info"][FIELDS.index("cluster")] = "gone"
    new, loaded = load_where(bench, state, bench.texts)
    bench.client.sendall(b"x")
    new.loop.run()
    assert upstream.recv(1) == b"x"
    assert new.gauges() == {}
    loaded.close(DRAIN_DEADLINE)
    assert new.ended == [loaded] and len(new.log.lines) == 1
    new.assert_clean()


def test_it_can_be_moved_while_it_connects(make):
    bench = make()
    bench.client.sendall(b"early")
    bench.process.loop.add_writer = lambda fd, callback: None  # the first process never connects
    bench.start()
    bench.turn()
    bench.listeners[0].accept()[0].close()
    bench.move()
    bench.client.sendall(b" bird")
    upstream = bench.connect()
    bench.turn()
    assert upstream.recv(100) == b"early bird"


def test_it_can_be_moved_with_bytes_that_a_slow_reader_has_not_taken(make):
    bench = make("unix")
    bench.start()
    upstream = bench.connect()
    data = random.Random(7).randbytes(8_000_000)
    upstream.setblocking(False)
    sent = 0
    received = bytearray()
    bench.client.setblocking(False)
    moves = 0
    while len(received) < len(data):
        if sent < len(data):
            try:
                sent += upstream.send(data[sent : sent + 100_000])
            except BlockingIOError:
                if moves < 5:
                    moves += 1
                    bench.move()
        bench.turn()
        try:
            received += bench.client.recv(30_000)
        except BlockingIOError:
            pass
    assert received == data
    assert moves == 5


def test_deadlines_are_carried_over(make):
    bench = make()
    bench.start()
    bench.connect()
    bench.pass_time(IDLE_S - 5)
    bench.move()
    bench.pass_time(5)
    assert bench.process.ended == [bench.proxy]


@pytest.mark.parametrize("change", [{"kind": "http1"}, {"version": 3}, {"version": None}])
def test_what_it_does_not_know_it_refuses(make, change):
    bench = make()
    bench.start()
    bench.connect()
    state = {**bench.proxy.dump(), **change}
    process = bench.process
    with pytest.raises(ValueError, match="kind"):
        TcpProxy.load(state, [bench.client, bench.client], process.listener, process, process.runtime)


@pytest.mark.parametrize(
    "change",
    [
        {"info": []}, {"info": None}, {"endpoint": None}, {"tried": "127.0.0.1:1"}, {"early": "text"}, {"counted": [1]},
        {"idle_deadline_s": "soon"}, {"down": None}, {"down": {}}, {"up": {}}, {"up": 7}, {"up": {"version": 1}},
    ],
    ids=str,
)  # fmt: skip
def test_a_damaged_state_is_refused_and_counts_nothing(make, change):
    """Half of it was counted as buffered for ever, or a KeyError ended the worker's whole handoff."""
    bench = make()
    bench.start()
    bench.connect()
    state = bench.proxy.dump()
    state["down"]["pending"] = b"on its way"
    state |= change
    process = bench.process
    before = process.runtime.buffered.value
    with pytest.raises(ValueError):  # each says something else
        TcpProxy.load(state, [bench.client, bench.client], process.listener, process, process.runtime)
    assert process.runtime.buffered.value == before
    assert bench.client.fileno() >= 0


def test_a_connection_that_moves_is_not_destroyed(make):
    """Each move counted one, so after a restart more connections had ended than had ever begun."""
    bench = make()
    bench.start()
    bench.connect()
    left = bench.process
    bench.move()
    stats = left.runtime.snapshot.clusters["db"].stats
    assert (stats.upstream_cx_active.value, stats.upstream_cx_destroy.value) == (0, 0)


@COMMIT
def test_the_sockets_take_on_what_todays_config_says_when_it_has_moved(make, commit):
    """A move that fails has changed nothing."""
    bench = make()
    bench.start()
    bench.connect()
    ours = bench.proxy.socks()
    assert bench.proxy.freeze()
    state = msgpack.unpackb(msgpack.packb(bench.proxy.dump()))
    new = Process(bench.clock, bench.texts, options=SocketOptions(Config(tcp_user_timeout_s=7.0)))
    loaded = TcpProxy.load(state, [sock.dup() for sock in ours], new.listener, new, new.runtime)
    if commit:
        bench.proxy.release()
        bench.proxy, bench.process = loaded, new
        bench.processes.append(new)
        loaded.start()
    else:
        loaded.discard()
        bench.proxy.thaw()
    found = [sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) for sock in bench.proxy.socks()]
    assert found == ([7000, 7000] if commit else [0, 0])
