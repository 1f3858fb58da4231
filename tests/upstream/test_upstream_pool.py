"""Keep-alive connections to endpoints: which one is taken, when they go, what is counted."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from hotproxy.config.address import Address
from hotproxy.errors import CONNECT_FAILURE, CONNECT_TIMEOUT, LOCAL_CONNECT_FAILURE
from hotproxy.http.codec import END
from hotproxy.upstream.endpoint import Endpoint
from tests.kit.clock import pass_time
from tests.kit.fake_sockets import EOF, RESET
from tests.upstream.pool_world import ANSWER, User, World


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    yield world
    world.pools.drain()
    open_ = sum(not sock.closed for sock in world.sockets.values())
    assert world.stats.upstream_cx_active.value == open_
    assert world.stats.upstream_rq_pending_active.value == 0


def test_the_connection_used_last_is_taken_first(world: World) -> None:
    first, second = world.idle()[0], None
    world.connected()
    second = world.idle()[0]
    assert [world.take(), world.take(), world.take()] == [second, first, None]


def test_each_endpoint_has_its_own(world: World) -> None:
    one = world.idle(0)[0]
    assert (world.take(1), world.take(0)) == (None, one)


def test_it_is_known_by_name_so_that_it_outlives_a_snapshot(world: World) -> None:
    upstream, _ = world.idle()
    again = Endpoint(Address.parse("10.0.0.1:1"))
    assert world.pools.take(world.cluster, again, User()) is upstream
    assert (upstream.endpoint, upstream.reused, upstream.responded, upstream.untouched) == (again, True, False, True)


@pytest.mark.parametrize("what", [EOF, RESET, b"HTTP/1.1 408 Request Timeout\r\n\r\n"])
def test_whatever_comes_while_it_is_idle_ends_it(world: World, what: bytes | str) -> None:
    _, sock = world.idle()
    sock.inbox.append(what)
    world.loop.run()
    assert (sock.closed, world.take()) == (True, None)


def test_it_is_closed_when_nobody_needs_it(world: World) -> None:
    _, sock = world.idle()
    pass_time(world.clock, world.wheel, 59.8)
    assert not sock.closed
    pass_time(world.clock, world.wheel, 0.2)
    assert (sock.closed, world.stats.upstream_cx_idle_timeout.value) == (True, 1)


def test_the_idle_time_does_not_run_while_it_is_busy(world: World) -> None:
    upstream, sock = world.idle()
    assert world.take() is upstream
    pass_time(world.clock, world.wheel, 100.0)
    assert not sock.closed


@pytest.mark.parametrize("what", [EOF, RESET, b"x"])
def test_it_is_looked_at_before_it_is_taken(world: World, what: bytes | str) -> None:
    """An end that the loop has not told yet, or a second answer, which would have been the next client's."""
    older, _ = world.idle()
    _, newer, sock = world.connected()
    sock.inbox.append(ANSWER)
    world.loop.run()
    newer.release()
    sock.inbox.append(what)
    assert world.take() is older
    assert sock.closed


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n",
        ANSWER + b"x",
    ],
)
def test_what_cannot_be_used_again_is_closed(world: World, answer: bytes) -> None:
    _, upstream, sock = world.connected()
    sock.inbox.append(answer)
    world.loop.run()
    upstream.release()
    assert (sock.closed, world.pools.idle_count) == (True, 0)


def test_a_request_that_has_not_left_whole_is_not_followed_by_another(world: World) -> None:
    _, upstream, sock = world.connected()
    sock.window = 0
    upstream.connection.write(b"rest")
    sock.inbox.append(ANSWER)
    world.loop.run()
    upstream.release()
    assert (sock.closed, world.buffered.value) == (True, 0)


def test_the_end_of_a_body_that_lasts_until_close(world: World) -> None:
    user, upstream, sock = world.connected()
    sock.inbox += [b"HTTP/1.1 200 OK\r\n\r\nhi", EOF]
    world.loop.run()
    assert user.heard[-1] is END
    upstream.release()
    assert sock.closed


@pytest.mark.parametrize("before", [b"", b"HTTP/1.1 200", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhi"])
def test_an_end_before_the_end_of_the_response_is_a_loss(world: World, before: bytes) -> None:
    user, upstream, sock = world.connected()
    sock.inbox += [before, EOF] if before else [EOF]
    world.loop.run()
    assert user.heard[-1] == "connection closed by the endpoint"
    assert (sock.closed, upstream.responded) == (True, bool(before))


def test_a_connect_that_fails_is_counted(world: World) -> None:
    for reason in (CONNECT_FAILURE, CONNECT_TIMEOUT, LOCAL_CONNECT_FAILURE):
        user = User()
        world.pools.connect(world.cluster, world.endpoints[0], user, world).start()
        world.attempts[-1].owner.on_connect_failed(reason, "")
        assert user.heard == [reason]
    stats = world.stats
    assert (stats.upstream_cx_connect_fail.value, stats.upstream_cx_connect_timeout.value) == (3, 1)
    assert stats.upstream_cx_connect_local_fail.value == 1
    assert (stats.upstream_cx_total.value, stats.upstream_rq_pending_total.value) == (3, 3)


def test_a_connect_that_nobody_wants_any_more(world: World) -> None:
    connect = world.pools.connect(world.cluster, world.endpoints[0], User(), world)
    connect.start()
    connect.cancel()
    connect.cancel()
    assert world.attempts[-1].cancelled
    assert world.stats.upstream_cx_connect_fail.value == 0


def test_a_worker_that_leaves_keeps_nothing(world: World) -> None:
    _, idle = world.idle()
    _, upstream, busy = world.connected()
    world.pools.drain()
    assert (idle.closed, busy.closed) == (True, False)
    busy.inbox.append(ANSWER)
    world.loop.run()
    upstream.release()
    assert busy.closed


def test_behind_a_switch_the_bytes_are_raw_and_the_directions_end_on_their_own(world: World) -> None:
    user, upstream, sock = world.connected()
    upstream.raw = True
    sock.inbox += [b"\x00", EOF]
    world.loop.run()
    assert (user.heard, sock.closed) == ([b"\x00", EOF], False)
    upstream.send_raw(b"bye")
    upstream.flush()
    upstream.finish()
    assert world.said[-2:] == [("up10", b"bye"), ("up10", EOF)]


def test_bytes_are_counted_whatever_becomes_of_the_connection(world: World) -> None:
    _, upstream, sock = world.connected()
    sock.inbox.append(ANSWER)
    world.loop.run()
    upstream.close()
    stats = world.stats
    sent = sum(len(what) for _, what in world.said if isinstance(what, bytes))
    assert (stats.upstream_cx_rx_bytes_total.value, stats.upstream_cx_tx_bytes_total.value) == (len(ANSWER), sent)
    assert (stats.upstream_cx_total.value, stats.upstream_cx_destroy.value) == (1, 1)
