"""Every state of a connection can move to another process: dump, load, and the conversation goes on byte by byte."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import msgpack
import pytest

from hotproxy.config.model import DirectResponse, Route
from hotproxy.proxy.connection_manager import ConnectionManager
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


def without_handoffs(steps: list[Step]) -> list[Step]:
    return [step for step in steps if step not in (("handoff",), ("rollback",))]


def assert_the_same(disturbed: list[Step]) -> None:
    """What the sides receive, what is logged and what is counted: as if there had been one process only."""
    undisturbed, play = Playbook(), Playbook()
    expected = by_side(undisturbed(*without_handoffs(disturbed)))
    assert by_side(play(*disturbed)) == expected, disturbed
    for name in ("flags", "details", "status", "rx_bytes", "tx_bytes", "method", "path", "start_s"):
        of_both = [[getattr(info, name) for info in book.log.infos] for book in (undisturbed, play)]
        assert of_both[0] == of_both[1], name
    assert play.counts() == undisturbed.counts(), disturbed
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


def test_a_connect_that_was_under_way_begins_anew(book: Book) -> None:
    play = book(outcomes=[HANGS, OK])
    assert play(("down", POST[:-2]), ("handoff",), ("down", POST[-2:]), ("origin", HI)) == [
        ("up", POST_UP), ("down", HI_DOWN),
    ]  # fmt: skip
    assert play.connects_to == ["10.0.0.1:9000"] * 2


def test_a_request_may_still_be_sent_again(book: Book) -> None:
    play = book()
    put = POST.replace(b"POST", b"PUT")
    put_up = POST_UP.replace(b"POST", b"PUT")
    assert play(*WARM, ("down", put), ("handoff",), ("up", RESET), ("up2", HI))[2:] == [
        ("up", put_up), ("up2", put_up), ("down", HI_DOWN),
    ]  # fmt: skip


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
    assert (state["kind"], state["version"]) == ("http1", 1)
    assert msgpack.packb(msgpack.unpackb(msgpack.packb(state))) == msgpack.packb(state)


def _mutations(state: dict[str, object]) -> Iterator[dict[str, object]]:
    """The state with each of its values, at any depth, missing or of another type."""
    for key, value in state.items():
        yield {other: state[other] for other in state if other != key}
        yield {**state, key: object()}
        if isinstance(value, dict):
            for mutated in _mutations(value):
                yield {**state, key: mutated}


@pytest.mark.parametrize("change", [{"kind": "http2"}, {"version": 2}, {"kind": "tcp"}])
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
        try:
            loaded = ConnectionManager.load(damaged, socks, other.listener, play, other.runtime)
        except ValueError:
            assert other.gauges() == gauges, damaged
        else:
            # Not every value is looked at; then it must not matter.
            loaded.connection.detach()
            other = Playbook()
    assert not play.client.closed
