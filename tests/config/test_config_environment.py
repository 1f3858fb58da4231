"""Variables inside scalars, and the files that set them."""

from __future__ import annotations

import pytest

from hotproxy.config.environment import MAX_SUBSTITUTED, read_assignments, substitute
from hotproxy.config.sources import Source, SourceError

VARIABLES = {"A": "1", "EMPTY": "", "TRICK": "${A}: [x]"}


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("${A}", "1"), ("x${A}y${A}", "x1y1"), ("${B:-2}", "2"), ("${A:-2}", "1"), ("${EMPTY:-2}", "2"),
        ("${EMPTY}", ""),
        ("${B:-}", ""), ("$$", "$"), ("$${A}", "${A}"), ("$$$$", "$$"), ("$", "$"),
        ("a$b", "a$b"), ("$A", "$A"), ("5$", "5$"),
        ("${B:-a b/c:d}", "a b/c:d"), ("${TRICK}", "${A}: [x]"),
    ],
)  # fmt: skip
def test_substituted(text: str, result: str) -> None:
    done = substitute(text, VARIABLES)
    assert (done.text, done.bad) == (result, ())


@pytest.mark.parametrize("text", ["${B}", "${", "${}", "${1}", "${A", "${A-x}", "${A:?x}", "${A:-${B}}", "${ A }"])
def test_bad(text: str) -> None:
    assert len(substitute(text, VARIABLES).bad) >= 1


def test_variables_cannot_blow_up() -> None:
    done = substitute("${A}" * 100, {"A": "x" * 100_000})
    assert len(done.text) <= MAX_SUBSTITUTED
    assert done.bad


def test_telling_names_make_a_secret() -> None:
    assert substitute("${DB_PASSWORD}", {"DB_PASSWORD": "x"}).secret
    assert not substitute("${A}", VARIABLES).secret


def _read(text: str) -> dict[str, str]:
    return read_assignments(Source("x.env", "/", text))


def test_environment_files() -> None:
    text = "# c\n; c\n\nA=1\nexport B='two words'\nC=\"x\"\nD=\nA=2\n"
    assert _read(text) == {"A": "2", "B": "two words", "C": "x", "D": ""}


@pytest.mark.parametrize(
    ("text", "line", "column"), [("A=1\n  B\n", 1, 2), ("A b=1", 0, 0), ("=1", 0, 0), ("1A=2", 0, 0)]
)
def test_environment_files_with_a_mistake(text: str, line: int, column: int) -> None:
    with pytest.raises(SourceError) as caught:
        _read(text)
    assert (caught.value.line, caught.value.column) == (line, column)
