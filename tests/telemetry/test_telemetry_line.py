"""Lines of an access log, joined by both functions that can."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hotproxy.telemetry import plain_line
from tests.kit.kernels import compiled


@pytest.fixture(scope="module", params=["plain", "compiled"])
def tame_line(request: pytest.FixtureRequest) -> Any:
    return (plain_line if request.param == "plain" else compiled("hotproxy.telemetry._line")).tame_line


def test_values_stand_between_the_pieces_and_absent_ones_are_a_dash(tame_line: Any):
    assert tame_line((b"[", b'] "', b'"\n'), ["now", ""]) == b'[now] "-"\n'
    assert tame_line((b"\xc3\xa9\n",), []) == b"\xc3\xa9\n"
    assert tame_line((b"", b"", b""), ["a b", "~"]) == b"a b~"


@pytest.mark.parametrize("code", [*range(256), 0x131, 0x2028, 0x1F600])
def test_what_is_not_tame(tame_line: Any, code: int):
    """Printable ASCII but for the quote and the backslash."""
    line = tame_line((b"<", b"|", b">"), ["", f"a{chr(code)}b"])
    if 32 <= code < 127 and chr(code) not in '"\\':
        assert line == b"<-|a%cb>" % code
    else:
        assert line is None


pieces = st.binary(max_size=8)
values = st.text(st.characters(max_codepoint=0x200), max_size=8)


@settings(max_examples=1000, deadline=None)
@given(st.lists(st.tuples(pieces, values), max_size=20), pieces)
def test_both_say_the_same(parts: list[tuple[bytes, str]], last: bytes):
    arguments = (*(piece for piece, _ in parts), last), [value for _, value in parts]
    assert compiled("hotproxy.telemetry._line").tame_line(*arguments) == plain_line.tame_line(*arguments)


def test_a_piece_too_few_or_too_many_is_a_bug_of_ours(tame_line: Any):
    for parts in ((b"",), (b"", b"", b"")):
        with pytest.raises(ValueError, match=r"pieces|zip"):
            tame_line(parts, ["a"])


@pytest.mark.parametrize("arguments", [(None, []), ((b"",), None), ((None,), []), (("a",), []), ((b"", b""), [b"x"])])
def test_anything_else_is_a_type_error(arguments: tuple[Any, Any]):
    with pytest.raises(TypeError):
        compiled("hotproxy.telemetry._line").tame_line(*arguments)
