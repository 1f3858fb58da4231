"""Bodies as a model says they should come out, whatever the chunks and the reads."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hotproxy.http.body import MAX_SIZE_LINE_BYTES, BodyDecoder, BodyEncoder, field_lines
from hotproxy.http.codec import CHUNKED, END, LENGTH, NO_BODY, UNTIL_CLOSE, Data, Event, Trailers, Violation
from hotproxy.http.headers import Headers


def decoded(decoder: BodyDecoder, reads: list[bytes]) -> tuple[bytes, list[Event], bytes]:
    """(body, the other events, what is left in the buffer)."""
    body, events, buffer = b"", [], b""
    for read in reads:
        buffer += read
        new: list[Event] = []
        buffer = buffer[decoder.decode(buffer, 0, new) :]
        body += b"".join(event.data for event in new if isinstance(event, Data))
        events += [event for event in new if not isinstance(event, Data)]
        if events:
            buffer += b"".join(reads[reads.index(read) + 1 :]) if read else b""
            break
    return body, events, buffer


def cut(raw: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(min(position, len(raw)) for position in cuts), len(raw)]
    return [raw[start:end] for start, end in itertools.pairwise(edges) if end > start]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.binary(min_size=1, max_size=40), max_size=6), st.lists(st.integers(0, 300), max_size=5))
def test_what_the_encoder_sends_the_decoder_receives(pieces: list[bytes], cuts: list[int]):
    body = b"".join(pieces)
    for framing in (CHUNKED, LENGTH, UNTIL_CLOSE):
        encoder = BodyEncoder(framing, len(body))
        wire = b"".join(encoder.encode_data(piece) for piece in pieces) + encoder.encode_end(None)
        events: list[Event] = []
        decoder = BodyDecoder(framing, len(body))
        buffer = b""
        for read in cut(wire, cuts):
            buffer += read
            buffer = buffer[decoder.decode(buffer, 0, events) :]
        if framing == LENGTH and not body:
            decoder.decode(b"", 0, events)
        assert b"".join(event.data for event in events if isinstance(event, Data)) == body
        assert buffer == b""
        assert (events[-1:] == [END]) == (framing != UNTIL_CLOSE)


def test_neighbouring_chunks_become_one_piece():
    events: list[Event] = []
    raw = b"1\r\na\r\n" * 1000 + b"0\r\n\r\nrest"
    assert BodyDecoder(CHUNKED).decode(raw, 0, events) == len(raw) - 4
    assert [event.data for event in events[:-1] if isinstance(event, Data)] == [b"a" * 1000]
    assert events[-1] is END


def test_a_whole_read_of_body_is_not_copied():
    read = b"x" * 65536
    events: list[Event] = []
    BodyDecoder(LENGTH, 10**6).decode(read, 0, events)
    assert isinstance(events[0], Data)
    assert events[0].data is read


@pytest.mark.parametrize("size", [MAX_SIZE_LINE_BYTES - 2, MAX_SIZE_LINE_BYTES - 1])
def test_the_bound_on_a_size_line(size: int):
    line = b"1;" + b"x" * (size - 2)
    body, events, _ = decoded(BodyDecoder(CHUNKED), [line + b"\r\na\r\n0\r\n\r\n"])
    if size + 2 <= MAX_SIZE_LINE_BYTES:
        assert (body, events) == (b"a", [END])
    else:
        assert isinstance(events[0], Violation)
        assert events[0].details == "http1.chunk_line_too_long"


def test_trailers_keep_order_and_spelling():
    _, events, buffer = decoded(BodyDecoder(CHUNKED), [b"0\r\nB: 1\r\na: 2\r\nB: 3\r\n\r\nrest"])
    assert isinstance(events[0], Trailers)
    assert list(events[0].headers) == [(b"B", b"1"), (b"a", b"2"), (b"B", b"3")]
    assert events[1] is END
    assert buffer == b"rest"


def test_an_empty_piece_is_not_the_end():
    assert BodyEncoder(CHUNKED).encode_data(b"") == b""


def test_trailers_have_room_in_chunks_only():
    trailers = Headers([(b"X", b"y")])
    assert BodyEncoder(CHUNKED).encode_end(trailers) == b"0\r\nX: y\r\n\r\n"
    assert BodyEncoder(CHUNKED).encode_end(Headers()) == b"0\r\n\r\n"
    assert BodyEncoder(LENGTH, 0).encode_end(trailers) == b""
    assert BodyEncoder(UNTIL_CLOSE).encode_end(trailers) == b""


def test_our_own_broken_promises_are_bugs():
    with pytest.raises(ValueError, match="announced"):
        BodyEncoder(LENGTH, 2).encode_data(b"abc")
    with pytest.raises(ValueError, match="short"):
        BodyEncoder(LENGTH, 2).encode_end(None)
    with pytest.raises(ValueError, match="without one"):
        BodyEncoder(NO_BODY).encode_data(b"a")


@pytest.mark.parametrize(
    "field",
    [(b"A", b"b\r\nC: d"), (b"A", b"b\nC: d"), (b"A\r\nB", b"c"), (b"A", b"\0"), (b"A", b"b\r"), (b"A\r\n\r\n", b"")],
)
def test_a_field_that_would_split_the_message_is_a_bug(field: tuple[bytes, bytes]):
    with pytest.raises(ValueError, match="CR, LF or NUL"):
        field_lines(Headers([(b"Ok", b"1"), field]))


@pytest.mark.parametrize("wrong", [b"0", b"\n", b"\r0"])
def test_a_wrong_byte_behind_a_chunk_is_refused_at_once(wrong: bytes):
    events: list[Event] = []
    BodyDecoder(CHUNKED).decode(b"5\r\nhello" + wrong, 0, events)
    assert isinstance(events[-1], Violation)
