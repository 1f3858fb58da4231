"""Records of connections with one value changed: refused, without a trace, or a connection that works.

Other code may have written them: an older release, a newer one, or this one with a bug.
"""

from __future__ import annotations

import functools
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hotproxy.proxy.connection_manager import ConnectionManager
from hotproxy.proxy.tcp_proxy import TcpProxy
from hotproxy.telemetry.stream_info import FIELDS
from tests.kit.damage import damaged, places, replaced, value_at
from tests.kit.handoff import Handoff
from tests.kit.moments import MOMENTS, TCP_MOMENTS, play_tcp
from tests.kit.tcp_bench import Process


@functools.cache
def record_of(moment: str) -> tuple[Any, list[Any]]:
    play = MOMENTS[moment].play()
    state = Handoff(play).state
    return state, list(places(state))


@given(st.sampled_from(sorted(MOMENTS)), st.data())
@settings(max_examples=400, deadline=None)
def test_a_damaged_http_connection_is_refused_or_works(name: str, data: st.DataObject) -> None:
    record, everywhere = record_of(name)
    place = data.draw(st.sampled_from(everywhere), "place")
    state = replaced(record, place, data.draw(damaged(value_at(record, place)), "instead"))
    moment = MOMENTS[name]
    play = moment.play()
    handoff = Handoff(play)
    new = play.new_worker()
    socks: Any = play.dup(play.manager.socks())  # type: ignore[arg-type]
    try:
        loaded = ConnectionManager.load(state, socks, new.listener, play, new.runtime)
    except ValueError:
        assert new.gauges() == {} and new.counters() == {}
        assert not any(sock.closed for sock in socks) and play.moved == []
        for sock in socks:
            sock.close()
        for upstream in handoff.idle:
            upstream.thaw()
        play.manager.thaw()
    else:
        idle = handoff.load_idle(new)
        play.manager.release()
        for upstream in handoff.idle:
            upstream.release()
        play.move_to(new, loaded)
        for upstream in idle:
            upstream.start()
        loaded.start()
    moment.play_on(play)
    play(("time", 400.0))  # longer than any timeout of a stream
    play.end()


CLUSTER = ("info", FIELDS.index("cluster"))


@functools.cache
def record_of_tcp(moment: str) -> tuple[Any, list[Any]]:
    bench = play_tcp(moment)
    assert bench.proxy.freeze()
    state = msgpack.unpackb(msgpack.packb(bench.proxy.dump()))
    bench.proxy.thaw()
    bench.close()
    return state, list(places(state))


@given(st.sampled_from([*TCP_MOMENTS, "slow reader"]), st.data())
@settings(max_examples=200, deadline=None)
def test_a_damaged_tcp_connection_is_refused_or_works(name: str, data: st.DataObject) -> None:
    record, everywhere = record_of_tcp(name)
    # A cluster that is not there counts nothing: see test_proxy_tcp_moving.
    place = data.draw(st.sampled_from(everywhere).filter(lambda place: place != CLUSTER), "place")
    state = replaced(record, place, data.draw(damaged(value_at(record, place)), "instead"))
    bench = play_tcp(name)
    assert bench.proxy.freeze()
    new = Process(bench.clock, bench.texts)
    socks = [sock.dup() for sock in bench.proxy.socks()]
    try:
        loaded = TcpProxy.load(state, socks, new.listener, new, new.runtime)
    except ValueError:
        new.assert_clean()
        assert new.moved == [] and new.counters() == {}
        for sock in socks:
            sock.close()
        bench.proxy.thaw()
        bench.turn()
    else:
        bench.proxy.release()
        bench.process, bench.proxy = new, loaded
        bench.processes.append(new)
        loaded.start()
        bench.turn()
    bench.close()


@pytest.mark.parametrize("name", MOMENTS)
def test_undamaged_ones_work(name: str) -> None:
    """What the tests above have is what is meant: a moment in which nothing is changed goes on to its end."""
    moment = MOMENTS[name]
    with_handoff, without = moment.play(), moment._replace(outcomes=()).play()
    with_handoff.hand_off()
    for play in (with_handoff, without):
        moment.play_on(play)
    assert with_handoff.log.infos and len(with_handoff.log.infos) == len(without.log.infos)
    assert [info.status for info in with_handoff.log.infos] == [info.status for info in without.log.infos]
    for play in (with_handoff, without):
        play.end()
