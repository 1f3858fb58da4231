"""Counting, without any segment: private slabs behave as mapped ones do. And the cells, plain and compiled."""

import mmap

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hotproxy.shm import plain_cells
from hotproxy.shm.cells import Slab
from hotproxy.shm.schema import (
    COUNTER,
    GAUGE,
    HISTOGRAM,
    HISTOGRAM_BUCKETS,
    INSTANCE_GAUGE,
    SUM_CELL,
    Stat,
    bucket_bounds,
    bucket_of,
)
from tests.kit.kernels import compiled

STATS = [Stat("a", COUNTER), Stat("g", GAUGE), Stat("h", HISTOGRAM), Stat("i", INSTANCE_GAUGE), Stat("z", COUNTER)]


def test_counters_and_gauges():
    slab = Slab.private(STATS)
    counter, gauge = slab.counter("a"), slab.gauge("g")
    counter.inc()
    counter.add(5)
    gauge.inc()
    gauge.add(-3)
    gauge.dec()
    assert (counter.value, gauge.value) == (6, -3)
    gauge.set(9)
    assert (gauge.value, slab.counter("z").value, slab.gauge("i").value) == (9, 0, 0)


def test_a_name_is_one_object():
    slab = Slab.private([*STATS, *STATS])
    assert slab.counter("a") is slab.counter("a")
    assert slab.histogram("h") is slab.histogram("h")
    assert slab.buffered() is slab.buffered()


def test_unknown_names_and_wrong_kinds():
    slab = Slab.private(STATS)
    for get in (slab.counter, slab.gauge, slab.histogram):
        with pytest.raises(KeyError):
            get("nothing")
    for get, name in ((slab.counter, "g"), (slab.gauge, "a"), (slab.histogram, "a"), (slab.counter, "h")):
        with pytest.raises(TypeError):
            get(name)
        with pytest.raises(TypeError):  # also when it exists already
            slab.counter("a"), slab.gauge("g"), slab.histogram("h")
            get(name)


@pytest.mark.parametrize("value", [-5, 0, 1, 31, 32, 33, 1000, 2**24 - 1, 2**24, 2**60])
def test_a_histogram_counts_where_the_formula_says(value):
    slab = Slab.private(STATS)
    slab.histogram("h").record(value)
    _, first = slab.schema.find("h")
    cells = slab._cells[first : first + HISTOGRAM_BUCKETS].tolist()
    assert cells.index(1) == bucket_of(value)
    assert sum(cells) == 1


def test_the_words_of_the_head():
    slab = Slab.private(STATS)
    slab.heartbeat_ns = 1 << 60
    slab.connections = 3
    slab.buffered().add(10)
    slab.buffered().add(-4)
    assert (slab.heartbeat_ns, slab.connections, slab.buffered_bytes) == (1 << 60, 3, 6)
    slab.claim()
    slab.close()


def test_after_close_nothing_is_counted():
    """A parent that has closed its child's slab can't spoil the child's numbers, nor write to where nothing is."""
    slab = Slab.private(STATS)
    counter, gauge, histogram, buffered = slab.counter("a"), slab.gauge("g"), slab.histogram("h"), slab.buffered()
    slab.close()
    for count in (counter.inc, gauge.inc, gauge.dec, lambda: gauge.set(1), lambda: histogram.record(1), buffered.inc):
        with pytest.raises(ValueError):
            count()


@pytest.fixture(scope="module", params=["plain", "compiled"])
def kernel(request):
    return plain_cells if request.param == "plain" else compiled("hotproxy.shm._cells")


def words(count):
    """Shared memory as a slab has it."""
    return memoryview(mmap.mmap(-1, count * 8)).cast("q")


NUMBERS = st.one_of(st.integers(-40, 2000), st.integers(-(2**50), 2**50))
STEPS = st.lists(
    st.one_of(
        st.sampled_from([("inc",), ("dec",)]),
        st.tuples(st.sampled_from(["add", "set"]), NUMBERS),
    )
)


@settings(max_examples=200, deadline=None)
@given(STEPS)
def test_a_gauge_is_its_cell(kernel, steps):
    cells = words(3)
    cells[1] = value = 5  # a process that was replaced by execve goes on where it was
    gauge = kernel.Gauge(cells, 1)
    for name, *arguments in steps:
        getattr(gauge, name)(*arguments)
        value = {"inc": value + 1, "dec": value - 1}.get(name, value)
        if arguments:
            value = value + arguments[0] if name == "add" else arguments[0]
        assert gauge.value == value
        assert cells.tolist() == [0, value, 0]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 2**50)))
def test_a_counter_is_its_cell(kernel, amounts):
    cells = words(3)
    cells[2] = 7
    counter = kernel.Counter(cells, 2)
    for amount in amounts:
        counter.add(amount)
        counter.inc()
    assert counter.value == cells[2] == 7 + sum(amounts) + len(amounts)
    assert cells.tolist()[:2] == [0, 0]


EDGES = [value for bucket in range(HISTOGRAM_BUCKETS) for value in bucket_bounds(bucket)]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.one_of(NUMBERS, st.sampled_from(EDGES))))
def test_a_histogram_is_its_cells(kernel, values):
    cells = words(HISTOGRAM_BUCKETS + 3)
    histogram = kernel.Histogram(cells, 1)
    for value in values:
        histogram.record(value)
    expected = [0] * (HISTOGRAM_BUCKETS + 3)
    for value in values:
        expected[1 + bucket_of(value)] += 1
    expected[1 + SUM_CELL] = sum(max(value, 0) for value in values)
    assert cells.tolist() == expected


def test_every_edge_of_a_histogram(kernel):
    for value in EDGES:
        cells = words(HISTOGRAM_BUCKETS + 1)
        kernel.Histogram(cells, 0).record(value)
        assert cells.tolist().index(1) == bucket_of(value)


def test_outside_of_its_slab_there_is_no_cell(kernel):
    cells = words(HISTOGRAM_BUCKETS)
    for make in (kernel.Counter, kernel.Gauge):
        with pytest.raises(IndexError):
            make(cells, HISTOGRAM_BUCKETS)
    with pytest.raises(IndexError):
        kernel.Histogram(cells, 0)


def test_memory_can_be_unmapped_after_a_release(kernel):
    memory = mmap.mmap(-1, 4096)
    cells = memoryview(memory).cast("q")
    counter = kernel.Counter(cells, 0)
    counter.inc()
    counter.release()
    counter.release()
    with pytest.raises(ValueError):
        counter.inc()
    cells.release()
    memory.close()


def test_memory_is_not_unmapped_under_a_compiled_cell():
    """Plain cells notice; a compiled one would write to an address where nothing is."""
    counter = compiled("hotproxy.shm._cells").Counter(cells := words(1), 0)
    with pytest.raises(BufferError):
        cells.release()
    counter.inc()
    assert cells[0] == 1


@pytest.mark.parametrize("cells", [bytes(80), memoryview(bytearray(80)), memoryview(bytes(80)).cast("q"), None])
def test_a_compiled_cell_wants_writable_words(cells):
    with pytest.raises((IndexError, TypeError, BufferError)):
        compiled("hotproxy.shm._cells").Counter(cells, 0)
