"""What bytes an HTTP/1.1 head may consist of, and the name of what is wrong with one that does not.

The hot path is one pass of one fixed pattern per head; only when it does not match is the head looked at again, slowly,
to find the word for the violation. The patterns are possessive (`++`), so hostile bytes cannot make them backtrack.
RFC 9110 section 5 (fields), RFC 9112 sections 2 to 5 (messages). Stricter than the RFC where it lets a recipient
choose: bare LF, bare CR, obs-fold and whitespace before a colon are always refused, never repaired.
"""

from __future__ import annotations

import re
from typing import Final

from hotproxy.http.codec import Violation

# 64 KiB: nginx allows 4 x 8 KiB, Envoy 60 KiB, Apache 100 fields of 8 KiB. Larger heads are attacks or cookies gone
# wrong.
MAX_HEAD_BYTES: Final = 64 * 1024
MAX_FIELDS: Final = 100  # Envoy and Apache: 100
# RFC 9112 section 3 asks for at least 8000 octets; nginx answers 414 above 8 KiB, HAProxy above its 16 KiB buffer.
MAX_REQUEST_LINE_BYTES: Final = 16 * 1024
MAX_TRAILER_BYTES: Final = 8 * 1024
# RFC 9112 section 2.2: "at least one" empty line before a request is to be ignored; two, for clients that send both the
# old stray CRLF after a POST and one of their own.
MAX_BLANK_LINES: Final = 2
MAX_LENGTH: Final = 2**63 - 1  # what a signed 64-bit length in any origin can hold

# What is wrong with the head that every HTTP/2 connection begins with (RFC 9113 section 3.4).
HTTP2_PREFACE: Final = "http1.http2_preface"

TOKEN_CHARS: Final = b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

_TOKEN: Final = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]++"
_FIELD_LINE: Final = rb"(?:" + _TOKEN + rb":[\t -~\x80-\xff]*+\r\n)"
# The target: visible ASCII without '#'. A fragment is never sent (RFC 9112 section 3.2), and origins disagree about it.
REQUEST_HEAD: Final = re.compile(
    rb"(" + _TOKEN + rb') ([!"$-~]++) HTTP/1\.([01])\r\n(' + _FIELD_LINE + rb"*+)\r\n",
)
# The space before an empty phrase is left out by many origins; nothing becomes ambiguous by that.
RESPONSE_HEAD: Final = re.compile(
    rb"HTTP/1\.([01]) ([1-5][0-9][0-9])(?: ([\t -~\x80-\xff]*+))?\r\n(" + _FIELD_LINE + rb"*+)\r\n"
)
FIELD_BLOCK: Final = re.compile(_FIELD_LINE + rb"*+")
# Splits a block that FIELD_BLOCK accepts. Trailing whitespace is left to `rstrip`: a pattern for it would be quadratic.
_FIELDS: Final = re.compile(rb"([^:\r\n]++):[ \t]*+([^\r\n]*+)\r\n")
TOKEN: Final = re.compile(_TOKEN)

_BARE_LF: Final = re.compile(rb"(?<!\r)\n")
_BARE_CR: Final = re.compile(rb"\r(?!\n)")
_CONTROL: Final = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_VERSION: Final = re.compile(rb"HTTP/([0-9])\.([0-9])")
_TARGET: Final = re.compile(rb"[!-~]+")


def split_fields(block: bytes) -> list[tuple[bytes, bytes]]:
    """The fields of a block that is known to be valid; values without surrounding whitespace."""
    return [(match[1], match[2].rstrip(b" \t")) for match in _FIELDS.finditer(block)]


def incomplete_head_violation(buffer: bytes, scanned: int, max_line_bytes: int) -> Violation | None:
    """What is wrong already with a head whose end has not been seen; `buffer[:scanned]` was looked at before.

    Of several causes it is the one whose byte comes first, so that the answer does not depend on how the bytes were
    split. `max_line_bytes` bounds the first line, its CRLF included; the end of the head must lie within 64 KiB.
    """
    bare = _BARE_LF.search(buffer, scanned, MAX_HEAD_BYTES + 1)  # it looks one byte back itself
    bare_at = bare.start() if bare is not None else MAX_HEAD_BYTES + 1
    if len(buffer) > max_line_bytes and bare_at > max_line_bytes and buffer.find(b"\r\n", 0, max_line_bytes) < 0:
        return Violation("http1.request_line_too_long", 414)
    if bare is not None:
        return Violation("http1.bare_lf")
    if len(buffer) > MAX_HEAD_BYTES:
        return Violation("http1.head_too_large", 431)
    return None


def request_head_violation(head: bytes) -> Violation:
    """Why a complete head does not match `REQUEST_HEAD`."""
    found = _forbidden_bytes(head)
    if found is not None:
        return found
    line, _, block = head.partition(b"\r\n")
    return _request_line_violation(line) or field_block_violation(block[:-2]) or Violation("http1.malformed_head")


def response_head_violation(head: bytes) -> Violation:
    """Why a complete head does not match `RESPONSE_HEAD`."""
    found = _forbidden_bytes(head)
    if found is not None:
        return found
    line, _, block = head.partition(b"\r\n")
    return _status_line_violation(line) or field_block_violation(block[:-2]) or Violation("http1.malformed_head")


def field_block_violation(block: bytes) -> Violation | None:
    """What is wrong with the field lines of a head or trailer section (without its closing empty line)."""
    found = _forbidden_bytes(block)
    if found is not None:
        return found
    for index, line in enumerate(block.split(b"\r\n")[:-1]):
        if line[:1] in (b" ", b"\t"):
            return Violation("http1.obs_fold" if index else "http1.space_before_first_field")
        name, colon, _ = line.partition(b":")
        if not colon:
            return Violation("http1.missing_colon")
        if name != name.rstrip(b" \t"):
            return Violation("http1.space_before_colon")
        if TOKEN.fullmatch(name) is None:
            return Violation("http1.invalid_field_name")
    return None


def _forbidden_bytes(head: bytes) -> Violation | None:
    """Bytes that may stand nowhere in a head. Bare LF first: an incomplete head is refused for it as well."""
    if _BARE_LF.search(head) is not None:
        return Violation("http1.bare_lf")
    if b"\0" in head:
        return Violation("http1.nul_byte")
    if _BARE_CR.search(head) is not None:
        return Violation("http1.bare_cr")
    if _CONTROL.search(head) is not None:
        return Violation("http1.control_character")
    return None


def _request_line_violation(line: bytes) -> Violation | None:
    if line == b"PRI * HTTP/2.0":
        return Violation(HTTP2_PREFACE)
    method, _, rest = line.partition(b" ")
    target, _, version = rest.rpartition(b" ")
    if TOKEN.fullmatch(method) is None:
        return Violation("http1.invalid_method" if method and rest else "http1.invalid_request_line")
    if _VERSION.fullmatch(version) is None or not target:  # HTTP/0.9 ("GET /") among others
        return Violation("http1.invalid_request_line")
    if b" " in target or b"\t" in target:
        return Violation("http1.space_in_target")
    if _TARGET.fullmatch(target) is None:
        return Violation("http1.invalid_target")
    if version not in (b"HTTP/1.0", b"HTTP/1.1"):
        return Violation("http1.unsupported_version", 505)
    if b"#" in target:
        return Violation("http1.fragment_in_target")
    return None


def _status_line_violation(line: bytes) -> Violation | None:
    version, _, rest = line.partition(b" ")
    if _VERSION.fullmatch(version) is None:
        return Violation("http1.invalid_status_line")
    if version not in (b"HTTP/1.0", b"HTTP/1.1"):
        return Violation("http1.unsupported_version")
    status, _, _ = rest.partition(b" ")
    if len(status) != 3 or not status.isdigit():
        return Violation("http1.invalid_status_line")
    if not b"100" <= status <= b"599":  # RFC 9110 section 15: other values are invalid
        return Violation("http1.invalid_status")
    return None
