"""Every message of the corpus: whole, byte by byte, at random splits, and moved to another process after every byte."""

from __future__ import annotations

from pathlib import Path

import msgpack
import pytest
from http_corpus import (
    answers_of,
    byte_by_byte,
    case_name,
    expectation,
    forwarded,
    outcome,
    raw_files,
    run_request,
    run_response,
    text,
    whole,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from hotproxy.http.head_parser import HeadParser

FILES = raw_files()
VALID = [path for path in FILES if path.parent.name == "valid"]
# Long bodies of nothing but filler: every position of them is like the one before.
SMALL = [path for path in FILES if path.stat().st_size <= 400]

every_file = pytest.mark.parametrize("path", FILES, ids=case_name)


def test_the_corpus_is_there():
    assert len(VALID) >= 80
    assert len(FILES) - len(VALID) >= 200


def test_no_expectation_has_lost_its_message():
    named = {path.with_suffix("") for path in FILES}
    assert {path.with_suffix("") for path in FILES[0].parent.parent.rglob("*.events")} == named
    assert {path.with_suffix("") for path in FILES[0].parent.parent.rglob("*.forwarded")} == {
        path.with_suffix("") for path in VALID
    }


@every_file
def test_whole(parser: HeadParser, path: Path):
    assert outcome(parser, path, whole, answers_of(path)) == expectation(path)


@every_file
def test_byte_by_byte(parser: HeadParser, path: Path):
    assert outcome(parser, path, byte_by_byte, answers_of(path)) == expectation(path)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_at_any_splits(parser: HeadParser, data: st.DataObject):
    path = data.draw(st.sampled_from(FILES))
    size = path.stat().st_size
    cuts = sorted(data.draw(st.sets(st.integers(0, size), max_size=6)))

    def split(raw: bytes) -> list[bytes]:
        return [raw[start:end] for start, end in zip([0, *cuts], [*cuts, size], strict=True)]

    assert outcome(parser, path, split, answers_of(path)) == expectation(path)


@every_file
def test_only_the_valid_folder_holds_what_is_accepted(path: Path):
    refused = any(line.startswith("violation") for line in expectation(path))
    assert refused == (path.parent.name == "invalid")


@pytest.mark.parametrize("path", VALID, ids=case_name)
def test_the_other_side_receives_these_bytes(parser: HeadParser, path: Path):
    expected = path.with_suffix(".forwarded").read_bytes()
    assert forwarded(parser, path, whole, answers_of(path)) == expected
    assert forwarded(parser, path, byte_by_byte, answers_of(path)) == expected


@pytest.mark.parametrize("path", SMALL, ids=case_name)
def test_moved_after_every_byte(parser: HeadParser, path: Path):
    """The bytes go on behaving as if nothing had happened, and a dump of the loaded codec is the dump it came from."""
    expected = expectation(path)
    for position in range(path.stat().st_size):
        assert outcome(parser, path, byte_by_byte, answers_of(path), moved_after=position) == expected


@every_file
def test_a_dump_is_msgpack(parser: HeadParser, path: Path):
    raw = path.read_bytes()
    half = [raw[: len(raw) // 2]]
    codec = (
        run_request(parser, half)[1] if path.suffix == ".request" else run_response(parser, answers_of(path), half)[1]
    )
    state = codec.dump()
    assert msgpack.unpackb(msgpack.packb(state)) == state
    assert type(codec).load(msgpack.unpackb(msgpack.packb(state)), parser).dump() == state


def test_text_escapes_what_an_editor_would_lose(parser: HeadParser):
    events, _ = run_request(parser, [b"POST / HTTP/1.1\r\nHost: a\r\nX: \xff\r\nContent-Length: 2\r\n\r\n\r\n"])
    assert text(events)[2:4] == ["  X: \\xff", "data \\r\\n"]
