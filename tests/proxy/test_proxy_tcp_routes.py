"""The cluster of a TCP connection: by name and by weight; and the connection that waits for the name."""

from __future__ import annotations

import random
import socket
from collections import Counter

import pytest

from hotproxy.errors import DRAIN_DEADLINE
from hotproxy.net.proxy_protocol import Announced, encode
from hotproxy.proxy.tcp_proxy import TcpProxy
from hotproxy.proxy.tcp_routes import ClusterChoice, TcpRoutes
from tests.kit.clock import pass_time
from tests.kit.tcp_bench import IDLE_S, Process
from tests.net.test_net_client_hello import message, openssl_hello, records, sni

TIMEOUT_S = 15.0
DB = ClusterChoice([("db", 1)])
BY_NAME = TcpRoutes({"db.example.com": DB}, None)
HELLO = records(openssl_hello("db.example.com"), 100)
MOVES = pytest.mark.parametrize("move", [None, True, False], ids=["stays", "moves", "is given back"])


def test_names_are_found_like_envoys() -> None:
    routes = TcpRoutes(
        {name: ClusterChoice([(name, 1)]) for name in ("a.example.com", "*.example.com", "*.b.example.com", "*.com")},
        ClusterChoice([("rest", 1)]),
    )
    found = {
        name: routes.pick(name, random.Random(1))
        for name in (
            "a.example.com",
            "x.example.com",
            "x.y.b.example.com",
            "b.example.com",
            "example.com",
            "com",
            "",
            "x",
        )
    }
    assert found == {
        "a.example.com": "a.example.com", "x.example.com": "*.example.com", "x.y.b.example.com": "*.b.example.com",
        "b.example.com": "*.example.com", "example.com": "*.com", "com": "rest", "": "rest", "x": "rest",
    }  # fmt: skip
    assert BY_NAME.pick("other", random.Random(1)) == ""


def test_weights_are_shares() -> None:
    choice = ClusterChoice([("a", 1), ("none", 0), ("b", 9)])
    rng = random.Random(7)
    found = Counter(choice.pick(rng) for _ in range(10_000))
    assert found["none"] == 0 and 850 < found["a"] < 1150 and found["a"] + found["b"] == 10_000


def test_a_connection_without_names_is_carried_by_weight(make) -> None:
    bench = make(routes=TcpRoutes({}, ClusterChoice([("gone", 0), ("db", 3)])), cluster="")
    bench.client.sendall(b"x")
    bench.start()
    assert bench.connect().recv(10) == b"x"
    assert bench.proxy.info.cluster == "db"


@MOVES
@pytest.mark.parametrize("piece", [1, 7, 120])
def test_a_hello_in_pieces_goes_where_it_asks_byte_for_byte(make, piece, move) -> None:
    bench = make(routes=BY_NAME, cluster="")
    bench.start()
    for at in range(0, len(HELLO), piece):
        assert bench.process.stats.upstream_cx_total.value == 0
        bench.client.sendall(HELLO[at : at + piece])
        bench.turn()
        if move is not None and at <= len(HELLO) // 2 < at + piece:
            bench.move(move)
    upstream = bench.connect()
    assert upstream.recv(10_000) == HELLO
    upstream.sendall(b"answer")
    bench.turn()
    assert bench.client.recv(100) == b"answer"
    bench.client.close()
    upstream.close()
    bench.turn()
    info = bench.info
    assert (info.requested_server_name, info.cluster, info.rx_bytes, info.flags) == (
        "db.example.com", "db", len(HELLO), (),
    )  # fmt: skip
    counted = sum(process.tcp_stats.downstream_cx_rx_bytes_total.value for process in bench.processes)
    assert counted == len(HELLO)


@MOVES
@pytest.mark.parametrize("said", [message(sni(b"other.example.com")), b"SSH-2.0-x\r\n", message(None)])
@pytest.mark.parametrize("rest", [DB, None])
def test_what_no_route_names_goes_to_the_rest_or_nowhere(make, said, rest, move) -> None:
    bench = make(routes=TcpRoutes({"db.example.com": DB}, rest), cluster="")
    bench.client.sendall(said[:1] if move is not None and said[:1] == b"\x16" else said)
    if said[:1] != b"\x16":
        move = None  # the first byte says it all
    bench.start()
    bench.turn()
    if move is not None:
        bench.move(move)
        bench.client.sendall(said[1:])
        bench.turn()
    if rest is not None:
        assert bench.connect().recv(1000) == said
        return
    assert bench.client.recv(10) == b""
    bench.client.close()
    bench.turn()
    assert (bench.info.flags, bench.info.details, bench.info.attempts) == (("NR",), "route_not_found", 0)
    assert sum(process.tcp_stats.downstream_cx_no_route.value for process in bench.processes) == 1


def test_a_client_that_ends_before_its_hello_does_is_no_tls_client(make) -> None:
    bench = make(routes=TcpRoutes({"db.example.com": DB}, DB), cluster="")
    bench.client.sendall(HELLO[:50])
    bench.client.shutdown(socket.SHUT_WR)
    bench.start()
    upstream = bench.connect()
    assert upstream.recv(1000) == HELLO[:50] and upstream.recv(1) == b""


@MOVES
def test_a_hello_has_its_time(make, move) -> None:
    bench = make(routes=BY_NAME, cluster="")
    bench.start()
    bench.client.sendall(HELLO[:50])
    bench.turn()
    bench.pass_time(TIMEOUT_S - 1)
    if move is not None:
        bench.move(move)
    bench.client.sendall(HELLO[50:60])
    bench.turn()
    assert not bench.process.ended
    bench.pass_time(1.1)
    assert bench.process.ended
    slab = bench.process.slab
    assert slab.counter("listener.in.downstream_pre_cx_timeout").value == 1
    assert bench.info.details == "listener_filters_timeout"


def test_once_it_is_there_the_idle_timeout_counts(make) -> None:
    bench = make(routes=BY_NAME, cluster="")
    bench.client.sendall(HELLO)
    bench.start()
    upstream = bench.connect()
    bench.pass_time(IDLE_S - 1)
    assert not bench.process.ended and upstream.recv(10_000) == HELLO


def test_one_that_is_too_large_is_hung_up_on(make) -> None:
    bench = make(routes=BY_NAME, cluster="")
    bench.client.sendall(b"\x16\x03\x01\x00\x04\x01\x00\x50\x00")
    bench.start()
    bench.turn()
    assert bench.process.ended and bench.info.details == "client_hello_too_large"
    assert bench.process.tcp_stats.client_hello_too_large.value == 1


def test_the_drain_deadline_ends_one_that_waits(make) -> None:
    bench = make(routes=BY_NAME, cluster="")
    bench.client.sendall(HELLO[:50])
    bench.start()
    bench.turn()
    bench.proxy.close(DRAIN_DEADLINE)
    assert bench.process.ended and bench.info.flags == ("DI",)


@pytest.mark.parametrize("early", [0, 50])
def test_one_that_waits_goes_on_where_the_config_knows_no_names_any_more(make, early) -> None:
    bench = make(routes=BY_NAME, cluster="")
    bench.client.sendall(HELLO[:early])
    bench.start()
    bench.turn()
    new = Process(bench.clock, bench.texts)
    assert bench.proxy.freeze()
    socks = [sock.dup() for sock in bench.proxy.socks()]
    loaded = TcpProxy.load(bench.proxy.dump(), socks, new.listener, new, new.runtime)
    bench.proxy.release()
    bench.proxy, bench.process = loaded, new
    bench.processes.append(new)
    loaded.start()
    bench.client.sendall(HELLO[early:])
    assert bench.connect().recv(10_000) == HELLO
    bench.pass_time(TIMEOUT_S + 1)
    assert not bench.process.ended


def test_one_that_connects_keeps_the_cluster_that_chance_has_chosen(make) -> None:
    bench = make(routes=TcpRoutes({}, DB), cluster="")
    bench.process.loop.add_writer = lambda fd, callback: None
    bench.start()
    bench.turn()
    del bench.process.loop.add_writer
    bench.routes = TcpRoutes({}, ClusterChoice([("other", 1)]))
    bench.move()
    bench.connect()
    assert bench.proxy.info.cluster == "db"


def announced() -> Announced:
    return Announced(2, 28, True, "192.0.2.1:5000", "192.0.2.2:443", b"\x02\x00\x01a")


@pytest.mark.parametrize("version", [1, 2])
@MOVES
def test_the_endpoint_hears_first_who_the_client_is(make, version, move) -> None:
    bench = make(proxy_protocol=version, announced=announced())
    bench.client.sendall(b"x")
    if move is not None:
        bench.process.loop.add_writer = lambda fd, callback: None
    bench.start()
    bench.turn()
    if move is not None:
        del bench.process.loop.add_writer
        bench.move(move)
    if move:
        bench.listeners[0].accept()[0].close()  # the attempt that was under way
    assert bench.connect().recv(1000) == encode(version, "192.0.2.1:5000", "192.0.2.2:443") + b"x"
    bench.client.close()
    bench.upstream.close()
    bench.turn()
    info = bench.info
    assert (info.downstream_remote, info.downstream_local) == ("192.0.2.1:5000", "192.0.2.2:443")
    assert (info.downstream_direct_remote, info.tlvs) == ("10.0.0.1:5000", b"\x02\x00\x01a")
    assert (info.rx_bytes, info.tx_bytes) == (1, 0)


@MOVES
def test_and_what_was_said_of_it_where_that_is_wanted(make, move) -> None:
    bench = make(proxy_protocol=2, announced=announced(), pass_through_tlvs=frozenset({2}))
    if move is not None:
        bench.process.loop.add_writer = lambda fd, callback: None
    bench.start()
    bench.turn()
    if move is not None:
        del bench.process.loop.add_writer
        bench.move(move)
    if move:
        bench.listeners[0].accept()[0].close()  # the attempt that was under way
    assert bench.connect().recv(1000) == encode(2, "192.0.2.1:5000", "192.0.2.2:443", announced().tlvs)


def test_without_an_announcement_the_client_is_who_has_connected(make) -> None:
    bench = make(proxy_protocol=1)
    bench.start()
    host, port = bench.proxy.socks()[0].getsockname()
    assert bench.connect().recv(1000) == encode(1, "10.0.0.1:5000", f"{host}:{port}")


def test_what_came_with_the_header_is_the_first_that_is_passed_on(make) -> None:
    bench = make(routes=BY_NAME, cluster="")
    bench.start()
    bench.proxy.receive(HELLO[:200])
    bench.client.sendall(HELLO[200:])
    assert bench.connect().recv(10_000) == HELLO
    bench.client.close()
    bench.upstream.close()
    bench.turn()
    assert bench.info.rx_bytes == len(HELLO)


def test_a_record_of_one_that_waits_is_refused_when_it_is_damaged(make) -> None:
    bench = make(routes=BY_NAME, cluster="")
    bench.client.sendall(HELLO[:50])
    bench.start()
    bench.turn()
    assert bench.proxy.freeze()
    state = bench.proxy.dump()
    new = Process(bench.clock, bench.texts, routes=BY_NAME)
    for damage in ({"early": None}, {"early": 7}, {"idle_deadline_s": -1.0}, {"down": None}, {"tried": ["x", 7]}):
        with pytest.raises(ValueError):
            TcpProxy.load({**state, **damage}, bench.proxy.socks(), new.listener, new, new.runtime)
    new.assert_clean()
    bench.proxy.thaw()
    pass_time(bench.clock, bench.process.wheel, TIMEOUT_S + 1)
