"""Idle connections on their way to another process: which ones, in which order, and what may happen meanwhile."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import msgpack
import pytest

from hotproxy.upstream.moving import IdleUpstream
from hotproxy.upstream.upstream_connection import PARTED_S
from tests.kit.clock import pass_time
from tests.kit.fake_sockets import EOF, RESET, FakeSocket
from tests.upstream.pool_world import ANSWER, World


@pytest.fixture
def make() -> Iterator[Callable[[], World]]:
    made: list[World] = []

    def build() -> World:
        made.append(World())
        return made[-1]

    yield build
    for world in made:
        world.pools.drain()
        assert world.stats.upstream_cx_active.value == sum(not sock.closed for sock in world.sockets.values())


def load(world: World, idle: IdleUpstream, change: Callable[[dict[str, Any]], None] | None = None) -> IdleUpstream:
    """Into another process, which has its own descriptor."""
    state = msgpack.unpackb(msgpack.packb(idle.dump()))
    if change is not None:
        change(state)
    (sock,) = idle.socks()
    assert isinstance(sock, FakeSocket)
    fd = 10 + len(world.sockets)
    copied = sock.dup(fd)
    try:
        loaded = world.pools.load_idle(state, copied, world)  # type: ignore[arg-type]
    except ValueError:
        copied.close()
        raise
    world.sockets[fd] = copied
    return loaded


def test_they_are_in_the_same_order_over_there(make: Callable[[], World]) -> None:
    old, new = make(), make()
    first = old.connected()
    second = old.connected()
    for _, upstream, sock in (first, second):
        sock.inbox.append(ANSWER)
        old.loop.run()
        upstream.release()
    frozen = old.pools.freeze_idle(10)
    assert old.pools.idle_count == 0 and old.take() is None
    loaded = [load(new, idle) for idle in frozen]
    assert new.pools.idle_count == 0
    for idle in frozen:
        idle.release()
    for idle in loaded:
        idle.start()
    assert old.stats.upstream_cx_active.value == old.stats.upstream_cx_destroy.value == 0
    assert new.stats.upstream_cx_active.value == new.pools.idle_count == 2
    assert new.stats.upstream_cx_total.value == 0
    taken = new.take()
    assert taken is not None and taken.connection.sock.name == second[2].name  # type: ignore[attr-defined]
    new.ask(taken)
    assert new.said == [] and old.said[-1][0] == second[2].name  # the endpoint's end reports where it was made


@pytest.mark.parametrize("limit", [0, 1, 2, 3, 4])
def test_at_most_so_many_go_those_used_last_first(make: Callable[[], World], limit: int) -> None:
    world = make()
    users = [world.connected(endpoint) for endpoint in (0, 0, 1)]
    for _, upstream, sock in users:
        sock.inbox.append(ANSWER)
        world.loop.run()
        upstream.release()
    frozen = world.pools.freeze_idle(limit)
    assert len(frozen) == min(limit, 3) and world.pools.idle_count == 3 - len(frozen)
    if limit == 1:
        assert frozen[0].socks() == [users[1][1].connection.sock]
    for idle in frozen:
        assert idle.freeze()
        idle.thaw()
    assert world.pools.idle_count == 3


def test_what_the_endpoint_does_meanwhile_is_seen_afterwards(make: Callable[[], World]) -> None:
    world = make()
    _, sock = world.idle()
    (idle,) = world.pools.freeze_idle(1)
    sock.inbox.append(EOF)
    world.loop.run()
    assert not sock.closed
    idle.thaw()
    world.loop.run()
    assert sock.closed and world.pools.idle_count == 0


def test_the_idle_timeout_goes_on(make: Callable[[], World]) -> None:
    old, new = make(), make()
    old.idle()
    pass_time(old.clock, old.wheel, 50.0)
    new.clock.advance(old.clock.now_s() - new.clock.now_s())
    (idle,) = old.pools.freeze_idle(1)
    pass_time(old.clock, old.wheel, 20.0)
    assert old.stats.upstream_cx_idle_timeout.value == 0
    load(new, idle).start()
    idle.release()
    pass_time(new.clock, new.wheel, 9.0)
    assert new.pools.idle_count == 1
    pass_time(new.clock, new.wheel, 1.0)
    assert (new.pools.idle_count, new.stats.upstream_cx_idle_timeout.value) == (0, 1)


def test_one_clients_own_does_not_wait_for_ever_for_a_client_that_is_elsewhere(make: Callable[[], World]) -> None:
    """It goes to another worker than its client: nobody there closes it when the client leaves, nor may anybody else
    have it. Without an idle timeout it stayed until the endpoint closed it, one more for every restart."""
    old, new = make(), make()
    for world in (old, new):
        world.cluster = dataclasses.replace(world.cluster, idle_timeout_s=0.0, proxy_protocol=1)
        world.snapshot.clusters["api"] = world.cluster
    _, upstream, sock = old.connected()
    upstream.preface = old.cluster.preface("192.0.2.1:5", "192.0.2.2:6", b"")
    sock.inbox.append(ANSWER)
    old.loop.run()
    upstream.release()
    (idle,) = old.pools.freeze_idle(1)
    load(new, idle).start()
    idle.release()
    assert new.take() is None
    new.pools.leave("192.0.2.9:5", "192.0.2.2:6", b"")
    pass_time(new.clock, new.wheel, PARTED_S - 1)
    assert new.pools.idle_count == 1
    pass_time(new.clock, new.wheel, 2)
    assert new.pools.idle_count == 0


def test_one_that_is_not_moved_after_all_closes_in_a_worker_that_leaves(make: Callable[[], World]) -> None:
    world = make()
    _, sock = world.idle()
    (idle,) = world.pools.freeze_idle(1)
    world.pools.drain()
    assert not sock.closed
    idle.thaw()
    assert sock.closed and world.stats.upstream_cx_destroy.value == 1


def test_one_that_is_discarded_goes_on_in_the_other_process(make: Callable[[], World]) -> None:
    old, new = make(), make()
    _, sock = old.idle()
    (idle,) = old.pools.freeze_idle(1)
    load(new, idle).discard()
    assert new.stats.upstream_cx_active.value == new.stats.upstream_cx_destroy.value == 0
    assert sock.peer.copies == 1 and (sock.name, EOF) not in old.said
    idle.thaw()
    assert old.take() is not None


def test_a_broken_one_stays(make: Callable[[], World]) -> None:
    world = make()
    upstream, sock = world.idle()
    sock.broken = True
    upstream.connection.write(b"x")
    assert world.pools.freeze_idle(1) == []
    sock.inbox.append(RESET)
    world.loop.run()
    assert sock.closed and world.pools.idle_count == 0


def _set(*path: str, to: object) -> Callable[[dict[str, Any]], None]:
    def change(state: dict[str, Any]) -> None:
        for key in path[:-1]:
            state = state[key]
        state[path[-1]] = to

    return change


@pytest.mark.parametrize(
    "change",
    [
        _set("kind", to="http2_idle"), _set("version", to=3), _set("cluster", to="gone"), _set("more", to=1),
        _set("upstream", to=None), _set("upstream", "version", to=3), _set("upstream", "endpoint", to="10.9.9.9:1"),
        _set("upstream", "endpoint", to="nonsense"), _set("upstream", "raw", to=True),
        _set("upstream", "reused", to=False), _set("upstream", "responded", to=True),
        _set("upstream", "sent_before", to=0), _set("upstream", "codec", "state", to=1),
        _set("upstream", "codec", "keep_alive", to=False), _set("upstream", "codec", "buffer", to=b"x"),
        _set("upstream", "connection", "pending", to=b"x"), _set("upstream", "connection", "read_closed", to=True),
        _set("upstream", "connection", "write_closed", to=True), _set("upstream", "idle_deadline_s", to=float("nan")),
    ],
)  # fmt: skip
def test_what_is_not_known_here_or_not_idle_is_refused(
    make: Callable[[], World], change: Callable[[dict[str, Any]], None]
) -> None:
    old, new = make(), make()
    old.idle()
    (idle,) = old.pools.freeze_idle(1)
    untouched = copy.deepcopy(idle.dump())
    with pytest.raises(ValueError):
        load(new, idle, change)
    assert new.stats.upstream_cx_active.value == new.buffered.value == new.pools.idle_count == 0
    assert idle.dump() == untouched
    idle.thaw()
