"""Who the client is by the word of proxies in front of us."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hotproxy.config.model import Redirect, Route
from hotproxy.http.headers import Headers
from hotproxy.proxy.trusted_hops import trusted_chain
from hotproxy.telemetry.log_format import LogFormat
from tests.kit.phrases import GET, GET_UP
from tests.kit.playbook import Playbook

Book = Callable[..., Playbook]

US = b"10.0.0.9"
LINE = LogFormat.compile("%DOWNSTREAM_REMOTE_ADDRESS% %DOWNSTREAM_DIRECT_REMOTE_ADDRESS% %REQ(X-FORWARDED-FOR)%")


def chain(hops: int, *values: bytes, proto: bytes = b"") -> tuple[str, bytes, bytes] | None:
    fields = [(b"X-Forwarded-For", value) for value in values]
    return trusted_chain(Headers([*fields, *([(b"x-forwarded-proto", proto)] if proto else [])]), hops, US)


@pytest.mark.parametrize(
    ("hops", "values", "client", "sent"),
    [
        (1, [b"192.0.2.1"], "192.0.2.1:0", b"192.0.2.1, 10.0.0.9"),
        (1, [b"6.6.6.6, 192.0.2.1"], "192.0.2.1:0", b"192.0.2.1, 10.0.0.9"),
        (2, [b"6.6.6.6,192.0.2.1 ,10.0.0.8"], "192.0.2.1:0", b"192.0.2.1, 10.0.0.8, 10.0.0.9"),
        (2, [b"forged", b"6.6.6.6, 192.0.2.1", b"10.0.0.8"], "192.0.2.1:0", b"192.0.2.1, 10.0.0.8, 10.0.0.9"),
        (1, [b"2001:DB8::0:1"], "[2001:db8::1]:0", b"2001:DB8::0:1, 10.0.0.9"),
    ],
)
def test_addresses_are_counted_from_the_right(hops: int, values: list[bytes], client: str, sent: bytes) -> None:
    assert chain(hops, *values) == (client, sent, b"")


@pytest.mark.parametrize(
    ("hops", "values"),
    [
        (1, []), (1, [b""]), (2, [b"192.0.2.1"]), (1, [b"unknown"]), (1, [b"192.0.2.1:80"]), (1, [b"[::1]"]),
        (2, [b"x, 192.0.2.1"]), (1, [b"192.0.2.1,"]), (1, [b"caf\xe9"]), (1, [b"::1%lo"]), (1, [b"1.2.3.4\x00"]),
    ],
)  # fmt: skip
def test_what_is_no_such_row_of_addresses_is_not_believed(hops: int, values: list[bytes]) -> None:
    assert chain(hops, *values) is None


def test_the_scheme_is_theirs_if_it_is_one() -> None:
    for said, believed in ((b"https", b"https"), (b"http", b"http"), (b"gopher", b""), (b"", b"")):
        found = chain(1, b"192.0.2.1", proto=said)
        assert found is not None and found[2] == believed


@given(st.lists(st.ip_addresses(v=4).map(lambda ip: str(ip).encode()), min_size=1, max_size=5), st.binary(), st.data())
def test_a_client_cannot_move_itself(true: list[bytes], forged: bytes, data: st.DataObject) -> None:
    """Whatever it sends itself, what the trusted hops have appended is all that counts."""
    forged = forged.replace(b"\r", b"").replace(b"\n", b"")
    hops = data.draw(st.integers(1, len(true)))
    assert chain(hops, forged + b", " + b", ".join(true)) == chain(hops, b", ".join(true))


def asked(*fields: bytes) -> bytes:
    return GET[:-2] + b"".join(field + b"\r\n" for field in fields) + b"\r\n"


def test_endpoints_and_logs_are_told(book: Book) -> None:
    play = book(trusted_hops=1)
    request = asked(b"X-Forwarded-For: 6.6.6.6, 192.0.2.1", b"X-Forwarded-Proto: https")
    (_, said), *_ = play(("down", request), ("handoff",), ("up", b"HTTP/1.1 204 No Content\r\n\r\n"))
    assert isinstance(said, bytes)
    assert (
        b"x-forwarded-for: 192.0.2.1, 10.1.1.1\r\n" in said.lower() and b"x-forwarded-proto: https\r\n" in said.lower()
    )
    assert LINE.render(play.log.infos[0]) == b"192.0.2.1:0 10.1.1.1:5000 192.0.2.1, 10.1.1.1\n"
    # The next request on this connection is another client's.
    (_, said), *_ = play(("down", asked(b"X-Forwarded-For: 192.0.2.7")), ("up", b"HTTP/1.1 204 No Content\r\n\r\n"))
    assert isinstance(said, bytes) and b"192.0.2.7, 10.1.1.1" in said and b"192.0.2.1" not in said


def test_without_their_word_the_client_is_who_has_connected(book: Book) -> None:
    play = book(trusted_hops=2)
    assert play(("down", asked(b"X-Forwarded-For: 192.0.2.1")))[0][1].lower() == GET_UP.lower()  # type: ignore[union-attr]


def test_without_trusted_hops_nothing_of_it_is_believed(book: Book) -> None:
    request = asked(b"X-Forwarded-For: 192.0.2.1", b"X-Forwarded-Proto: https")
    (_, said), *_ = book()(("down", request))
    assert isinstance(said, bytes) and b"192.0.2.1" not in said and b"https" not in said


def test_a_redirect_stays_on_the_clients_scheme(book: Book) -> None:
    play = book(routes=[Route(prefix="/", redirect=Redirect(path="/new"))], trusted_hops=1)
    request = asked(b"X-Forwarded-For: 192.0.2.1", b"X-Forwarded-Proto: https")
    (_, said), *_ = play(("down", request))
    assert isinstance(said, bytes) and b"location: https://" in said
