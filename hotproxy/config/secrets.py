"""Keeping passwords out of error messages: the shown line keeps its width, so that carets stay under their tokens.

Secret is what follows a key that sounds like it (`password:`, `x-api-key:`, `authorization:` ...), what an
authorization scheme carries (`Bearer ...`), and the user part of a URL.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Collection, Sequence
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


MASK: Final = "***"
# Shorter ones stand in half of all words.
_MIN_SECRET: Final = 4


class Shown:
    """How the texts of a config are printed: as they are."""

    def text(self, text: str) -> str:
        return text

    def format(self, text: str) -> str:
        """Of an access log, where an operator that names a secret header is none itself."""
        return text

    def header(self, name: str, value: str) -> str:
        return self.text(value)


class Hidden(Shown):
    """... without secrets: what sounds like one, and `secrets`, the values of variables that sound like one."""

    def __init__(self, secrets: Collection[str]) -> None:
        self._whole = frozenset(secrets)
        parts = sorted((each for each in secrets if len(each) >= _MIN_SECRET), key=len, reverse=True)
        # Regardless of case: a name in a config is compared in lower case, and kept like that.
        self._parts = re.compile("|".join(map(re.escape, parts)), re.IGNORECASE) if parts else None

    def text(self, text: str) -> str:
        return mask(self.format(text))

    def format(self, text: str) -> str:
        if text in self._whole:
            return MASK
        return text if self._parts is None else self._parts.sub(MASK, text)

    def header(self, name: str, value: str) -> str:
        return MASK if is_secret_name(name) else self.text(value)


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
