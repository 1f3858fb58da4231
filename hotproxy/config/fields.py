"""Reading the fields of one section: presence, types and values, each mistake collected with its place.

Reading never stops at a mistake. A field that cannot be read yields its default, so that the rest of the section is
still looked at; whoever holds problems at the end has no config.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from collections.abc import Mapping as MappingType
from typing import Final, TypeVar

from hotproxy.config.address import AddressError
from hotproxy.config.collector import Collector, span
from hotproxy.config.environment import substitute
from hotproxy.config.names import Names
from hotproxy.config.scalars import ScalarError, boolean, duration_s, whole_number
from hotproxy.config.shapes import Shape
from hotproxy.config.suggestions import closest, did_you_mean
from hotproxy.config.yaml_nodes import Mapping, Node, Scalar, Sequence

T = TypeVar("T")

NOT_YET: Final = "not supported by this version"

# Raises ValueError ("what is wrong; a hint") for a format that no access log can have. It is given by whoever loads a
# config, because the operators belong to a room that this one may not import.
LogFormatCheck = Callable[[str], object]


class Reader:
    """What all sections of a run share. `offline`: paths and users of this machine are not looked at."""

    def __init__(
        self,
        problems: Collector,
        variables: MappingType[str, str],
        names: Names,
        offline: bool,
        log_format: LogFormatCheck | None = None,
    ) -> None:
        self.problems = problems
        self.variables = variables
        self.names = names
        self.offline = offline
        self._log_format = log_format
        self.secrets: set[str] = set()  # values of variables that went into a text and must not be shown

    def section(self, node: Node, shape: Shape, where: str) -> Fields | None:
        """The fields of `node`; None (and a problem) when it is no mapping."""
        if node.broken:
            return None
        if not isinstance(node, Mapping):
            hint = f"write for example '{shape.example}'" if shape.example else ""
            if isinstance(node, Scalar) and node.plain:
                name, colon, value = node.text.partition(":")
                if colon and value and name in shape.fields:
                    hint = f"a colon needs a space after it: '{name}: {value.split()[0]}'"
            self.problems.error(node, f"{shape.noun} must be a mapping, not {describe(node)}", hint, where)
            return None
        return Fields(self, node, shape, where)

    def value(self, node: Node, read: Callable[[str], T], where: str, place: Node | None = None) -> T | None:
        """`read` applied to the text of `node` after substitution; None (and a problem) when that fails.

        `place` is where to point when the value is not there at all.
        """
        if node.broken:
            return None
        if not isinstance(node, Scalar):
            self.problems.error(node, f"expected a single value, not {describe(node)}", "", where)
            return None
        if node.is_null:
            at = place if place is not None and not node.written else node
            self.problems.error(at, "this field has no value", "give it one, or leave the field out", where)
            node.broken = True
            return None
        if not self._substitute(node, where):
            return None
        try:
            return read(node.text)
        except (ScalarError, AddressError) as error:
            if node.secret:  # a message may repeat parts of it
                self.problems.error(node, f"the value of '{node.written}' is not valid here", "", where)
            else:
                self.problems.error(node, str(error), error.hint, where)
            return None

    def log_format(self, text: str) -> str:
        """An access log's format as it stands. Raises ScalarError."""
        if not text:
            raise ScalarError("the text is empty")
        if self._log_format is not None:
            try:
                self._log_format(text)
            except ValueError as error:
                message, _, hint = str(error).partition("; ")
                raise ScalarError(message, hint) from None
        return text

    def _substitute(self, node: Scalar, where: str) -> bool:
        if node.substituted or "$" not in node.text:
            return True
        result = substitute(node.text, self.variables)
        for bad in result.bad:
            self.problems.error(_inside(node, bad.text), bad.message, bad.hint, where)
        node.substituted = True
        self.secrets.update(filter(None, result.secrets))
        node.text, node.secret, node.broken = result.text, result.secret, bool(result.bad)
        return not result.bad


def _inside(node: Scalar, text: str) -> Node:
    """The place of `text` inside the scalar, or the scalar's when it is spelled differently there."""
    line, column, end = span(node)
    found = node.source.lines[line].find(text, column, end)
    if found < 0:
        return node
    return Node(node.source, line, found, line, found + len(text))


def describe(node: Node) -> str:
    """What stands there, for messages: 'a list'."""
    if isinstance(node, Sequence):
        return "a list"
    if isinstance(node, Mapping):
        return "a mapping"
    assert isinstance(node, Scalar)
    return "nothing" if node.is_null else "a single value"


class Fields:
    """One section. Methods return the field's value, or the default when it is absent or wrong."""

    __slots__ = ("_entries", "_misspelt", "node", "reader", "shape", "where")

    def __init__(self, reader: Reader, node: Mapping, shape: Shape, where: str) -> None:
        self.reader = reader
        self.node = node
        self.shape = shape
        self.where = where
        self._entries = node.entries
        self._misspelt: set[str] = set()  # what unknown fields were probably meant to be
        for name, (key, _) in node.entries.items():
            if name in shape.fields or key.broken:
                continue
            if not where and name.startswith("x-"):  # top level: a place for anchors
                continue
            meant = None if name in shape.later else closest(name, shape.fields)
            if meant is not None:
                self._misspelt.add(meant)
            hint = NOT_YET if name in shape.later else f"did you mean '{meant}'?" if meant is not None else ""
            self.error(key, f"unknown field '{name[:60]}' in {shape.noun}", hint)

    def error(self, node: Node, message: str, hint: str = "", where: str | None = None) -> None:
        self.reader.problems.error(node, message, hint, self.where if where is None else where)

    def has(self, name: str) -> bool:
        return name in self._entries

    def get(self, name: str) -> Node | None:
        """The value's node as it stands."""
        entry = self._entries.get(name)
        return None if entry is None else entry[1]

    def key(self, name: str) -> Node:
        """Where the field's name stands; the field must be there."""
        return self._entries[name][0]

    def at(self, name: str) -> str:
        """The path of the field."""
        return f"{self.where}.{name}" if self.where else name

    def need(self, name: str) -> bool:
        """True when the field is there; a problem otherwise."""
        if name in self._entries:
            return True
        if name in self._misspelt:  # told at the misspelt name
            return False
        self.error(self.node, f"{self.shape.noun} needs '{name}'")
        return False

    def exactly_one(self, *names: str, later: tuple[str, ...] = ()) -> str | None:
        """The only one of `names` that is there; a problem at the second one, or when there is none.

        `later` are alternatives that this version lacks: where one stands, only that is told.
        """
        present = [name for name in self._entries if name in names]
        if len(present) == 1:
            return present[0]
        listed = ", ".join(f"'{name}'" for name in names[:-1]) + f" or '{names[-1]}'"
        if not present:
            if self._misspelt.isdisjoint(names) and not any(name in self._entries for name in later):
                self.error(self.node, f"{self.shape.noun} needs one of {listed}")
            return None
        for name in present[1:]:
            hint = f"'{present[0]}' is on line {self.key(present[0]).line + 1}"
            self.error(self.key(name), f"{self.shape.noun} takes only one of {listed}", hint)
        return None

    def only_with(self, needed: str, *names: str) -> None:
        """A problem at each of `names`, which mean something only where the field `needed` is."""
        for name in names:
            if name in self._entries:
                self.error(self.key(name), f"'{name}' has no effect in {self.shape.noun} without '{needed}'")

    def value(self, name: str, read: Callable[[str], T]) -> T | None:
        """The field through `read`; None when it is absent or wrong."""
        entry = self._entries.get(name)
        return None if entry is None else self.reader.value(entry[1], read, self.at(name), entry[0])

    def duration(self, name: str, default: float) -> float:
        value = self.value(name, duration_s)
        return default if value is None else value

    def integer(self, name: str, default: int, low: int, high: int) -> int:
        value = self.value(name, lambda text: whole_number(text, low, high))
        return default if value is None else value

    def boolean(self, name: str, default: bool) -> bool:
        value = self.value(name, boolean)
        return default if value is None else value

    def choice(self, name: str, options: tuple[str, ...], default: str, later: tuple[str, ...] = ()) -> str:
        """One of `options`; those in `later` exist, but not in this version."""

        def read(text: str) -> str:
            if text in options:
                return text
            if text in later:
                raise ScalarError(f"'{text}' is {NOT_YET}", f"this version has {_listed(options)}")
            # '300' is no misspelling of '308'
            hint = ("" if text.isdigit() else did_you_mean(text, options)) or _listed(options)
            raise ScalarError(f"'{text[:60]}' is not a {name}", hint)

        value = self.value(name, read)
        return default if value is None else value

    def section(self, name: str, shape: Shape) -> Fields | None:
        """The field as a section of its own; None when it is absent or no mapping."""
        node = self.get(name)
        if node is None:
            return None
        if isinstance(node, Scalar) and node.is_null and not node.written:
            self.error(self.key(name), "this field has no value", "give it one, or leave the field out", self.at(name))
            return None
        return self.reader.section(node, shape, self.at(name))

    def items(self, name: str, example: str = "", empty: bool = False) -> Iterator[tuple[Node, str]]:
        """The items of the field's list with their paths. A problem when it is no list or, unless `empty`, has none."""
        node = self.get(name)
        if node is None or node.broken:
            return
        if not isinstance(node, Sequence):
            hint = f"write '{name}: {example}'" if example else ""
            at = self.key(name) if isinstance(node, Scalar) and node.is_null and not node.written else node
            self.error(at, f"'{name}' must be a list, not {describe(node)}", hint, self.at(name))
            return
        if not node.items and not empty:
            self.error(node, f"'{name}' is an empty list", "", self.at(name))
        where = self.at(name)
        for index, item in enumerate(node.items):
            yield item, f"{where}[{index}]"


def _listed(options: tuple[str, ...]) -> str:
    if len(options) == 1:
        return f"'{options[0]}'"
    return ", ".join(f"'{option}'" for option in options[:-1]) + f" or '{options[-1]}'"
