"""A trusted proxy says who its client is, in pieces, too late, wrongly or not at all; and moves meanwhile."""

from __future__ import annotations

import socket

import msgpack
import pytest

from hotproxy.errors import DRAIN_DEADLINE
from hotproxy.net.proxy_protocol import encode
from hotproxy.proxy.introduction import Introduction
from tests.kit.clock import pass_time
from tests.kit.damage import places, replaced, value_at
from tests.kit.introductions import TIMEOUT_S, Bench, Process
from tests.kit.tcp_bench import reset

V1 = encode(1, "192.0.2.1:5000", "192.0.2.2:443")
V2 = encode(2, "[2001:db8::1]:5000", "[2001:db8::2]:443")


@pytest.fixture
def make():
    made: list[Bench] = []

    def build(**options) -> Bench:
        made.append(Bench(**options))
        return made[-1]

    yield build
    for bench in made:
        bench.close()


ENDS = {V1: ("192.0.2.1:5000", "192.0.2.2:443"), V2: ("[2001:db8::1]:5000", "[2001:db8::2]:443")}


@pytest.mark.parametrize("header", [V1, V2], ids=["v1", "v2"])
@pytest.mark.parametrize("rest", [b"", b"GET / HTTP/1.1\r\n"])
@pytest.mark.parametrize("move", [None, True, False], ids=["stays", "moves", "is given back"])
def test_the_client_of_a_proxy_at_every_byte(make, header, rest, move):
    for split in range(len(header)):
        bench = make()
        bench.say(header[:split])
        if move is not None:
            bench.move(move)
        assert isinstance(bench.process.only, Introduction)
        assert bench.process.buffered.value == split
        bench.say(header[split:] + rest)
        assert bench.heard == (bench.us, ENDS[header], rest)
        assert bench.process.buffered.value == 0
        assert bench.counts() == {f"versions.v{1 if header is V1 else 2}.found": 1}


def test_a_proxy_that_speaks_for_itself(make):
    bench = make()
    bench.say(encode(2, "", "") + b"x")
    assert bench.heard == (bench.us, None, b"x")


def test_who_is_not_trusted_is_not_asked(make):
    bench = make(trusted=("10.0.0.0/8", "unix"))
    bench.say(V1)
    assert bench.heard == (bench.us, None, b"")
    assert bench.counts() == {}


@pytest.mark.parametrize(
    ("said", "counted"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "not_found_disallowed"), (b"PROX?", "not_found_disallowed"),
        (b"PROXY TCP4 a b c d\r\n", "versions.v1.error"), (V2[:12] + b"\x11", "versions.v2.error"),
    ],
)  # fmt: skip
def test_who_breaks_the_rules_is_hung_up_on(make, said, counted):
    bench = make()
    bench.say(said + bytes(3))
    assert bench.is_closed()
    assert bench.counts() == {counted: 1, "downstream_cx_destroy": 1}


@pytest.mark.parametrize("said", [b"GET / HTTP/1.1\r\n\r\n", b"PRO", b"\r\n\r", b"PROPFIND / HTTP/1.1\r\n"])
def test_where_no_header_is_required_anything_else_is_the_clients(make, said):
    for split in range(1, len(said)):
        bench = make(required=False)
        bench.say(said[:split])
        bench.say(said[split:] + b"\0")
        assert bench.heard[1:] == (None, said + b"\0") or bench.process.only.heard  # in one or two pieces
        assert bench.counts() == {"not_found_allowed": 1}


def test_there_too_a_broken_header_is_no_client(make):
    bench = make(required=False)
    bench.say(b"PROXY TCP4 1.2.3.4 1.2.3.4 1 70000\r\n")
    assert bench.is_closed()
    assert bench.counts() == {"versions.v1.error": 1, "downstream_cx_destroy": 1}


@pytest.mark.parametrize("required", [True, False])
@pytest.mark.parametrize("move", [None, True, False], ids=["stays", "moves", "is given back"])
def test_a_header_has_its_time_whatever_comes_of_it_and_wherever(make, required, move):
    bench = make(required=required)
    pass_time(bench.clock, bench.process.wheel, TIMEOUT_S - 1)
    bench.say(V1[:9])
    if move is not None:
        bench.move(move)
    pass_time(bench.clock, bench.process.wheel, 0.5)
    assert not bench.counts()
    pass_time(bench.clock, bench.process.wheel, 1)
    assert bench.is_closed()
    assert bench.counts() == {"downstream_pre_cx_timeout": 1, "downstream_cx_destroy": 1}


@pytest.mark.parametrize("said", [b"", V2[:20]])
@pytest.mark.parametrize("end", ["eof", "reset"])
def test_a_proxy_that_leaves_before_it_has_said_anything(make, said, end):
    bench = make()
    bench.say(said)
    if end == "eof":
        bench.client.shutdown(socket.SHUT_WR)
    else:
        reset(bench.client)
    bench.run()
    assert not bench.process.listener.connections
    assert bench.counts() == {"downstream_cx_destroy": 1}


def test_the_drain_deadline_ends_it_also_while_it_was_moving(make):
    bench = make()
    bench.say(V1[:9])
    connection = bench.process.only
    connection.drain()
    assert connection.freeze()
    connection.close(DRAIN_DEADLINE)
    assert bench.process.listener.connections
    connection.thaw()
    assert bench.is_closed()


def test_a_proxy_that_has_begun_is_heard_where_the_config_wants_no_header_any_more(make):
    bench = make()
    bench.say(V1[:9])
    bench.move(wanted=False)
    bench.say(V1[9:] + b"x")
    assert bench.heard == (bench.us, ENDS[V1], b"x")
    assert bench.counts() == {}


def test_a_damaged_record_is_refused_or_works(make):
    """Each value of it another one: of the same type, of another one, missing."""
    bench = make()
    bench.say(V1[:9])
    connection = bench.process.only
    assert connection.freeze()
    state = msgpack.unpackb(msgpack.packb(connection.dump()))
    connection.thaw()
    refused = 0
    for place in places(state):
        for instead in (..., None, 7, -1, "x", b"x", b"PROXY", True, [], {}):
            if instead == value_at(state, place) and type(instead) is type(value_at(state, place)):
                continue
            process = Process(bench.clock)
            bench.processes.append(process)
            sock = connection.socks()[0].dup()
            try:
                process.listener.adopt(replaced(state, place, instead), [sock]).discard()
            except ValueError:
                refused += 1
                sock.close()
    assert refused > 100
    with pytest.raises(ValueError, match="2 descriptors"):
        bench.process.listener.adopt(state, [bench.client, bench.client])
