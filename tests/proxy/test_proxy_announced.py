"""The client that a proxy in front of us has announced, in what HTTP makes of it; and ours, announced to endpoints."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from hotproxy.net.proxy_protocol import Announced, encode, parse
from hotproxy.proxy.connection_manager import ConnectionManager
from hotproxy.telemetry.log_format import LogFormat
from tests.kit.handoff import Handoff
from tests.kit.phrases import GET, GET_UP, HI, HI_DOWN, POST, SWITCH, WARM, WEBSOCKET
from tests.kit.playbook import EOF, OK, REFUSED, RESET, Playbook

Book = Callable[..., Playbook]

TLVS = b"\x02\x00\x07a.b.com"
KNOWN = Announced(2, 28, True, "192.0.2.9:1234", "192.0.2.2:443", TLVS)
NOBODY = Announced(2, 16, False, "", "", b"")
US = encode(1, "10.1.1.1:5000", "127.0.0.1:80")
LINE = LogFormat.compile(
    "%DOWNSTREAM_REMOTE_ADDRESS% %DOWNSTREAM_DIRECT_REMOTE_ADDRESS% %DOWNSTREAM_LOCAL_ADDRESS% "
    "%DYNAMIC_METADATA(envoy.filters.listener.proxy_protocol:PP2_TYPE_AUTHORITY)%"
)
MOVES = pytest.mark.parametrize("move", [(), (("handoff",),), (("rollback",),)], ids=["stays", "moves", "given back"])


@MOVES
def test_the_announced_client_is_the_client(book: Book, move: tuple[Any, ...]) -> None:
    play = book(announced=KNOWN)
    assert play(*move, ("down", GET[:9]), *move, ("down", GET[9:]), *move, ("origin", HI), *move, ("down", GET)) == [
        ("up", GET_UP.replace(b"10.1.1.1", b"192.0.2.9")),
        ("down", HI_DOWN),
        ("up", GET_UP.replace(b"10.1.1.1", b"192.0.2.9")),
    ]
    assert LINE.render(play.log.infos[0]) == b"192.0.2.9:1234 10.1.1.1:5000 192.0.2.2:443 a.b.com\n"


def test_the_client_of_a_unix_socket_and_the_proxy_behind_one(book: Book) -> None:
    play = book(peer="", announced=Announced(2, 232, True, "/run/client", "", b""))
    play(*WARM)
    assert b"x-forwarded-for" not in play.received[0][1]  # type: ignore[operator]
    assert LINE.render(play.log.infos[0]) == b"/run/client @ - -\n"
    play.hand_off()
    assert (play.manager.peer, play.manager.direct_peer, play.manager.local) == ("/run/client", "@", "")


@MOVES
def test_a_proxy_that_speaks_for_itself_is_the_client(book: Book, move: tuple[Any, ...]) -> None:
    play = book(announced=NOBODY)
    assert play(*move, *WARM) == [("up", GET_UP), ("down", HI_DOWN)]
    assert LINE.render(play.log.infos[0]) == b"10.1.1.1:5000 10.1.1.1:5000 127.0.0.1:80 -\n"


@pytest.mark.parametrize(
    "damage", [{"local": "a\r\nb"}, {"direct_peer": "\0"}, {"direct_peer": 7}, {"tlvs": "text"}, {"local": None}]
)
def test_a_record_with_something_else_than_addresses_is_refused(book: Book, damage: dict[str, object]) -> None:
    play = book(announced=KNOWN)
    state = {**play.manager.dump(), **damage}
    with pytest.raises(ValueError):
        ConnectionManager.load(state, [play.client], play.listener, play, play.runtime)  # type: ignore[list-item]


# -- towards endpoints


@pytest.mark.parametrize("version", [1, 2])
def test_a_connection_begins_with_its_client_and_goes_on_without(book: Book, version: int) -> None:
    play = book(proxy_protocol=version)
    assert play(*WARM, *WARM) == [
        ("up", encode(version, "10.1.1.1:5000", "127.0.0.1:80") + GET_UP),
        ("down", HI_DOWN),
        ("up", GET_UP),
        ("down", HI_DOWN),
    ]
    assert play.connects_to == ["10.0.0.1:9000"]


def test_an_announced_client_is_announced(book: Book) -> None:
    play = book(proxy_protocol=2, announced=KNOWN)
    (_, said), *_ = play(("down", POST[:-1]))
    assert isinstance(said, bytes) and said.startswith(encode(2, KNOWN.remote, KNOWN.local) + b"POST")


AUTHORITY, UNIQUE, CHECKSUM = b"\x02\x00\x07a.b.com", b"\x05\x00\x02u1", b"\x03\x00\x04sum!"


@MOVES
@pytest.mark.parametrize(
    ("kinds", "passed"),
    [
        (frozenset(), b""),
        (frozenset({2}), AUTHORITY),
        (frozenset({5, 0xEA}), UNIQUE),
        (frozenset({3, 5}), UNIQUE + CHECKSUM),
        (frozenset(range(256)), AUTHORITY + UNIQUE + CHECKSUM),
    ],
)
def test_what_a_proxy_has_said_besides_is_passed_on_where_that_is_wanted(
    book: Book, kinds: frozenset[int], passed: bytes, move: tuple[Any, ...]
) -> None:
    tlvs = AUTHORITY + UNIQUE + CHECKSUM
    known = Announced(2, 28 + len(tlvs), True, KNOWN.remote, KNOWN.local, tlvs)
    play = book(proxy_protocol=2, announced=known, pass_through_tlvs=kinds)
    header = encode(2, known.remote, known.local, passed)
    found = parse(header)
    assert isinstance(found, Announced)  # its checksum is that of this header
    request = GET_UP.replace(b"10.1.1.1", b"192.0.2.9")
    assert play(*move, *WARM, *move, *WARM) == [
        ("up", header + request), ("down", HI_DOWN), ("up", request), ("down", HI_DOWN),
    ]  # fmt: skip
    play(*move, ("down", EOF))
    assert play.pools.idle_count == 0 and play.side("up").closed


def test_clients_of_whom_other_things_are_said_are_others(book: Book) -> None:
    """The same ends, as a proxy has that reuses its connections, and another unique id."""
    known = Announced(2, 33, True, KNOWN.remote, KNOWN.local, UNIQUE)
    play = book(proxy_protocol=2, announced=known, pass_through_tlvs=frozenset({5}))
    play(*WARM)
    (endpoint,) = play.cluster.endpoints
    router: Any = object()
    for tlvs in (b"\x05\x00\x02u2", b""):
        preface = play.cluster.preface(KNOWN.remote, KNOWN.local, tlvs)
        assert play.pools.take(play.cluster, endpoint, router, preface) is None


def test_each_attempt_begins_anew(book: Book) -> None:
    play = book(proxy_protocol=1, outcomes=[REFUSED, OK], endpoints=["10.0.0.1:9000", "10.0.0.2:9000"])
    assert play(("down", GET), ("up", HI)) == [("up", US + GET_UP), ("down", HI_DOWN)]


def test_a_kept_connection_that_dies_is_replaced_by_one_that_begins_like_it(book: Book) -> None:
    play = book(proxy_protocol=1)
    play(*WARM)
    assert play(("down", GET), ("up", RESET), ("up2", HI)) == [("up", GET_UP), ("up2", US + GET_UP), ("down", HI_DOWN)]


@MOVES
def test_it_moves_with_its_client(book: Book, move: tuple[Any, ...]) -> None:
    play = book(proxy_protocol=1)
    assert play(*move, *WARM, *move, ("down", GET), *move, ("up", HI)) == [
        ("up", US + GET_UP), ("down", HI_DOWN), ("up", GET_UP), ("down", HI_DOWN),
    ]  # fmt: skip


def test_a_tunnel_too(book: Book) -> None:
    play = book(proxy_protocol=1)
    play(("down", WEBSOCKET), ("origin", SWITCH), ("handoff",))
    assert play(("down", b"ping"), ("origin", b"pong")) == [("up", b"ping"), ("down", b"pong")]


@MOVES
def test_what_was_a_clients_own_is_closed_when_it_leaves(book: Book, move: tuple[Any, ...]) -> None:
    play = book(proxy_protocol=1)
    play(*WARM, *move)
    assert play.pools.idle_count == 1 and play.pools.has_clients
    play(("down", EOF))
    assert play.pools.idle_count == 0 and not play.pools.has_clients
    assert play.side("up").closed


def test_another_client_never_gets_it(book: Book) -> None:
    play = book(proxy_protocol=1)
    play(*WARM)
    pools, cluster = play.pools, play.cluster
    (endpoint,) = cluster.endpoints
    router: Any = object()
    assert pools.take(cluster, endpoint, router, encode(1, "10.1.1.2:5000", "127.0.0.1:80")) is None
    assert pools.take(cluster, endpoint, router) is None
    pools.leave("10.1.1.2:5000", "127.0.0.1:80", b"")
    assert pools.idle_count == 1


def test_a_connection_that_ended_by_itself_leaves_nothing_behind(book: Book) -> None:
    play = book(proxy_protocol=1)
    play(*WARM, ("up", EOF))
    assert play.pools.idle_count == 0
    play(*(("down", GET), ("up2", HI)))
    assert play.pools.idle_count == 1


def test_a_record_of_version_1_has_no_preface(book: Book) -> None:
    """It was written before there was one."""
    play = book()
    play(*WARM)
    handoff = Handoff(play)
    (state,) = handoff.idle_states
    state["version"] = state["upstream"]["version"] = 1
    del state["upstream"]["preface"]
    handoff.commit()
    assert play(*WARM) == [("up", GET_UP), ("down", HI_DOWN)]
