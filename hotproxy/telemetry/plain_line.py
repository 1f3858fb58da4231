"""One line of an access log out of its values. Compiled: `_line`; chosen in `line`."""

from __future__ import annotations


def tame_line(pieces: tuple[bytes, ...], values: list[str]) -> bytes | None:
    """The values with the pieces around them (one more than values), "" as "-".

    None when a value has to be escaped or decoded first: anything but printable ASCII, quotes and backslashes.
    """
    together = "".join(values)
    if not (together.isascii() and together.isprintable()) or '"' in together or "\\" in together:
        return None
    parts = [pieces[0]]
    for value, piece in zip(values, pieces[1:], strict=True):
        parts.append(value.encode() or b"-")
        parts.append(piece)
    return b"".join(parts)
