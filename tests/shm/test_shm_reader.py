"""Whatever lies in shared memory, reading it ends in a Reading or in one sentence; never in a crash."""

import os
import struct
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hotproxy.shm import layout
from hotproxy.shm.cells import Slab, SlabPlace
from hotproxy.shm.layout import ShmError
from hotproxy.shm.memory import remove_segment
from hotproxy.shm.reader import Reading, read
from hotproxy.shm.schema import COUNTER, HISTOGRAM, Stat
from hotproxy.shm.segment import Segment

NAME = f"/hotproxy-test.fuzz.{os.getpid()}"
WORD = struct.Struct("=q")


@pytest.fixture(scope="module")
def valid() -> bytes:
    """A small segment with everything in it."""
    segment = Segment.create(NAME, "1.0.0", size_bytes=24 * 1024, schema_bytes=4096, entries=4)
    segment.add_stats([Stat("a", COUNTER), Stat("h", HISTOGRAM), Stat("b", COUNTER, (("t", "v"),), "f")])
    for slot in range(3):
        place = segment.allocate_slab(1, "worker", slot)
        slab = Slab.open(NAME, place)
        slab.counter("a").inc()
        slab.histogram("h").record(slot)
        segment.activate_slab(place.serial, os.getpid())
        if slot == 0:
            segment.fold(place.serial)
        slab.close()
    assert len(segment.objects) == 1
    with open(f"/dev/shm{NAME}", "rb") as file:
        data = file.read()
    segment.unlink()
    segment.close()
    return data


@pytest.fixture(autouse=True, scope="module")
def nothing_left():
    yield
    remove_segment(NAME)


def look_at(data: bytes) -> Reading | str:
    """Read a segment made of these bytes; the error's sentence where it is none."""
    with open(f"/dev/shm{NAME}", "wb") as file:
        os.fchmod(file.fileno(), 0o640)
        file.write(data)
    try:
        return read(NAME)
    except ShmError as error:
        sentence = str(error)
        assert "\n" not in sentence
        assert 10 < len(sentence) < 300
        return sentence
    finally:
        os.unlink(f"/dev/shm{NAME}")


def with_word(data: bytes, offset: int, value: int) -> bytes:
    return data[:offset] + WORD.pack(value) + data[offset + 8 :]


def test_the_sample_is_valid(valid):
    reading = look_at(valid)
    assert isinstance(reading, Reading)
    assert reading.values["a"] == 3
    assert reading.values["h"].count == 3


@pytest.mark.parametrize(
    ("offset", "value", "why"),
    [
        (layout.O_MAGIC, 0, "never finished"),
        (layout.O_MAGIC, int.from_bytes(b"notours!", sys.byteorder), "its magic is b'notours!'"),
        (layout.O_MAGIC, int.from_bytes(layout.MAGIC[::-1], sys.byteorder), "byte order"),
        (layout.O_LAYOUT, 2, "has layout 2, this version of hotproxy reads 1"),
        (layout.O_SIZE, 1 << 40, "claims a size"),
        (layout.O_SIZE, 1 << 20, "truncated"),
        (layout.O_SIZE, -4096, "claims a size"),
        (layout.O_NUMBER, 3, "claims to be object 3"),
        (layout.O_SCHEMA, 1 << 40, "schema lies outside"),
        (layout.O_SCHEMA_CAPACITY, -1, "schema lies outside"),
        (layout.O_SCHEMA_COMMITTED, 1 << 40, "schema claims"),
        (layout.O_SCHEMA_COMMITTED, -8, "schema claims"),
        (layout.O_SCHEMA_COMMITTED, 3, "ends inside the entry"),
        (layout.O_SCHEMA_COMMITTED, 15, "the entry at byte 10 claims"),
        (layout.O_DIRECTORY, 1 << 40, "directory lies outside"),
        (layout.O_DIRECTORY_ENTRIES, 1 << 40, "directory lies outside"),
        (layout.O_ARENA, 4096 + 8, "arena lies outside"),
        (layout.O_CHUNKS_COMMITTED, 1 << 40, "chunks"),
        (layout.O_CHUNKS_COMMITTED, 2, "chunk 1"),
        (layout.O_OBJECTS, 0, "claims 0 objects"),
        (layout.O_OBJECTS, 2, "object 1 is missing"),
        (layout.O_CHUNKS, 5, "leave out cell 0"),
        (layout.O_CHUNKS + 16, 0, "lies outside"),
        (4096, 0, "schema is corrupt"),
        (4100, -1, "schema is corrupt"),
    ],
)
def test_each_field_that_lies_is_named(valid, offset, value, why):
    assert why in look_at(with_word(valid, offset, value))


def test_each_word_of_the_directory_may_lie(valid):
    (directory,) = WORD.unpack_from(valid, layout.O_DIRECTORY)
    for word in range(layout.ENTRY_WORDS):
        for value in (0, -1, 1 << 40, (1 << 63) - 1, 4096):
            look_at(with_word(valid, directory + layout.ENTRY_WORDS * 8 + word * 8, value))
    assert "points to another's slab" in look_at(with_word(valid, directory + 64 + 8 * layout.E_SERIAL, 77))
    assert "makes no sense" in look_at(with_word(valid, directory + 64 + 8 * layout.E_OFFSET, 1 << 40))


def test_truncated_anywhere(valid):
    for size in (0, 1, 8, 4095, 4096, 5000, len(valid) - 1):
        assert "truncated" in look_at(valid[:size])
    assert isinstance(look_at(valid + b"more"), Reading)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.lists(st.tuples(st.integers(0, 1 << 20), st.binary(min_size=1, max_size=9)), min_size=1, max_size=8))
def test_random_damage_anywhere(valid, changes):
    data = bytearray(valid)
    for position, patch in changes:
        position %= len(data)
        data[position : position + len(patch)] = patch
    look_at(bytes(data[: len(valid)]))


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    changes=st.lists(
        st.tuples(
            st.integers(1, (layout.O_CHUNKS + 64) // 8),  # the head, but for the magic
            st.one_of(st.integers(-(1 << 63), (1 << 63) - 1), st.integers(-2, 70_000), st.just(4096)),
        ),
        min_size=1,
        max_size=4,
    )
)
def test_random_words_in_the_head(valid, changes):
    data = valid
    for word, value in changes:
        data = with_word(data, word * 8, value)
    look_at(data)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(garbage=st.binary(min_size=1, max_size=120), data=st.data())
def test_random_bytes_in_the_schema(valid, garbage, data):
    (committed,) = WORD.unpack_from(valid, layout.O_SCHEMA_COMMITTED)
    at = 4096 + data.draw(st.integers(0, committed))
    look_at(valid[:at] + garbage + valid[at + len(garbage) :])


@settings(max_examples=200, deadline=None)
@given(
    fields=st.dictionaries(
        st.sampled_from(["serial", "object", "offset", "cells", "more"]),
        st.one_of(st.integers(), st.text(max_size=3), st.none(), st.booleans()),
    )
)
def test_a_place_from_the_wire_is_a_place_or_an_error(fields):
    try:
        place = SlabPlace.from_wire(fields)
    except ShmError:
        return
    assert SlabPlace.from_wire(place.to_wire()) == place


def test_another_users_segment_is_not_trusted(valid):
    if os.geteuid() != 0:
        pytest.skip("only root can make another user's file")
    path = f"/dev/shm{NAME}"
    with open(path, "wb") as file:
        os.fchmod(file.fileno(), 0o644)
        file.write(valid)
    os.chown(path, 12345, -1)
    with pytest.raises(ShmError, match="belongs to uid 12345"):
        Segment.attach(NAME)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.setuid(65534)
            assert read(NAME, owner_uid=12345).values["a"] == 3
            with pytest.raises(ShmError, match="belongs to uid 12345"):
                read(NAME)
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    os.unlink(path)
