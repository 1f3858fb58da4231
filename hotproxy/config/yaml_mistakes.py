"""Broken YAML explained: what libyaml stumbled over, in the words of somebody who writes configs.

The three mistakes that YAML punishes most (`*.example.com`, `[::]:80` and `${VAR}` without quotes) and their like are
*repaired* after they are told: their text is blanked out by letters of the same length, so that no place moves, and
reading goes on. One run thus finds every mistake of a file, and not only the first.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

import yaml

from hotproxy.config.sources import Source
from hotproxy.config.yaml_nodes import Composer, Mapping, Mistake, Node, Scalar, Sequence

# A file with more unquoted texts than this is told about the first ones; each costs one more pass over the text.
MAX_REPAIRS: Final = 50
# How far a text that lacks quotes may reach from where libyaml stumbled: the searches are quadratic.
_NEAR: Final = 300

_FLOW_TOKEN: Final = r"[^\s,\[\]{}#\"']"
_ALIAS: Final = re.compile(r"\*[^\s,\[\]{}#\"']*")
_BRACKETED: Final = re.compile(r"(?<![\w\"'.\]])\[[0-9A-Fa-f.]*:[0-9A-Fa-f:.]*(?:%\w+)?\](?::\d*)?(?!\w)")
_VARIABLE: Final = re.compile(rf"{_FLOW_TOKEN}*\$\{{[^{{}}\"']*\}}(?:{_FLOW_TOKEN}|\$\{{[^{{}}\"']*\}})*")
_RESERVED: Final = re.compile(r"[@`%][^\s,\[\]{}]*")
_NESTED_COLON: Final = re.compile(
    r"^\s*(?:- +)*[^\s:#\"'{\[][^:#\"'{\[]*:\s+(?P<value>[^\s\"'{\[|>&*#][^#]*?)\s*(?:\s#.*)?$"
)


@dataclass(frozen=True, slots=True)
class _Finding:
    """A mistake at (line, start..end); `repairable` when blanking that text lets reading go on."""

    line: int
    start: int
    end: int
    message: str
    hint: str = ""
    repairable: bool = False


def read_nodes(source: Source) -> tuple[Node | None, list[Mistake]]:
    """The root of the source's only document (None when there is none), and everything wrong with its YAML."""
    text = source.text
    repaired: list[Mistake] = []
    while True:
        composer = Composer(source, text)
        try:
            root = composer.compose()
        except Mistake as mistake:
            return None, [*repaired, *composer.mistakes, mistake]
        except yaml.YAMLError as error:
            finding = _explain(source, text, error)
            repaired.append(Mistake(_node(source, finding), finding.message, finding.hint))
            if not finding.repairable or len(repaired) >= MAX_REPAIRS:
                return None, [*repaired, *composer.mistakes]
            begin = source.offset(finding.line, finding.start)
            width = finding.end - finding.start
            text = text[:begin] + "x" * width + text[begin + width :]
            continue
        if root is None and not repaired:
            end = _Finding(0, 0, 1, "the file is empty", "a config has at least 'listeners' and 'clusters'")
            return None, [Mistake(_node(source, end), end.message, end.hint)]
        if root is not None and repaired:
            _mark_broken(root, {(mistake.node.line, mistake.node.column) for mistake in repaired})
        return root, [*repaired, *composer.mistakes]


def _node(source: Source, finding: _Finding) -> Node:
    return Node(source, finding.line, finding.start, finding.line, finding.end)


def _mark_broken(root: Node, places: set[tuple[int, int]]) -> None:
    """Blanked-out scalars are not to be read: what they really say has been told."""
    pending, seen = [root], set()
    while pending:
        node = pending.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, Scalar):
            node.broken = node.broken or (node.line, node.column) in places
        elif isinstance(node, Sequence):
            pending.extend(node.items)
        elif isinstance(node, Mapping):
            for key, value in node.entries.values():
                pending += (key, value)


def _explain(source: Source, text: str, error: yaml.YAMLError) -> _Finding:
    problem = getattr(error, "problem", None) or str(error)
    context = getattr(error, "context", None) or ""
    mark = getattr(error, "problem_mark", None)
    begin = getattr(error, "context_mark", None) or mark
    if mark is None or begin is None:
        return _Finding(0, 0, 1, f"broken YAML: {problem}")
    place, opened = _inside(source, mark), _inside(source, begin)
    lines = Source("", "", text).lines
    return _quote(lines, context, place, opened) or _told(lines, problem, context, place, opened)


def _inside(source: Source, mark: yaml.Mark) -> tuple[int, int]:
    """The mark's line and column; the end of the text for what libyaml calls the line behind it."""
    last = len(source.lines) - 1
    return (last, len(source.lines[last])) if mark.line > last else (mark.line, mark.column)


def _quote(lines: list[str], context: str, place: tuple[int, int], opened: tuple[int, int]) -> _Finding | None:
    """Texts that only lack quotes."""
    line = lines[place[0]]
    if context == "while scanning an alias" and (match := _ALIAS.match(lines[opened[0]], opened[1])):
        return _unquoted(opened[0], match, "text that begins with '*' needs quotes: YAML takes it for an alias")
    for match in _VARIABLE.finditer(line, max(0, place[1] - _NEAR), place[1] + _NEAR):
        if match.start() <= place[1] <= match.end():
            return _unquoted(place[0], match, "'${...}' inside brackets or braces needs quotes")
    for number in {place[0], opened[0]}:
        column = (place if number == place[0] else opened)[1]
        for match in _BRACKETED.finditer(lines[number], max(0, column - _NEAR), column + _NEAR):
            if match.start() <= column <= match.end() + 1:
                return _unquoted(number, match, "an IPv6 address needs quotes: YAML takes '[' for the start of a list")
    if context == "while scanning for the next token" and (match := _RESERVED.match(line, place[1])):
        return _unquoted(place[0], match, f"text that begins with '{match[0][0]}' needs quotes")
    return None


def _unquoted(line: int, match: re.Match[str], message: str) -> _Finding:
    return _Finding(line, match.start(), match.end(), message, f'write "{match[0]}"', True)


def _told(lines: list[str], problem: str, context: str, place: tuple[int, int], opened: tuple[int, int]) -> _Finding:
    """Everything else that libyaml says, at the most telling place."""
    number, column = place
    line = lines[number]
    if "\t" in line[: column + 1] and not line[: column + 1].strip():
        return _Finding(number, 0, column + 1, "a tab indents this line", "YAML indents with spaces only")
    if problem.startswith("mapping values are not allowed"):
        match = _NESTED_COLON.match(line) if len(line) < _NEAR else None
        if match is not None and match.start("value") < column:
            shown = match["value"]
            message, hint = "text with ': ' inside needs quotes", f'write "{shown}"'
            return _Finding(number, match.start("value"), match.end("value"), message, hint, True)
        start = len(line) - len(line.lstrip(" -"))
        hint = "is the indentation right, and does the line before end as it should?"
        return _Finding(number, min(start, column), max(column, start + 1), "a field cannot begin here", hint)
    if context == "while scanning a quoted scalar" and "end of stream" in problem:
        return _Finding(opened[0], opened[1], opened[1] + 1, "this quote is never closed")
    if "or ']'" in problem or "or '}'" in problem:
        bracket, close = ("[", "]") if "']'" in problem else ("{", "}")
        if not any(rest.strip() for rest in [line[column:], *lines[number + 1 :]]):
            return _Finding(opened[0], opened[1], opened[1] + 1, f"this '{bracket}' is never closed")
        hint = f"the '{bracket}' is on line {opened[0] + 1}, column {opened[1] + 1}"
        return _Finding(number, column, column + 1, f"expected ',' or '{close}' here", hint)
    if context == "while parsing a flow node":
        if not any(rest.strip() for rest in [line[column:], *lines[number + 1 :]]):
            return _Finding(
                number, column, column + 1, "the file ends inside brackets or braces", "one is never closed"
            )
        return _Finding(number, column, column + 1, "expected a value here")
    if "unknown escape character" in problem:
        hint = "in double quotes a backslash is '\\\\'; in single quotes it is itself"
        return _Finding(number, max(0, column - 1), column + 1, "this escape does not exist", hint)
    if "could not find expected ':'" in problem:
        start, end = opened[1], len(lines[opened[0]].rstrip())
        return _Finding(opened[0], start, max(end, start + 1), "a field needs ': ' after its name")
    if context == "while parsing a block mapping" and "expected key" in problem:
        hint = f"the fields of this mapping begin on line {opened[0] + 1} in column {opened[1] + 1}"
        return _Finding(number, column, column + 1, "expected a field here, indented like its neighbours", hint)
    if context == "while parsing a block collection":
        hint = f"the items of this list begin on line {opened[0] + 1} in column {opened[1] + 1}"
        return _Finding(number, column, column + 1, "expected '- ' here, indented like its neighbours", hint)
    message = f"broken YAML: {problem}" + (f" {context}" if context else "")
    return _Finding(number, min(column, len(line)), min(column, len(line)) + 1, message)
