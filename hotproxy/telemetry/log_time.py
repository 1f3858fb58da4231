"""`%START_TIME%`: when an exchange began, in UTC, as ISO 8601 with milliseconds or in any strftime(3) form.

Envoy's own specifiers: `%s` seconds since 1970, `%f` nine digits of the second's fraction, `%1f` … `%9f` so many.
The clock gives microseconds; further digits are 0.
"""

from __future__ import annotations

import re
import time
from json.encoder import encode_basestring_ascii as quote
from typing import Final

from hotproxy.telemetry.stream_info import StreamInfo

DEFAULT: Final = "%Y-%m-%dT%H:%M:%S.%3fZ"

_SPECIFIER: Final = re.compile(r"%(?:([1-9]?)f|([EO]?.)|$)", re.DOTALL)
# strftime(3), without %n, which would end the line.
_STRFTIME: Final = frozenset("aAbBcCdDeFgGhHIjmMprRStTuUVwWxXyYzZ%")
_MILLISECONDS: Final = [3]


class StartTime:
    """Everything but the fraction is made once per second and kept, the usual form once per millisecond.

    ValueError for a form strftime does not know.
    """

    __slots__ = ("_form", "_fractions", "_millisecond", "_pieces", "_second", "_text")

    def __init__(self, form: str = DEFAULT) -> None:
        self._form: list[str] = [""]  # strftime pieces; between them the fractions
        self._fractions: list[int] = []  # digits of each
        end = 0
        for match in _SPECIFIER.finditer(form):
            self._form[-1] += form[end : match.start()]
            end = match.end()
            if match[1] is not None:
                self._form.append("")
                self._fractions.append(int(match[1] or "9"))
            elif match[2] == "s" or (match[2] is not None and match[2][-1] in _STRFTIME):
                self._form[-1] += match[0]
            else:
                raise ValueError(f"{match[0]!r} is not a time specifier (those of strftime, %s, %f, %1f to %9f)")
        self._form[-1] += form[end:]
        self._second = -1
        self._pieces: list[str] = []
        self._millisecond = -1  # of `_text`
        self._text = ""

    def text(self, info: StreamInfo) -> str:
        """Never absent: every exchange has begun."""
        # Rounded to the µs first: .310 seconds are .30999994 in a double.
        now_us = int(info.start_wall_s * 1e6 + 0.5)
        if now_us // 1000 == self._millisecond:
            return self._text
        second = now_us // 1_000_000
        if second != self._second:
            self._turn(second)
        pieces = self._pieces
        microsecond = now_us % 1_000_000
        if self._fractions == _MILLISECONDS:  # the default and most others
            self._text = f"{pieces[0]}{microsecond // 1000:03d}{pieces[1]}"
            self._millisecond = now_us // 1000
            return self._text
        line = pieces[0]
        for digits, piece in zip(self._fractions, pieces[1:], strict=True):
            line += f"{microsecond:06d}000"[:digits] + piece
        return line

    def json(self, info: StreamInfo) -> str:
        return quote(self.text(info))

    def raw(self, info: StreamInfo) -> str:
        return self.text(info)

    def _turn(self, second: int) -> None:
        moment = time.gmtime(second)
        self._pieces = [time.strftime(_with_epoch(form, second), moment) for form in self._form]
        self._second = second


def _with_epoch(form: str, second: int) -> str:
    """`%s` by hand: strftime's own takes the time as local. `%%s` is a percent and an s."""
    return re.sub(r"%[%s]", lambda match: str(second) if match[0] == "%s" else match[0], form)
