"""Headers, plain and compiled: the same whatever is done to them."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hotproxy.http import plain_headers
from hotproxy.http.codec import RequestHead
from tests.kit.kernels import compiled


@pytest.fixture(scope="module", params=["plain", "compiled"])
def Headers(request: pytest.FixtureRequest) -> Any:
    return (plain_headers if request.param == "plain" else compiled("hotproxy.http._headers")).Headers


@pytest.fixture
def headers(Headers: Any) -> Any:
    return Headers([(b"Host", b"a"), (b"X-One", b"1"), (b"x-two", b"2"), (b"X-ONE", b"3")])


def test_lookups_take_lower_case_and_find_every_spelling(headers: Any):
    assert headers.get(b"x-one") == b"1"
    assert headers.get_all(b"x-one") == [b"1", b"3"]
    assert headers.has(b"x-two")
    assert headers.get(b"x-three") is None
    assert headers.get_all(b"x-three") == []
    assert not headers.has(b"x-three")


def test_order_and_spelling_are_kept(headers: Any):
    assert list(headers) == [(b"Host", b"a"), (b"X-One", b"1"), (b"x-two", b"2"), (b"X-ONE", b"3")]
    assert len(headers) == 4


def test_add_appends(headers: Any):
    headers.add(b"X-Two", b"4")
    assert headers.get_all(b"x-two") == [b"2", b"4"]


def test_set_takes_the_place_of_the_first_and_removes_the_others(headers: Any):
    headers.set(b"x-One", b"new")
    assert list(headers) == [(b"Host", b"a"), (b"x-One", b"new"), (b"x-two", b"2")]
    assert headers.get_all(b"x-one") == [b"new"]


def test_set_appends_what_is_not_there(headers: Any):
    headers.set(b"Via", b"hotproxy")
    assert list(headers)[-1] == (b"Via", b"hotproxy")
    assert headers.get(b"via") == b"hotproxy"


def test_remove_drops_every_field_of_the_name(headers: Any):
    headers.remove(b"x-one")
    headers.remove(b"absent")
    assert list(headers) == [(b"Host", b"a"), (b"x-two", b"2")]
    assert headers.get(b"x-two") == b"2"


def test_a_copy_is_independent(headers: Any):
    before = list(headers)
    copied = headers.copy()
    copied.remove(b"host")
    copied.add(b"A", b"b")
    assert list(headers) == before
    assert copied != headers


def test_equal_is_the_same_fields_in_the_same_order_and_spelling(Headers: Any):
    fields = [(b"A", b"1"), (b"b", b"2")]
    assert Headers(fields) == Headers(fields)
    assert Headers(fields) != Headers(fields[::-1])
    assert Headers(fields) != Headers([(b"a", b"1"), (b"b", b"2")])
    assert Headers(fields) != Headers(fields[:1])
    assert Headers(fields) != fields
    with pytest.raises(TypeError):
        hash(Headers(fields))


@pytest.mark.parametrize("state", [None, 1, b"", {}, [1], [[b"a"]], [[b"a", "b"]], [[b"a", b"b", b"c"]], [b"ab"]])
def test_what_is_no_dump_is_refused(Headers: Any, state: object):
    with pytest.raises(ValueError, match="headers: "):
        Headers.load(state)


names = st.sampled_from([b"a", b"A", b"x-envoy-a", b"X-Envoy-B", b"x_envoy_c", b"X_Forwarded-For", b"via", b"", b"_"])
texts = st.binary(max_size=3)
lower = names.map(bytes.lower)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("get"), lower),
        st.tuples(st.just("get_all"), lower),
        st.tuples(st.just("has"), lower),
        st.tuples(st.just("add"), names, texts),
        st.tuples(st.just("set"), names, texts),
        st.tuples(st.just("remove"), lower),
        st.tuples(st.just("remove_prefixed"), st.sampled_from([b"x-envoy-", b"", b"a"])),
        st.tuples(st.just("remove_lookalikes"), st.just((b"x-envoy-", b"x-forwarded-"))),
        st.tuples(st.just("__len__")),
        st.tuples(st.just("dump")),
        st.tuples(st.just("__repr__")),
    ),
    max_size=12,
)


@settings(max_examples=1500, deadline=None)
@given(st.lists(st.tuples(names, texts), max_size=40), st.booleans(), STEPS)
def test_both_do_the_same(fields: list[tuple[bytes, bytes]], parsed: bool, steps: list[tuple[Any, ...]]):
    """Whether they were built from objects, or are places in a head."""
    if parsed:
        # What a field's name and value may be in a head.
        fields = [(name or b"n", value.hex().encode()) for name, value in fields]
        lines = b"".join(b"%b: %b\r\n" % field for field in fields)
        head = (
            compiled("hotproxy.http._kernel")
            .CompiledHeadParser()
            .parse_request(b"GET / HTTP/1.0\r\n" + lines + b"\r\n")
        )
        assert isinstance(head, RequestHead)
        one = head.headers
    else:
        one = compiled("hotproxy.http._headers").Headers(fields)
    two = plain_headers.Headers(fields)
    for word, *arguments in steps:
        assert getattr(one, word)(*arguments) == getattr(two, word)(*arguments)
        assert list(one) == list(two)
    assert list(one.copy()) == list(two)


@pytest.mark.parametrize("wrong", [None, "a", 1, bytearray(b"a")])
def test_compiled_ones_take_nothing_but_bytes(wrong: object):
    Headers: Any = compiled("hotproxy.http._headers").Headers
    headers = Headers([(b"A", b"b")])
    for call in (
        lambda: Headers([(wrong, b"")]),
        lambda: Headers([(b"", wrong)]),
        lambda: headers.add(wrong, b""),
        lambda: headers.add(b"", wrong),
        lambda: headers.set(wrong, b""),
        lambda: headers.set(b"a", wrong),
        lambda: headers.get(wrong),
        lambda: headers.get_all(wrong),
        lambda: headers.has(wrong),
        lambda: headers.remove(wrong),
        lambda: headers.remove_prefixed(wrong),
        lambda: headers.remove_lookalikes(wrong),
    ):
        with pytest.raises(TypeError):
            call()
    assert list(headers) == [(b"A", b"b")]


def test_compiled_ones_are_not_pickled():
    """They are places in memory; what moves is dumped."""
    with pytest.raises(TypeError, match="dump"):
        pickle.dumps(compiled("hotproxy.http._headers").Headers())
