"""Every state of a connection can move to another process: dump, load, and the conversation goes on byte by byte."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import msgpack
import pytest

from hotproxy.config.model import DirectResponse, Route
from hotproxy.errors import DRAIN_DEADLINE
from hotproxy.proxy.connection_manager import ConnectionManager
from hotproxy.upstream.upstream_connection import UpstreamConnection
from tests.kit.clock import pass_time
from tests.kit.handoff import Handoff
from tests.kit.moments import BULK, MOMENTS
from tests.kit.phrases import (
    CHUNKED,
    CHUNKED_POST,
    GET,
    GET_UP,
    HI,
    HI_DOWN,
    POST,
    POST_UP,
    SWITCH,
    WARM,
    WEBSOCKET,
    local,
)
from tests.kit.playbook import EOF, HANGS, OK, RESET, Playbook, Received, Step

Book = Callable[..., Playbook]

# Idle, partial head, body in either direction and framing, waiting, interim, pipelined, tunnel, until close, HTTP/1.0.
CONVERSATIONS: dict[str, list[tuple[str, bytes | str]]] = {
    "length": [("down", POST), ("origin", HI), ("down", GET), ("origin", HI)],
    "chunked": [
        ("down", CHUNKED_POST + b"3\r\nabc\r\n0\r\nX: y\r\n\r\n"),
        ("origin", CHUNKED + b"2\r\nhi\r\n0\r\nZ: y\r\n\r\n"),
    ],
    "pipelined": [("down", GET + POST + GET[:20]), ("origin", HI), ("origin", HI), ("down", GET[20:]), ("origin", HI)],
    "interim": [("down", GET), ("origin", b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + HI)],
    "continue": [
        ("down", POST[:-4].replace(b"\r\n\r\n", b"\r\nExpect: 100-continue\r\n\r\n")),
        ("origin", b"HTTP/1.1 100 Continue\r\n\r\n"), ("down", POST[-4:]), ("origin", HI),
    ],
    "sent_again": [("down", GET), ("origin", HI), ("down", GET), ("origin", RESET), ("origin", HI)],
    "trailers_late": [
        ("down", CHUNKED_POST + b"1\r\na\r\n"), ("origin", CHUNKED), ("down", b"0\r\nX: y\r\n\r\n"),
        ("origin", b"1\r\nb\r\n0\r\n\r\n"),
    ],
    "tunnel": [
        ("down", WEBSOCKET), ("origin", SWITCH + b"hello"), ("down", b"ping"), ("origin", b"pong"), ("down", EOF),
        ("origin", b"bye"), ("origin", EOF),
    ],
    "until_close": [("down", GET), ("origin", b"HTTP/1.1 200 OK\r\n\r\nhello"), ("origin", EOF)],
    "http_1_0": [("down", b"GET /a HTTP/1.0\r\nHost: h\r\n\r\n"), ("origin", CHUNKED + b"2\r\nhi\r\n0\r\n\r\n")],
    "head": [("down", GET.replace(b"GET", b"HEAD")), ("origin", HI[:-2]), ("down", GET), ("origin", HI)],
    "early": [("down", POST[:-2]), ("origin", HI)],
    "half_closed": [("down", GET), ("down", EOF), ("origin", HI)],
    "broken_off": [("down", GET), ("origin", CHUNKED + b"5\r\nhe"), ("origin", RESET)],
    "violation": [("down", CHUNKED_POST + b"1\r\na\r\n"), ("down", b"nonsense\r\n")],
}  # fmt: skip


def with_a_handoff(steps: list[tuple[str, bytes | str]], kind: str = "handoff") -> Iterator[list[Step]]:
    """The conversation with a handoff at each of its bytes."""
    for number, (who, what) in enumerate(steps):
        before: list[Step] = list(steps[:number])
        after: list[Step] = list(steps[number + 1 :])
        yield [*before, (kind,), (who, what), *after]
        if isinstance(what, bytes):
            for length in range(1, len(what)):
                yield [*before, (who, what[:length]), (kind,), (who, what[length:]), *after]


def by_side(received: list[Received]) -> tuple[bytes, bytes, list[str]]:
    """What the client received, what the endpoint received on whichever connection, and how the client's ended."""
    down = b"".join(what for who, what in received if who == "down" and isinstance(what, bytes))
    up = b"".join(what for who, what in received if who != "down" and isinstance(what, bytes))
    return down, up, [what for who, what in received if who == "down" and isinstance(what, str)]


def each_side(received: list[Received]) -> dict[str, list[bytes | str]]:
    """What each connection's other end received, joined where it is one piece."""
    sides: dict[str, list[bytes | str]] = {}
    for who, what in received:
        heard = sides.setdefault(who, [])
        if heard and isinstance(what, bytes) and isinstance(heard[-1], bytes):
            heard[-1] += what
        else:
            heard.append(what)
    return sides


def without_handoffs(steps: list[Step]) -> list[Step]:
    return [step for step in steps if step not in (("handoff",), ("rollback",))]


def assert_the_same(disturbed: list[Step]) -> None:
    """What the sides receive, what is logged and what is counted: as if there had been one process only."""
    undisturbed, play = Playbook(), Playbook()
    expected = undisturbed(*without_handoffs(disturbed))
    assert_alike(play, play(*disturbed), undisturbed, expected)


def assert_alike(play: Playbook, received: list[Received], undisturbed: Playbook, expected: list[Received]) -> None:
    assert each_side(received) == each_side(expected)
    for name in ("flags", "details", "status", "rx_bytes", "tx_bytes", "method", "path", "start_s"):
        of_both = [[getattr(info, name) for info in book.log.infos] for book in (undisturbed, play)]
        assert of_both[0] == of_both[1], name
    assert play.counts() == undisturbed.counts()
    undisturbed.end()
    play.end()


@pytest.mark.parametrize("kind", ["handoff", "rollback"])
@pytest.mark.parametrize("name", CONVERSATIONS)
def test_a_handoff_at_every_byte_changes_nothing(name: str, kind: str) -> None:
    for disturbed in with_a_handoff(CONVERSATIONS[name], kind):
        assert_the_same(disturbed)


@pytest.mark.parametrize("name", ["length", "chunked", "tunnel"])
def test_nor_does_one_behind_each_byte(name: str) -> None:
    """A hundred processes for one request."""
    steps: list[Step] = []
    for who, what in CONVERSATIONS[name]:
        pieces = [what] if isinstance(what, str) else [bytes((byte,)) for byte in what]
        for piece in pieces:
            steps += [("handoff",), (who, piece)]
    assert_the_same(steps)


COMMIT = pytest.mark.parametrize("commit", [True, False], ids=["commit", "rollback"])


def over(handoff: Handoff, commit: bool) -> None:
    handoff.commit() if commit else handoff.roll_back()


@COMMIT
@pytest.mark.parametrize("name", CONVERSATIONS)
def test_what_comes_while_nobody_reads_is_read_afterwards(name: str, commit: bool) -> None:
    """At each step of a conversation: data, an end or a reset that reaches a frozen connection."""
    steps = CONVERSATIONS[name]
    for number, (who, what) in enumerate(steps):
        undisturbed, play = Playbook(), Playbook()
        expected = undisturbed(*steps)
        received = list(play(*steps[:number]))
        handoff = Handoff(play)
        side = play.side(who)
        side.broken = what == RESET
        side.inbox.append(what)
        over(handoff, commit)
        received += play()
        received += play(*steps[number + 1 :])
        assert_alike(play, received, undisturbed, expected)


WAITS: dict[str, tuple[list[Step], float]] = {
    "first head": ([], 10.0),
    "head": ([("down", GET[:5])], 10.0),
    "keep-alive": ([*WARM], 30.0),
    "stream idle": ([("down", POST[:-1])], 300.0),
    "response": ([("down", GET)], 15.0),
    "flush": ([("window", "down", 10), ("down", GET), ("origin", HI)], 60.0),
    "tunnel": ([("down", WEBSOCKET), ("up", SWITCH)], 300.0),
}


@COMMIT
@pytest.mark.parametrize("name", WAITS)
def test_every_timer_keeps_its_deadline(name: str, commit: bool) -> None:
    """Each handoff began the keep-alive and the idle timeout anew: with restarts often enough they never came."""
    steps, timeout_s = WAITS[name]
    play = Playbook(keepalive_timeout_s=30.0)
    play(*steps)
    ended = len(play.log.infos)
    play(("time", timeout_s * 0.4))
    handoff = Handoff(play)
    pass_time(play.clock, play.wheel, timeout_s * 0.3)
    assert play.received == [] and not play.closed
    over(handoff, commit)
    play(("time", timeout_s * 0.3 - 0.5))
    assert not play.closed and len(play.log.infos) == ended
    play(("time", 0.5))
    assert play.closed or len(play.log.infos) > ended
    play.end()


@COMMIT
@pytest.mark.parametrize("name", WAITS)
def test_a_deadline_that_passes_meanwhile_takes_effect_at_once(name: str, commit: bool) -> None:
    steps, timeout_s = WAITS[name]
    play = Playbook(keepalive_timeout_s=30.0)
    play(*steps)
    ended = len(play.log.infos)
    handoff = Handoff(play)
    pass_time(play.clock, play.wheel, timeout_s + 1)
    over(handoff, commit)
    play(("time", 0.05))
    assert play.closed or len(play.log.infos) > ended
    play.end()


def test_a_slow_reader_that_goes_on_reading_is_not_idle_over_there(book: Book) -> None:
    """What both sides had taken when the timer last fired goes along, else one that has stopped gets a second term."""
    for taken, goes_on in ((1000, True), (0, False)):
        play = book(routes=[Route(prefix="/", cluster="api", timeout_s=0.0)])
        play(("window", "down", 1000), ("down", GET), ("up", BULK + bytes(400_000)))
        play(("time", 301.0))
        assert play.log.infos == []
        play(("window", "down", taken), ("handoff",))
        play(("time", 301.0))
        assert bool(play.log.infos) is not goes_on


@pytest.mark.parametrize("name", MOMENTS)
def test_whoever_ends_a_frozen_connection_ends_it_when_it_thaws(name: str) -> None:
    for commit in (True, False):
        play = MOMENTS[name].play()
        handoff = Handoff(play)
        play.manager.close(DRAIN_DEADLINE)
        over(handoff, commit)
        assert play.closed == (0 if commit else 1)
        play.end()


@COMMIT
def test_a_drain_that_begins_meanwhile_stays_here(book: Book, commit: bool) -> None:
    play = book()
    play(("down", GET))
    handoff = Handoff(play)
    play.manager.drain()
    play.runtime.draining = True
    over(handoff, commit)
    down = by_side(play(("origin", HI)))[0]
    assert (b"Connection: close" in down) is not commit


def test_what_ends_by_itself_does_not_move(book: Book) -> None:
    play = book()
    play(("down", GET))
    for side in ("up", "down"):
        sock = play.side(side)
        sock.broken = True
        connection = play.manager.connection if side == "down" else play.manager.stream.router.upstream_connection
        connection.write(b"x")
        assert not play.manager.freeze()
        assert play.manager.connection.fd in play.loop.readers or side == "down"
        play()
    assert play.closed and not play.manager.freeze()


def test_a_connection_that_runs_can_be_neither_released_nor_thawed(book: Book) -> None:
    play = book()
    for wrong in (play.manager.release, play.manager.thaw, play.manager.discard):
        with pytest.raises(AssertionError):
            wrong()


def test_an_endpoint_that_is_gone_still_answers(book: Book) -> None:
    play = book()
    play(("down", GET))
    handoff = Handoff(play)
    play.endpoints = ["10.0.0.9:1"]
    new = play.new_worker()
    socks: Any = play.dup(play.manager.socks())  # type: ignore[arg-type]
    loaded = ConnectionManager.load(handoff.state, socks, new.listener, play, new.runtime)
    play.manager.release()
    play.move_to(new, loaded)
    loaded.start()
    assert play(("up", HI)) == [("down", HI_DOWN)]
    assert play(("down", GET))[0] == ("up2", GET_UP)
    assert play.connects_to[-1] == "10.0.0.9:1"


def test_a_stream_whose_cluster_is_gone_is_refused(book: Book) -> None:
    play = book()
    play(("down", GET))
    handoff = Handoff(play)
    handoff.state["stream"]["router"]["cluster"] = "gone"
    with pytest.raises(ValueError, match="the cluster gone is no longer there"):
        handoff.load()
    play.manager.thaw()
    assert play(("up", HI)) == [("down", HI_DOWN)]


def test_a_connect_that_was_under_way_goes_on_when_it_thaws(book: Book) -> None:
    play = book(outcomes=[OK])
    play.loop.run()
    play.side("down").inbox.append(POST)
    play.loop.readers[play.client.fileno()]()  # it connects, and nobody has told yet that it is connected
    handoff = Handoff(play)
    assert handoff.connecting == 1 and play.connects_to == ["10.0.0.1:9000"]
    handoff.roll_back()
    assert play(("origin", HI)) == [("up", POST_UP), ("down", HI_DOWN)]
    assert play.connects_to == ["10.0.0.1:9000"] and play.log.infos[0].attempts == 1


def test_a_connect_that_was_under_way_begins_anew(book: Book) -> None:
    play = book(outcomes=[HANGS, OK])
    assert play(("down", POST[:-2]), ("handoff",), ("down", POST[-2:]), ("origin", HI)) == [
        ("up", POST_UP), ("down", HI_DOWN),
    ]  # fmt: skip
    assert play.connects_to == ["10.0.0.1:9000"] * 2
    assert play.log.infos[0].attempts == 1  # it was never refused


def test_a_request_may_still_be_sent_again(book: Book) -> None:
    play = book()
    put = POST.replace(b"POST", b"PUT")
    put_up = POST_UP.replace(b"POST", b"PUT")
    assert play(*WARM, ("down", put), ("handoff",), ("up", RESET), ("up2", HI))[2:] == [
        ("up", put_up), ("up2", put_up), ("down", HI_DOWN),
    ]  # fmt: skip


def test_a_request_that_is_sent_again_gets_a_new_connection_over_there_too(book: Book) -> None:
    """An idle connection had died, and the next one was being opened when it moved. Over there it got another idle one,
    which had died of the same; that was the second time, and the client got a 503."""
    play = book(outcomes=[OK, HANGS, OK])
    play(*WARM, ("down", GET), ("up", RESET))
    handoff = Handoff(play)
    new = play.new_worker()
    (endpoint,) = new.cluster.endpoints
    idle = UpstreamConnection(play.new_socket(), new.cluster, endpoint, None, new.pools, new.runtime)  # type: ignore[arg-type]
    new.upstream.upstream_cx_total.inc()
    new.upstream.upstream_cx_active.add(1)
    idle.reused = new.pools.keep(idle)
    socks: Any = play.dup(play.manager.socks())  # type: ignore[arg-type]
    loaded = ConnectionManager.load(handoff.state, socks, new.listener, play, new.runtime)
    play.manager.release()
    play.move_to(new, loaded)
    loaded.start()
    assert play() == [("up3", GET_UP)]
    assert play(("up3", HI)) == [("down", HI_DOWN)]


def test_what_nobody_has_taken_yet_goes_along(book: Book) -> None:
    play = book()
    body = bytes(range(256)) * 2000
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 512000\r\n\r\n"
    play(("down", GET), ("window", "down", 0), ("up", answer + body[:400_000]), ("handoff",))
    assert (play.is_read("up"), play.buffered.value > 0) == (False, True)
    down = by_side(play(("window", "down", None), ("up", body[400_000:])))[0]
    assert down[down.index(b"\r\n\r\n") + 4 :] == body


def test_so_does_what_the_endpoint_has_not_taken(book: Book) -> None:
    play = book()
    body = bytes(range(256)) * 2000
    post = b"POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 512000\r\n\r\n"
    play(("down", post), ("window", "up", 0), ("down", body), ("handoff",))
    assert not play.is_read("down")
    assert by_side(play(("window", "up", None)))[1] == body


def test_deadlines_are_kept(book: Book) -> None:
    play = book(routes=[Route(prefix="/", cluster="api", timeout_s=2.0)])
    play(("down", GET), ("time", 1.5), ("handoff",))
    assert play(("time", 0.3)) == []
    assert play(("time", 0.3))[-1] == ("down", local(b"504 Gateway Timeout", b"upstream request timeout"))


def test_so_is_that_of_a_head(book: Book) -> None:
    play = book()
    assert play(("down", GET[:5]), ("time", 9.0), ("handoff",), ("time", 0.8)) == []
    assert play(("time", 0.4))[-1] == ("down", EOF)


def test_a_connection_moves_out_of_a_draining_generation_and_lives_on(book: Book) -> None:
    play = book()
    play(*WARM, ("drain",), ("handoff",))
    assert play(("down", GET), ("origin", HI)) == [("up", GET_UP), ("down", HI_DOWN)]


def test_whole_requests_behind_unread_answers_are_answered_over_there(book: Book) -> None:
    play = book(routes=[Route(prefix="/", direct_response=DirectResponse(200, "x" * 300_000))])
    play(("window", "down", 0), ("down", GET * 3), ("handoff",))
    play(("window", "down", None))
    assert len(play.log.infos) == 3


def test_a_dump_is_msgpack_and_nothing_else(book: Book) -> None:
    play = book()
    play(("down", POST[:-1]))
    state = play.manager.dump()
    assert (state["kind"], state["version"]) == ("http1", 2)
    assert msgpack.packb(msgpack.unpackb(msgpack.packb(state))) == msgpack.packb(state)


def _mutations(state: dict[str, object]) -> Iterator[dict[str, object]]:
    """The state with each of its values, at any depth, missing or of another type."""
    for key, value in state.items():
        yield {other: state[other] for other in state if other != key}
        yield {**state, key: object()}
        if isinstance(value, dict):
            for mutated in _mutations(value):
                yield {**state, key: mutated}


@pytest.mark.parametrize("change", [{"kind": "http2"}, {"version": 3}, {"version": True}, {"kind": "tcp"}])
def test_an_unknown_kind_or_version_is_refused(book: Book, change: dict[str, object]) -> None:
    play = book()
    state = {**play.manager.dump(), **change}
    with pytest.raises(ValueError):
        ConnectionManager.load(state, [play.client], play.listener, play, play.runtime)  # type: ignore[list-item]
    assert not play.client.closed


@pytest.mark.parametrize("steps", [[], [("down", GET)]])
def test_the_wrong_number_of_descriptors_is_refused(book: Book, steps: list[Step]) -> None:
    play = book()
    play(*steps)
    state, socks = play.manager.dump(), play.manager.socks()
    for wrong in (socks[:-1], socks * 3):
        with pytest.raises(ValueError):
            ConnectionManager.load(state, wrong, play.listener, play, play.runtime)


@pytest.mark.parametrize("name", ["idle", "body", "tunnel", "connecting"])
def test_a_state_that_was_damaged_is_refused_and_leaves_nothing_behind(book: Book, name: str) -> None:
    play = book(outcomes=[HANGS] if name == "connecting" else [])
    steps: dict[str, list[Step]] = {
        "idle": [],
        "body": [("window", "down", 0), ("down", GET), ("up", CHUNKED + b"5\r\nhel")],
        "tunnel": [("down", WEBSOCKET), ("up", SWITCH), ("window", "up", 0), ("down", b"x")],
        "connecting": [("down", POST[:-1])],
    }
    play(*steps[name])
    state, socks = play.manager.dump(), play.manager.socks()
    other = Playbook()
    gauges = other.gauges()
    for damaged in _mutations(state):
        with pytest.raises(ValueError):
            ConnectionManager.load(damaged, socks, other.listener, play, other.runtime)
        assert other.gauges() == gauges, damaged
    assert not play.client.closed
    other.end()
