"""The fields of a message: an ordered list that keeps each name's spelling and is looked up by lower-case names."""

from __future__ import annotations

from collections.abc import Iterable, Iterator


class Headers:
    """Field lines in the order in which they came. Names and values are bytes without surrounding whitespace.

    Every lookup takes the name in lower case (`get(b"host")`): the callers' names are literals, so nothing is folded
    twice on the hot path. Values are not checked here; the codec refuses to send what could split a message.
    """

    # Two lists in step: the fields as they go out, and their names in lower case, so that `list.index` does the search.
    __slots__ = ("_fields", "_lower")

    def __init__(self, fields: Iterable[tuple[bytes, bytes]] = ()) -> None:
        self._fields = list(fields)
        self._lower = [name.lower() for name, _ in self._fields]

    @classmethod
    def from_parsed(cls, fields: list[tuple[bytes, bytes]], lower: list[bytes]) -> Headers:
        """For the head parser: takes both lists over, in step, without copying."""
        headers = cls()
        headers._fields = fields
        headers._lower = lower
        return headers

    def get(self, name: bytes) -> bytes | None:
        """The value of the first field of this lower-case name."""
        if name in self._lower:
            return self._fields[self._lower.index(name)][1]
        return None

    def get_all(self, name: bytes) -> list[bytes]:
        """The values of all fields of this lower-case name, in order."""
        if name not in self._lower:
            return []
        return [field[1] for field, lower in zip(self._fields, self._lower, strict=True) if lower == name]

    def has(self, name: bytes) -> bool:
        return name in self._lower

    def add(self, name: bytes, value: bytes) -> None:
        """Append a field, whatever is there already. `name` is sent as it is spelled here."""
        self._fields.append((name, value))
        self._lower.append(name.lower())

    def set(self, name: bytes, value: bytes) -> None:
        """One field of this name, with this value: in the place of the first one, or at the end."""
        lower = name.lower()
        if lower not in self._lower:
            self._fields.append((name, value))
            self._lower.append(lower)
            return
        index = self._lower.index(lower)
        self._fields[index] = (name, value)
        if self._lower.count(lower) > 1:
            for other in range(len(self._lower) - 1, index, -1):
                if self._lower[other] == lower:
                    del self._lower[other], self._fields[other]

    def remove(self, name: bytes) -> None:
        """Drop every field of this lower-case name; nothing happens when there is none."""
        while name in self._lower:
            index = self._lower.index(name)
            del self._lower[index], self._fields[index]

    def remove_prefixed(self, prefix: bytes) -> None:
        """Drop every field whose lower-case name begins like this."""
        # One search over the joined names: there is nothing to find in nearly every request. A space, which no name
        # contains, marks where a name begins.
        if b" " + prefix not in b" " + b" ".join(self._lower):
            return
        for index in range(len(self._lower) - 1, -1, -1):
            if self._lower[index].startswith(prefix):
                del self._lower[index], self._fields[index]

    def remove_lookalikes(self, beginnings: tuple[bytes, ...]) -> None:
        """Drop every field with an underscore in its name that begins like one of these once "_" is read as "-"."""
        if b"_" not in b"".join(self._lower):
            return
        for index in range(len(self._lower) - 1, -1, -1):
            name = self._lower[index]
            if b"_" in name and name.replace(b"_", b"-").startswith(beginnings):
                del self._lower[index], self._fields[index]

    def __iter__(self) -> Iterator[tuple[bytes, bytes]]:
        return iter(self._fields)

    def __len__(self) -> int:
        return len(self._fields)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Headers) and self._fields == other._fields

    __hash__ = None  # type: ignore[assignment]  # it changes

    def __repr__(self) -> str:
        return f"Headers({self._fields!r})"

    def copy(self) -> Headers:
        return Headers.from_parsed(self._fields.copy(), self._lower.copy())

    def dump(self) -> list[list[bytes]]:
        """For msgpack: `[[name, value], …]`."""
        return [[name, value] for name, value in self._fields]

    @classmethod
    def load(cls, state: object) -> Headers:
        """The inverse of `dump`; ValueError for anything else."""
        return cls(saved_fields(state))


def saved_fields(state: object) -> list[tuple[bytes, bytes]]:
    """The fields of what `Headers.dump` gave; ValueError for anything else."""
    if not isinstance(state, list | tuple):
        raise ValueError(f"headers: a list of fields is expected, not {state!r}")
    fields: list[tuple[bytes, bytes]] = []
    for field in state:
        if not (isinstance(field, list | tuple) and len(field) == 2 and all(isinstance(part, bytes) for part in field)):
            raise ValueError(f"headers: a pair of bytes is expected, not {field!r}")
        fields.append((field[0], field[1]))
    return fields
