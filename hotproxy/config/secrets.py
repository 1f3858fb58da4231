"""Keeping passwords out of error messages: the shown line keeps its width, so that carets stay under their tokens.

Secret is what follows a key that sounds like it (`password:`, `x-api-key:`, `authorization:` ...), what an
authorization scheme carries (`Bearer ...`), and the user part of a URL.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from typing import Final

_WORD: Final = r"(?:passw(?:or)?d|passphrase|secret|token|api[-_]?key|private[-_]?key|authorization|cookie|credential)"
_NAME: Final = rf"[\w.-]*{_WORD}[\w.-]*"
_SECRET_WORD: Final = re.compile(rf"(?i){_WORD}|bearer|basic|digest|://[^/]{1, 200}@")
# Whole configs in one line (JSON is YAML) must not cost a pass over everything per problem.
_LONG_LINE: Final = 1000
# A value ends at a flow-style comma or bracket, unless it is quoted.
_AFTER_KEY: Final = re.compile(
    rf"(?i)(?P<before>(?<![\w.-]){_NAME}[\"']?\s*[:=]\s*)"
    r"(?P<secret>\"(?:[^\"\\]|\\.)*\"?|'(?:[^']|'')*'?|\[[^\]]*|[^\s\"'{\[\$][^,}\]]*)"
)
_KEY_ONLY: Final = re.compile(rf"(?i)^\s*(?:-\s+)?[\"']?{_NAME}[\"']?\s*:")
_SCHEME: Final = re.compile(r"(?i)(?P<before>\b(?:bearer|basic|digest)\s+)(?P<secret>[^\s\"',}\]]+)")
_USER: Final = re.compile(r"(?P<before>://)(?P<secret>[^/\s@\"']+)(?=@)")
_SECRET_NAME: Final = re.compile(rf"(?i){_NAME}")


def is_secret_name(name: str) -> bool:
    """True for the name of a field, header or variable whose value nobody should see."""
    return _SECRET_NAME.fullmatch(name) is not None


def _stars(match: re.Match[str]) -> str:
    secret = match["secret"]
    if secret[0] in "\"'":
        closed = len(secret) > 1 and secret[-1] == secret[0]
        return match["before"] + secret[0] + "*" * (len(secret) - 1 - closed) + (secret[0] if closed else "")
    if secret[0] == "[":
        return match["before"] + "[" + "*" * (len(secret) - 1)
    return match["before"] + "*" * len(secret)


def mask(text: str) -> str:
    """`text` with every recognised secret replaced by as many asterisks."""
    for pattern in (_AFTER_KEY, _SCHEME, _USER):
        text = pattern.sub(_stars, text)
    return text


def masked_window(lines: Sequence[str], index: int, column: int) -> tuple[str, int]:
    """Line `index` masked, as far as it can be shown around `column`, and the column at which that begins.

    All of it is masked when it continues the value of a secret key (`password: |`), or when it is cut out of a line
    too long to be understood.
    """
    line = lines[index]
    if len(line) > _LONG_LINE:
        first = max(0, column - _LONG_LINE // 4)
        window = line[first : first + _LONG_LINE]
        return ("*" * len(window) if _mentions_secret(line) else window), first
    indent = _indent(line)
    # A value is never further away than its key; 50 lines cover a PEM key, and bound the work per problem.
    for above in range(index - 1, max(-1, index - 50), -1):
        candidate = lines[above][:_LONG_LINE]
        if candidate.strip() and _indent(candidate) < indent:
            if _KEY_ONLY.match(candidate):
                return line[:indent] + "*" * (len(line) - indent), 0
            break
    return mask(line), 0


def secrets_in(lines: Sequence[str], index: int, column: int, end: int) -> list[str]:
    """What a message about columns `column` to `end` of a line must not repeat; empty when nothing there is secret."""
    line = lines[index]
    token = line[column:end]
    if len(line) > _LONG_LINE:
        first = max(0, column - _LONG_LINE // 4)
        shown = mask(line[first : end + 1])[column - first : end - first]
    else:
        shown = masked_window(lines, index, column)[0][column:end]
    if shown == token:
        return []
    words = [word.strip("\"'[]{},*&@`%") for word in token.split()]
    return [token.strip("\"' "), *sorted((word for word in words if word), key=len, reverse=True)]


@functools.lru_cache(maxsize=1)  # the problems of one long line come one after the other
def _mentions_secret(line: str) -> bool:
    return _SECRET_WORD.search(line) is not None


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip(" \t"))
