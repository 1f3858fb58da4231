"""How values are printed: nothing invisible, no quote, no lone byte passes; an absent value says so."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from hotproxy.telemetry import log_values
from hotproxy.telemetry.log_operators import Number, Text, Wire, escape, from_wire
from hotproxy.telemetry.stream_info import StreamInfo


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_escaped_text_is_printable_and_can_be_read_back(value: str) -> None:
    escaped = escape(value)
    assert escaped.isprintable()
    assert '"' not in escaped
    assert escaped == "-" or escaped.encode().decode("unicode_escape").encode("latin-1").decode() == value


@given(st.binary())
def test_the_bytes_of_the_wire_are_not_lost(sent: bytes) -> None:
    assert from_wire(sent.decode("latin-1")).encode("utf-8", "surrogateescape") == sent


def test_absent_values() -> None:
    info = StreamInfo()
    for operator in (Text(log_values.route), Wire(log_values.method), Number(log_values.duration_ms)):
        assert (operator.text(info), operator.json(info)) == ("-", "null")


def test_a_unix_path_with_any_bytes() -> None:
    info = StreamInfo()
    info.upstream_remote = b"/run/\xff\n".decode("utf-8", "surrogateescape")
    assert Text(log_values.upstream_remote).text(info) == "/run/\\xff\\x0a"
    assert json.loads(Text(log_values.upstream_remote).json(info)) == "/run/\\xff\n"
