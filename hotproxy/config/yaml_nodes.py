"""YAML text to nodes that know their place: the core schema of YAML 1.2 over libyaml's events.

Built from events and not with PyYAML's composer, because depth, duplicate keys, aliases and merge keys must each end in
a message with a place, and because an alias must not be able to blow up (aliased nodes are shared, and counted).
Scalars stay text: the field that reads one decides its type, so that `on`, `12:30` and `0660` are what they look like.
"""

from __future__ import annotations

import os
from typing import Final

from yaml import events
from yaml._yaml import CParser

from hotproxy.config.sources import Source

# Deeper than any config: the deepest path of this version has 9 levels.
MAX_DEPTH: Final = 64
# Nodes after all aliases are followed. 20,000 routes have about 300,000; a "billion laughs" has more at once.
MAX_NODES: Final = 1_000_000

_NULLS: Final = frozenset({"", "~", "null", "Null", "NULL"})
_TEXT_TAGS: Final = frozenset({"!", "tag:yaml.org,2002:str"})
_MAP_TAG: Final = "tag:yaml.org,2002:map"
_SEQUENCE_TAG: Final = "tag:yaml.org,2002:seq"


class Node:
    """A place in a source; lines and columns count from 0, ends are exclusive.

    `broken`: its mistake has been told already, so that nobody need complain again.
    """

    __slots__ = ("broken", "column", "end_column", "end_line", "line", "size", "source")

    def __init__(self, source: Source, line: int, column: int, end_line: int, end_column: int) -> None:
        self.source = source
        self.line = line
        self.column = column
        self.end_line = end_line
        self.end_column = end_column
        self.size = 1
        self.broken = False


def absolute(node: Node, path: str) -> str:
    """`path`, relative to the file that it stands in."""
    return os.path.join(node.source.directory, path)


class Scalar(Node):
    """`text` as written, or as it is after substitution; `written` stays as it was. `plain`: without quotes."""

    __slots__ = ("plain", "secret", "substituted", "text", "written")

    def __init__(
        self, source: Source, line: int, column: int, end_line: int, end_column: int, text: str = "", plain: bool = True
    ) -> None:
        super().__init__(source, line, column, end_line, end_column)
        self.text = text
        self.written = text
        self.plain = plain
        self.substituted = False
        self.secret = False

    @property
    def is_null(self) -> bool:
        return self.plain and self.written in _NULLS


class Sequence(Node):
    """A list."""

    __slots__ = ("items",)

    def __init__(self, source: Source, line: int, column: int, end_line: int, end_column: int) -> None:
        super().__init__(source, line, column, end_line, end_column)
        self.items: list[Node] = []


class Mapping(Node):
    """Fields by name; each with the scalar that is its key."""

    __slots__ = ("entries", "first_key")

    def __init__(self, source: Source, line: int, column: int, end_line: int, end_column: int) -> None:
        super().__init__(source, line, column, end_line, end_column)
        self.entries: dict[str, tuple[Scalar, Node]] = {}
        self.first_key: Node | None = None


class Mistake(Exception):
    """One thing that is wrong with the YAML, at the place of `node`."""

    def __init__(self, node: Node, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.node = node
        self.hint = hint


class _Frame:
    """A container that is still open. `key` is the key whose value comes next."""

    __slots__ = ("anchor", "key", "merges", "node")

    def __init__(self, node: Sequence | Mapping, anchor: str | None) -> None:
        self.node = node
        self.anchor = anchor
        self.key: Scalar | None = None
        self.merges: list[tuple[Scalar, Node]] = []


class Composer:
    """One document. Mistakes that leave the rest readable are collected; the others are raised."""

    def __init__(self, source: Source, text: str) -> None:
        """`text` is the source's text, or the same with broken places blanked out (no place moves)."""
        self.mistakes: list[Mistake] = []
        self._source = source
        self._parser = CParser(text)
        self._anchors: dict[str, Node] = {}
        self._stack: list[_Frame] = []
        self._root: Node | None = None
        self._nodes = 0

    def compose(self) -> Node | None:
        """The root (None: the document is empty). Raises Mistake, or yaml.YAMLError where libyaml gives up."""
        documents = 0
        while (event := self._parser.get_event()) is not None:
            if isinstance(event, events.ScalarEvent):
                self._add(self._scalar(event), event.anchor)
            elif isinstance(event, events.MappingStartEvent):
                self._open(Mapping(self._source, *_place(event)), event, _MAP_TAG)
            elif isinstance(event, events.SequenceStartEvent):
                self._open(Sequence(self._source, *_place(event)), event, _SEQUENCE_TAG)
            elif isinstance(event, (events.MappingEndEvent, events.SequenceEndEvent)):
                self._close(event)
            elif isinstance(event, events.AliasEvent):
                self._alias(event)
            elif isinstance(event, events.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    raise Mistake(
                        Node(self._source, *_place(event)), "a second document begins here", "one file is one document"
                    )
        return self._root

    def _scalar(self, event: events.ScalarEvent) -> Scalar:
        node = Scalar(self._source, *_place(event), event.value, not event.style and event.tag is None)
        if event.tag is not None and event.tag not in _TEXT_TAGS:
            self._tag(node, event.tag)
        return node

    def _open(self, node: Mapping | Sequence, event: events.CollectionStartEvent, own_tag: str) -> None:
        if len(self._stack) >= MAX_DEPTH:
            raise Mistake(node, f"nested more than {MAX_DEPTH} levels deep")
        if event.tag is not None and event.tag not in (own_tag, "!"):
            self._tag(node, event.tag)
        self._stack.append(_Frame(node, event.anchor))
        if event.anchor is not None:
            self._anchors.pop(event.anchor, None)  # an alias inside would contain itself

    def _tag(self, node: Node, tag: str) -> None:
        short = tag.replace("tag:yaml.org,2002:", "!!")
        node.broken = True
        self.mistakes.append(Mistake(node, f"the YAML tag '{short}' is not supported", "leave it out"))

    def _close(self, event: events.CollectionEndEvent) -> None:
        frame = self._stack.pop()
        node = frame.node
        _, _, node.end_line, node.end_column = _place(event)
        for key, merged in frame.merges:
            self._merge(node, key, merged)
        self._add(node, frame.anchor)

    def _alias(self, event: events.AliasEvent) -> None:
        assert event.anchor is not None
        node = self._anchors.get(event.anchor)
        if node is not None:
            self._add(node, None)
            return
        name = event.anchor
        broken = Scalar(self._source, *_place(event))
        broken.broken = True
        if any(frame.anchor == name for frame in self._stack):
            mistake = Mistake(broken, f"the alias '*{name}' stands inside what it repeats")
        else:
            mistake = Mistake(broken, f"no anchor '&{name}' stands before this alias", f'a text is written "*{name}"')
        self.mistakes.append(mistake)
        self._add(broken, None)

    def _add(self, node: Node, anchor: str | None) -> None:
        if anchor is not None:
            self._anchors[anchor] = node
        if not self._stack:
            self._root = node
            return
        frame = self._stack[-1]
        parent = frame.node
        parent.size += node.size
        # Every node adds itself once, and an alias adds all that it stands for: the expanded size, known at once.
        if parent.size > MAX_NODES:
            raise Mistake(node, f"more than {MAX_NODES} values, aliases included")
        if isinstance(parent, Sequence):
            parent.items.append(node)
        elif frame.key is None:
            frame.key = self._key(parent, node)
        else:
            key, frame.key = frame.key, None
            self._entry(frame, parent, key, node)

    def _key(self, parent: Mapping, node: Node) -> Scalar:
        parent.first_key = parent.first_key or node
        if isinstance(node, Scalar):
            if not node.is_null:
                return node
            if not node.broken:
                self.mistakes.append(Mistake(node, "a field has no name"))
        else:
            self.mistakes.append(
                Mistake(node, "the name of a field must be text", "quote it when it begins with a bracket")
            )
        key = Scalar(self._source, node.line, node.column, node.end_line, node.end_column)
        key.broken = True
        return key

    def _entry(self, frame: _Frame, parent: Mapping, key: Scalar, value: Node) -> None:
        if key.broken:
            return
        if key.plain and key.text == "<<":
            if frame.merges:
                self._twice(key, frame.merges[0][0])
            else:
                frame.merges.append((key, value))
            return
        first = parent.entries.get(key.text)
        if first is not None:
            self._twice(key, first[0])
            return
        parent.entries[key.text] = (key, value)

    def _twice(self, key: Scalar, first: Scalar) -> None:
        hint = f"first on line {first.line + 1}, column {first.column + 1}"
        self.mistakes.append(Mistake(key, f"the field '{key.text}' is given twice", hint))

    def _merge(self, node: Node, key: Scalar, merged: Node) -> None:
        """`<<: *defaults` or `<<: [*a, *b]`: own fields win, then the earlier of several (the YAML merge key draft)."""
        assert isinstance(node, Mapping)
        for part in merged.items if isinstance(merged, Sequence) else [merged]:
            if isinstance(part, Mapping):
                for name, entry in part.entries.items():
                    node.entries.setdefault(name, entry)
            elif not part.broken:
                self.mistakes.append(Mistake(part, "'<<' takes a mapping or a list of mappings", "write '<<: *anchor'"))


def _place(event: events.Event) -> tuple[int, int, int, int]:
    start, end = event.start_mark, event.end_mark
    assert start is not None and end is not None
    return start.line, start.column, end.line, end.column
