from __future__ import annotations

import pytest

from hotproxy.http.headers import Headers


def headers() -> Headers:
    return Headers([(b"Host", b"a"), (b"X-One", b"1"), (b"x-two", b"2"), (b"X-ONE", b"3")])


def test_lookups_take_lower_case_and_find_every_spelling():
    assert headers().get(b"x-one") == b"1"
    assert headers().get_all(b"x-one") == [b"1", b"3"]
    assert headers().has(b"x-two")
    assert headers().get(b"x-three") is None
    assert headers().get_all(b"x-three") == []
    assert not headers().has(b"x-three")


def test_order_and_spelling_are_kept():
    assert list(headers()) == [(b"Host", b"a"), (b"X-One", b"1"), (b"x-two", b"2"), (b"X-ONE", b"3")]
    assert len(headers()) == 4


def test_add_appends():
    changed = headers()
    changed.add(b"X-Two", b"4")
    assert changed.get_all(b"x-two") == [b"2", b"4"]


def test_set_takes_the_place_of_the_first_and_removes_the_others():
    changed = headers()
    changed.set(b"x-One", b"new")
    assert list(changed) == [(b"Host", b"a"), (b"x-One", b"new"), (b"x-two", b"2")]
    assert changed.get_all(b"x-one") == [b"new"]


def test_set_appends_what_is_not_there():
    changed = headers()
    changed.set(b"Via", b"hotproxy")
    assert list(changed)[-1] == (b"Via", b"hotproxy")
    assert changed.get(b"via") == b"hotproxy"


def test_remove_drops_every_field_of_the_name():
    changed = headers()
    changed.remove(b"x-one")
    changed.remove(b"absent")
    assert list(changed) == [(b"Host", b"a"), (b"x-two", b"2")]
    assert changed.get(b"x-two") == b"2"


def test_a_copy_is_independent():
    original = headers()
    copied = original.copy()
    copied.remove(b"host")
    copied.add(b"A", b"b")
    assert original == headers()
    assert copied != original


def test_remove_lookalikes_takes_only_what_an_underscore_disguises():
    fields = Headers([(b"X_One", b"1"), (b"x-one", b"2"), (b"x_two", b"3"), (b"X-One_More", b"4")])
    fields.remove_lookalikes((b"x-one",))
    assert list(fields) == [(b"x-one", b"2"), (b"x_two", b"3")]


def test_equality_is_by_fields_in_order():
    assert headers() == headers()
    assert Headers([(b"a", b"1"), (b"b", b"2")]) != Headers([(b"b", b"2"), (b"a", b"1")])
    assert Headers() != []


def test_dump_and_load():
    assert Headers.load(headers().dump()) == headers()
    assert Headers.load(headers().dump()).get_all(b"x-one") == [b"1", b"3"]


@pytest.mark.parametrize("state", [None, {}, [b"ab"], [[b"a"]], [[b"a", "b"]], [[b"a", b"b", b"c"]], 1])
def test_load_refuses_other_shapes(state: object):
    with pytest.raises(ValueError):
        Headers.load(state)
