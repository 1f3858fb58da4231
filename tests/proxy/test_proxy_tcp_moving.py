"""A TCP connection that moves to another process, at every byte; that is given back; whose record is damaged."""

from __future__ import annotations

import random
import socket

import pytest

from hotproxy.proxy.tcp_proxy import TcpProxy
from tests.kit.tcp_bench import IDLE_S

CONVERSATION = [
    ("client", b"hello"),
    ("upstream", b"welcome"),
    ("client", b"select 1"),
    ("upstream", b"1"),
    ("client", None),
    ("upstream", b"bye"),
    ("upstream", None),
]


@pytest.mark.parametrize("commit", [True, False], ids=["commit", "rollback"])
@pytest.mark.parametrize("at", range(len(CONVERSATION)))
@pytest.mark.parametrize("family", ["tcp", "unix"])
def test_it_can_be_moved_at_every_point_of_a_conversation(make, family, at, commit):
    bench = make(family)
    bench.start()
    upstream = bench.connect()
    heard = {"client": b"", "upstream": b""}
    for step, (who, data) in enumerate(CONVERSATION):
        if step == at:
            bench.move(commit)
        speaker, listener = (bench.client, upstream) if who == "client" else (upstream, bench.client)
        if data is None:
            speaker.shutdown(socket.SHUT_WR)
        else:
            speaker.sendall(data)
        bench.turn()
        got = listener.recv(100)
        assert got == (data or b"")
        heard[who] += got
    assert heard == {"client": b"helloselect 1", "upstream": b"welcome1bye"}
    assert bench.process.ended == [bench.proxy]
    assert (bench.info.rx_bytes, bench.info.tx_bytes) == (13, 11)
    for name in ("rx", "tx"):
        counted = [getattr(p.tcp_stats, f"downstream_cx_{name}_bytes_total").value for p in bench.processes]
        assert sum(counted) == {"rx": 13, "tx": 11}[name]
    assert [len(process.log.lines) for process in bench.processes] == ([0, 1] if commit else [1])


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


@pytest.mark.parametrize("change", [{"kind": "http1"}, {"version": 2}, {"version": None}])
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
    state["early"] = b"early"
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
