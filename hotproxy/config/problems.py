"""What is wrong with a config, and where; how people and machines are told.

error: unknown field 'prefx' in a route match                         web.yaml:18:17
   18 |       - match: {prefx: "/"}
      |                 ^^^^^ did you mean 'prefix'?
   at listeners[0].virtual_hosts[0].routes[2].match
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from hotproxy.errors import EXIT_REFUSED, HotproxyError

ERROR: Final = "error"
WARNING: Final = "warning"

# The place stands in one column, so that the eye finds it; 70 leaves room for it on a terminal of 100.
_PLACE_COLUMN: Final = 70
_TAB: Final = "    "
# Longer lines are shown as a window around the caret.
_MAX_SHOWN: Final = 150


@dataclass(frozen=True, slots=True)
class ConfigProblem:
    """One mistake. `line`, `column` count characters from 1 (0, 0: the file as a whole); `end_column` is behind it.

    `where` is the path inside the config ("" = the top), `snippet` the line of text with secrets masked.
    """

    message: str
    file: str
    line: int = 0
    column: int = 0
    end_column: int = 0
    hint: str = ""
    where: str = ""
    snippet: str = ""
    snippet_start: int = 0  # how many characters of the line stand before the snippet (long lines are cut)
    severity: str = ERROR


class ConfigErrors(HotproxyError):
    """A config that cannot be used; `str()` is the text for a terminal or a log."""

    def __init__(self, problems: Sequence[ConfigProblem]) -> None:
        super().__init__(render_text(problems), EXIT_REFUSED)
        self.problems = list(problems)


def render_text(problems: Iterable[ConfigProblem]) -> str:
    """All problems for a person, without a closing line break."""
    return "\n".join(_render_one(problem) for problem in problems)


def render_json(problems: Iterable[ConfigProblem]) -> str:
    """All problems for a machine: one JSON object; line and column are null where a file as a whole is meant."""
    listed = list(problems)
    data = {
        "valid": all(problem.severity != ERROR for problem in listed),
        "problems": [
            {
                "severity": problem.severity,
                "message": problem.message,
                "file": problem.file,
                "line": problem.line or None,
                "column": problem.column or None,
                "end_column": problem.end_column or None,
                "path": problem.where,
                "hint": problem.hint or None,
            }
            for problem in listed
        ],
    }
    return json.dumps(data, indent=2, ensure_ascii=False)


def _render_one(problem: ConfigProblem) -> str:
    head = _printable(f"{problem.severity}: {problem.message}")
    place = problem.file if not problem.line else f"{problem.file}:{problem.line}:{problem.column}"
    lines = [head + " " * max(2, _PLACE_COLUMN - _width(head)) + place]
    if problem.line:
        shown, padding, carets = _window(problem)
        number = f"{problem.line:>5}"
        hint = f" {_printable(problem.hint)}" if problem.hint else ""
        lines.append(f"{number} | {shown}".rstrip())
        lines.append(f"{' ' * len(number)} | {' ' * padding}{'^' * carets}{hint}")
    elif problem.hint:
        lines.append(f"   {_printable(problem.hint)}")
    if problem.where:
        lines.append(f"   at {_printable(problem.where)}")
    return "\n".join(lines)


def _window(problem: ConfigProblem) -> tuple[str, int, int]:
    """The text to show, how many cells precede the caret, and how many carets there are (at least one)."""
    start = problem.column - 1 - problem.snippet_start
    end = max(problem.end_column - 1 - problem.snippet_start, start + 1)
    text, left = problem.snippet, "…" if problem.snippet_start else ""
    if len(text) > _MAX_SHOWN:
        first = max(0, min(start - _MAX_SHOWN // 3, len(text) - _MAX_SHOWN))
        right = "…" if first + _MAX_SHOWN < len(text) else ""
        left = "…" if first else left
        text = text[first : first + _MAX_SHOWN] + right
        start, end = start - first, min(end - first, _MAX_SHOWN)
    before, token = _printable(text[:start]), _printable(text[start:end])
    shown = left + before + token + _printable(text[end:])
    return shown, _width(left + before) + max(0, start - len(text)), max(1, _width(token))


def _printable(text: str) -> str:
    """Tabs as spaces, and nothing that moves the cursor or colours the terminal."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(_TAB if c == "\t" else c if c.isprintable() or unicodedata.combining(c) else "\ufffd" for c in text)


def _width(text: str) -> int:
    """Cells on a terminal: two for wide characters (Unicode annex 11), none for combining ones."""
    if text.isascii():
        return len(text)
    return sum(
        0
        if unicodedata.combining(c) or unicodedata.category(c) in ("Mn", "Me", "Cf")
        else 1 + (unicodedata.east_asian_width(c) in "WF")
        for c in text
    )
