"""RFC 8470, Using Early Data in HTTP: what it demands of an intermediary that neither accepts nor sends any.

What it says of early data of our own client, or to our own origin, is void here: there is no 0-RTT on either
side, so no request of ours is one that might be replayed before a handshake has ended.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.conformance.sides import downstream, received, request, response, status, upstream
from tests.kit.phrases import GET, HI, WARM
from tests.kit.playbook import RESET, Playbook

Book = Callable[..., Playbook]

TOO_EARLY = response("Retry-After: 0", "Content-Length: 2", line="HTTP/1.1 425 Too Early", body="no")


@pytest.mark.parametrize("field", ["Early-Data: 1", "early-data: 1", "Early-Data: 0", "Early-Data: 1, 1"])
def test_section_5_1_the_field_of_a_client_is_not_removed(book: Book, field: str) -> None:
    """Whoever ends TLS in front of us has seen early data; an origin reads any value of the field as 1."""
    assert upstream(book(), request(field))[2:] == [field]


def test_section_5_1_several_of_them_all_go_on(book: Book) -> None:
    assert upstream(book(), request("Early-Data: 1", "Early-Data: 1"))[2:] == ["Early-Data: 1", "Early-Data: 1"]


def test_section_5_1_it_may_not_be_removed_by_nomination(book: Book) -> None:
    assert status(book(), request("Connection: Early-Data", "Early-Data: 1")) == 400
    assert status(book(), request("Connection: keep-alive, early-data", "Early-Data: 1")) == 400


def test_section_5_1_it_is_never_added(book: Book) -> None:
    """No request comes in early data: hotproxy never reads one before its connection is complete."""
    play = book()
    play(*WARM)
    assert b"early-data" not in received(play, "up").lower()


def test_section_5_1_it_is_never_a_trailer(book: Book) -> None:
    play = book()
    chunks = "0\r\nEarly-Data: 1\r\nX-Sum: 2\r\n\r\n"
    play(("down", request("Transfer-Encoding: chunked", line="POST /a HTTP/1.1", body=chunks)))
    assert received(play, "up").endswith(b"\r\n\r\n0\r\nX-Sum: 2\r\n\r\n")


def test_section_5_1_a_request_that_is_sent_again_still_has_it(book: Book) -> None:
    """A kept connection had died under it: once more on a new one, as RFC 9110 allows for GET."""
    play = book()
    play(*WARM)
    play(("down", request("Early-Data: 1")), ("up", RESET), ("up2", HI))
    assert b"\r\nEarly-Data: 1\r\n" in received(play, "up2")


@pytest.mark.parametrize("asked", [request("Early-Data: 1"), GET], ids=["early data", "none"])
def test_section_5_2_a_425_is_forwarded_as_it_came(book: Book, asked: bytes) -> None:
    assert downstream(book(), TOO_EARLY, asked) == ["HTTP/1.1 425 Too Early", "Retry-After: 0", "Content-Length: 2"]


@pytest.mark.parametrize("asked", [request("Early-Data: 1"), GET], ids=["early data", "none"])
def test_section_5_2_a_425_is_never_answered_by_trying_again(book: Book, asked: bytes) -> None:
    """Not on another endpoint, and not where a kept connection would allow it: the client knows when it is safe."""
    play = book(endpoints=["10.0.0.1:1", "10.0.0.2:2"])
    play(*WARM)
    play(("down", asked), ("origin", TOO_EARLY), ("time", 60.0))
    assert received(play, "down").count(b"HTTP/1.1 425 ") == 1
    assert play.count("cluster.api.upstream_rq_total") == 2
    assert [play.count(f"cluster.api.upstream_rq_{name}") for name in ("425", "retry")] == [1, 0]
