"""Collecting the problems of one run: each told once, at a place inside its file, secrets left out, in order."""

from __future__ import annotations

from typing import Final

from hotproxy.config.problems import ERROR, WARNING, ConfigProblem
from hotproxy.config.secrets import mask, masked_window, secrets_in
from hotproxy.config.sources import SourceError
from hotproxy.config.yaml_nodes import Mapping, Node, Scalar

_MAX_MESSAGE: Final = 300
# Nobody reads more, and the reason of a refused reload travels in a message; a file of another kind has millions.
MAX_PROBLEMS: Final = 1000


class Collector:
    """The problems of one run over all files, each told once."""

    def __init__(self) -> None:
        self._problems: dict[tuple[int, int, int, str], ConfigProblem] = {}
        self.failed = False  # True once there is an error
        self.dropped = 0  # problems beyond MAX_PROBLEMS

    def error(self, node: Node, message: str, hint: str = "", where: str = "") -> None:
        self._add(node, message, hint, where, ERROR)

    def warning(self, node: Node, message: str, hint: str = "", where: str = "") -> None:
        self._add(node, message, hint, where, WARNING)

    def unreadable(self, name: str, order: int, error: SourceError) -> None:
        """A file that cannot be used, at the place inside it where that shows, if there is one."""
        self.failed = True
        key = (order, error.line, error.column, str(error))
        if error.source is None:
            self._problems[key] = ConfigProblem(str(error), name, hint=error.hint)
            return
        line, column = error.line + 1, error.column + 1
        shown, first = masked_window(error.source.lines, error.line, error.column)
        self._problems[key] = ConfigProblem(
            str(error), name, line, column, column + 1, error.hint, snippet=shown, snippet_start=first
        )

    def _add(self, node: Node, message: str, hint: str, where: str, severity: str) -> None:
        self.failed = self.failed or severity == ERROR
        line, column, end = span(node)
        key = (node.source.order, line, column, message)
        if key in self._problems:  # an alias leads to the same place more than once
            return
        if len(self._problems) >= MAX_PROBLEMS:
            self.dropped += 1
            return
        lines = node.source.lines
        shown, first = masked_window(lines, line, column)
        secrets = secrets_in(lines, line, column, end)
        if isinstance(node, Scalar) and node.secret:  # what a variable holds
            secrets.append(node.text)
        for secret in filter(None, secrets):
            message, hint = message.replace(secret, "***"), hint.replace(secret, "***")
        self._problems[key] = ConfigProblem(
            message=_short(mask(message)),
            file=node.source.name,
            line=line + 1,
            column=column + 1,
            end_column=end + 1,
            hint=_short(mask(hint)),
            where=where,
            snippet=shown,
            snippet_start=first,
            severity=severity,
        )

    def sorted(self) -> tuple[ConfigProblem, ...]:
        """By file in the order of reading, then by place."""
        found = [self._problems[key] for key in sorted(self._problems)]
        if self.dropped:
            found.append(ConfigProblem(f"{self.dropped} more problems are not shown", found[-1].file))
        return tuple(found)


def _short(text: str) -> str:
    """Messages repeat values, and a value may be megabytes."""
    return text if len(text) <= _MAX_MESSAGE else text[:_MAX_MESSAGE] + "…"


def span(node: Node) -> tuple[int, int, int]:
    """(line, first column, column behind it), all inside the source; what goes on below ends with its first line."""
    if isinstance(node, Mapping) and node.end_line != node.line and node.first_key is not None:
        node = node.first_key
    lines = node.source.lines
    line = min(node.line, len(lines) - 1)
    text = lines[line]
    column = min(node.column, len(text)) if line == node.line else len(text)
    end = node.end_column if node.end_line == line else len(text.rstrip())
    return line, column, max(min(end, len(text)), column + 1)
