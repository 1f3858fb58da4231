"""Heads on their way out: one block of bytes, and the last fence against splitting a message. Compiled: `_kernel`."""

from __future__ import annotations

from hotproxy.http.headers import Headers


def encode_head(start: bytes, headers: Headers, lines: list[bytes]) -> bytes:
    """Start line, the head's fields, then `lines` of ours, and the empty line. ValueError as `check_lines`."""
    parts = [start]
    parts.extend([b": ".join(field) for field in headers])
    parts.extend(lines)
    parts.append(b"\r\n")
    block = b"\r\n".join(parts)
    check_lines(block, len(parts))
    return block


def field_lines(headers: Headers) -> bytes:
    """Field lines as they go out, each with its CRLF. ValueError if one would be more than one line, or none."""
    lines = [b": ".join(field) for field in headers]
    lines.append(b"")
    block = b"\r\n".join(lines)
    check_lines(block, len(lines) - 1)
    return block


def check_lines(block: bytes, lines: int) -> None:
    """The last fence against splitting a message with a value of our own: CR and LF only where lines end, no NUL."""
    if block.count(b"\n") != lines or block.count(b"\r") != lines or b"\0" in block:
        raise ValueError("CR, LF or NUL inside a head")
