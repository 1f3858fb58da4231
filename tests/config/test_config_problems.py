"""How problems look, on a terminal and as JSON."""

from __future__ import annotations

import json
import unicodedata

import pytest

from hotproxy.config import ConfigErrors, ConfigProblem, load_text, render_json, render_text

PROBLEM = ConfigProblem(
    "unknown field 'prefx' in a route match",
    "web.yaml",
    18,
    17,
    22,
    "did you mean 'prefix'?",
    "listeners[0].virtual_hosts[0].routes[2].match",
    '      - match: {prefx: "/"}',
)


def test_the_target() -> None:
    assert render_text([PROBLEM]) == (
        "error: unknown field 'prefx' in a route match                         web.yaml:18:17\n"
        '   18 |       - match: {prefx: "/"}\n'
        "      |                 ^^^^^ did you mean 'prefix'?\n"
        "   at listeners[0].virtual_hosts[0].routes[2].match"
    )


def test_json_says_the_same() -> None:
    assert json.loads(render_json([PROBLEM])) == {
        "valid": False,
        "problems": [
            {
                "severity": "error",
                "message": "unknown field 'prefx' in a route match",
                "file": "web.yaml",
                "line": 18,
                "column": 17,
                "end_column": 22,
                "path": "listeners[0].virtual_hosts[0].routes[2].match",
                "hint": "did you mean 'prefix'?",
            }
        ],
    }
    assert json.loads(render_json([])) == {"valid": True, "problems": []}


def test_a_file_as_a_whole_has_no_line() -> None:
    problem = ConfigProblem("cannot read a.yaml: no such file or directory", "a.yaml", hint="create it")
    assert render_text([problem]).splitlines() == [
        "error: cannot read a.yaml: no such file or directory                  a.yaml",
        "   create it",
    ]
    assert json.loads(render_json([problem]))["problems"][0]["line"] is None


def _cells(text: str) -> int:
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


@pytest.mark.parametrize("before", ["", "日本", "\t", "e\u0301", "\u200b", "ｗｉｄｅ", "x" * 400, "日" * 400])
def test_the_caret_stands_under_the_token(before: str) -> None:
    line = f"{before}[prefx]{before}"
    start = len(before) + 2
    problem = ConfigProblem("m", "f", 1, start, start + 5, snippet=line)
    _, shown, caret = render_text([problem]).splitlines()
    cells = _cells(caret[: caret.index("^")])
    prefix = shown[: shown.index("prefx")].replace("\u200b", "").replace("\ufffd", "")
    assert _cells(prefix) + shown[: shown.index("prefx")].count("\ufffd") == cells
    assert caret.strip(" |") == "^^^^^"
    assert _cells(shown) < 320


def test_nothing_reaches_the_terminal_but_text() -> None:
    problem = ConfigProblem("bad \x1b[31m \n text", "f", 1, 1, 2, snippet="\x1b[31mx\x07")
    assert all(c == "\n" or c.isprintable() for c in render_text([problem]))


def test_errors_carry_their_problems_and_read_well_in_a_log() -> None:
    with pytest.raises(ConfigErrors) as caught:
        load_text("workers: x\nlisteners: []\n", "a.yaml")
    assert [(p.line, p.column, p.where) for p in caught.value.problems] == [(1, 10, "workers")]
    assert "a.yaml:1:10" in str(caught.value)
    assert caught.value.exit_code == 1


def test_a_file_of_another_kind_does_not_flood() -> None:
    with pytest.raises(ConfigErrors) as caught:
        load_text("clusters:\n" + "- name: a b\n" * 3000, "a.yaml")
    assert len(caught.value.problems) == 1001
    assert "5000 more problems" in caught.value.problems[-1].message
