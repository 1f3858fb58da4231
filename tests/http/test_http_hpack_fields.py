"""HPACK against RFC 7541's own examples and against `hpack`."""

from __future__ import annotations

import msgpack
import pytest
from hpack import Decoder, Encoder
from hpack.exceptions import HPACKDecodingError
from hpack.huffman import HuffmanEncoder
from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH
from hpack.huffman_table import decode_huffman
from hypothesis import given
from hypothesis import strategies as st

from hotproxy.http.codec import Violation
from hotproxy.http.hpack_fields import SHRUNK_TABLE, FieldDecoder, encode_fields, encode_number, encode_status

MANY = 1 << 20

# RFC 7541 appendix C.4: three requests with Huffman codes; C.6's responses evict in a table of 256 bytes.
C4 = (
    ("828684418cf1e3c2e5f23a6ba0ab90f4ff", [(b":authority", b"www.example.com")]),
    ("828684be5886a8eb10649cbf", [(b":authority", b"www.example.com"), (b"cache-control", b"no-cache")]),
    (
        "828785bf408825a849e95ba97d7f8925a849e95bb8e8b4bf",
        [(b":authority", b"www.example.com"), (b"custom-key", b"custom-value")],
    ),
)
C6 = (
    (
        "3fe101488264025885aec3771a4b6196d07abe941054d444a8200595040b8166e082a62d1bff6e919d29ad171863c78f0b97c8e9ae82ae43d3",
        (b"location", b"https://www.example.com"),
    ),
    ("4883640effc1c0bf", (b"location", b"https://www.example.com")),
)


def test_the_requests_of_the_rfc() -> None:
    decoder = FieldDecoder()
    for block, ends in C4:
        fields = decoder.decode(bytes.fromhex(block), MANY)
        assert isinstance(fields, list)
        assert fields[0] == (b":method", b"GET") and fields[3:] == ends
    assert decoder.dump()["entries"] == [
        [b"custom-key", b"custom-value"], [b"cache-control", b"no-cache"], [b":authority", b"www.example.com"],
    ]  # fmt: skip


def test_a_table_that_the_client_has_shrunk_evicts() -> None:
    decoder = FieldDecoder()
    for block, last in C6:
        fields = decoder.decode(bytes.fromhex(block), MANY)
        assert isinstance(fields, list) and fields[-1] == last
    assert decoder.dump() == {
        "max_bytes": 256,
        "entries": [
            [b":status", b"307"], [b"location", b"https://www.example.com"],
            [b"date", b"Mon, 21 Oct 2013 20:13:21 GMT"], [b"cache-control", b"private"],
        ],
    }  # fmt: skip


@pytest.mark.parametrize(
    "block",
    [
        "80", "be", "ff80808080", "ffffffffffff", "40", "4001", "400161", "40016101", "4081ff0161", "418cf1e3",
        "3fe21f", "8220", "7f", "0f", "00017f",
    ],
    ids=[
        "index 0", "beyond the table", "a number cut short", "a number too large", "no name", "a name cut short",
        "no value", "a value cut short", "no Huffman code", "a code cut short", "a table larger than allowed",
        "a size behind a field", "an index cut short", "the same, not kept", "no value, not kept",
    ],
)  # fmt: skip
def test_a_block_that_is_none(block: str) -> None:
    found = FieldDecoder().decode(bytes.fromhex(block), MANY)
    assert isinstance(found, Violation) and found.details == "http2.invalid_header_block"


def test_a_bomb_is_not_inflated() -> None:
    """One entry of 4 KiB, and a byte for each time it is named: 64 KiB would become 256 MiB."""
    decoder = FieldDecoder()
    value = b"x" * 4000
    assert isinstance(decoder.decode(b"\x40\x01a" + encode_number(4000, 0x7F, 0) + value, MANY), list)
    found = decoder.decode(b"\xbe" * 65_000, 128 * 1024)
    assert isinstance(found, Violation) and found.status == 431


NAMES = st.sampled_from([b":path", b"cookie", b"accept", b"x-one", b"x-two", b"date"])
VALUES = st.one_of(st.sampled_from([b"/", b"", b"a" * 5000]), st.binary(max_size=200))
LISTS = st.lists(st.lists(st.tuples(NAMES, VALUES), max_size=8), max_size=6)


@given(LISTS, st.lists(st.sampled_from([0, 64, 300, 4096]), max_size=6))
def test_whatever_hpack_sends_is_read_as_hpack_reads_it(
    lists: list[list[tuple[bytes, bytes]]], sizes: list[int]
) -> None:
    encoder, decoder, oracle = Encoder(), FieldDecoder(), Decoder(MANY)
    for turn, fields in enumerate(lists):
        if turn < len(sizes):
            encoder.header_table_size = sizes[turn]
        block = encoder.encode(fields)
        assert decoder.decode(block, MANY) == [tuple(field) for field in oracle.decode(block, raw=True)] == fields
        decoder = FieldDecoder.load(msgpack.unpackb(msgpack.packb(decoder.dump())))
        assert [tuple(entry) for entry in decoder.dump()["entries"]] == list(oracle.header_table.dynamic_entries)  # type: ignore[attr-defined]


@given(st.binary(max_size=60))
def test_garbage_is_read_as_hpack_reads_it_or_refused(block: bytes) -> None:
    found = FieldDecoder().decode(block, MANY)
    try:
        expected = [tuple(field) for field in Decoder(MANY).decode(block, raw=True)]
    except Exception:
        assert isinstance(found, Violation)
    else:
        assert found == expected or isinstance(found, Violation)  # a number of more than five bytes


def huffman(code: bytes) -> bytes:
    """A field whose value this is."""
    return b"\0\1n" + encode_number(len(code), 0x7F, 0x80) + code


@given(st.binary(max_size=300))
def test_codes_are_read_as_hpack_reads_them(text: bytes) -> None:
    code = HuffmanEncoder(REQUEST_CODES, REQUEST_CODES_LENGTH).encode(text)
    assert FieldDecoder().decode(huffman(code), MANY) == [(b"n", text)]
    padded, cut = FieldDecoder().decode(huffman(code + b"\xff"), MANY), FieldDecoder().decode(huffman(code[:-1]), MANY)
    assert isinstance(padded, Violation)  # more than seven bits
    assert isinstance(cut, Violation) or cut[0][1] == text[: len(cut[0][1])]


@given(st.binary(min_size=1, max_size=40))
def test_a_code_of_garbage_is_read_as_hpack_reads_it(code: bytes) -> None:
    found = FieldDecoder().decode(huffman(code), MANY)
    try:
        expected = [(b"n", decode_huffman(code))]
    except HPACKDecodingError:
        assert isinstance(found, Violation)
    else:
        assert found == expected


@given(st.lists(st.tuples(st.sampled_from([b"Date", b"x-a", b"Set-Cookie", b"a" * 300]), st.binary(max_size=400))))
def test_what_is_sent_is_read_by_hpack_without_a_table(fields: list[tuple[bytes, bytes]]) -> None:
    decoder = Decoder(MANY)
    block = SHRUNK_TABLE + encode_status(204) + encode_status(418) + encode_fields(fields)
    expected = [(b":status", b"204"), (b":status", b"418"), *((name.lower(), value) for name, value in fields)]
    for _ in range(2):
        assert [tuple(field) for field in decoder.decode(block, raw=True)] == expected
    assert not decoder.header_table.dynamic_entries


@pytest.mark.parametrize("size", range(40))
def test_a_number_is_read_as_it_was_written(size: int) -> None:
    fields = [(b"n", b"x" * (size * 61))]
    assert FieldDecoder().decode(encode_fields(fields), MANY) == fields


@pytest.mark.parametrize(
    "change", [{"max_bytes": 5000}, {"max_bytes": 10}, {"entries": [["a", b"b"]]}, {"entries": 1}, {"more": 1}]
)
def test_a_table_of_another_shape_is_refused(change: dict[str, object]) -> None:
    decoder = FieldDecoder()
    decoder.decode(bytes.fromhex(C4[0][0]), MANY)
    with pytest.raises(ValueError):
        FieldDecoder.load(decoder.dump() | change)
