"""Counting, without any segment: private slabs behave as mapped ones do."""

import pytest

from hotproxy.shm.cells import Slab
from hotproxy.shm.schema import COUNTER, GAUGE, HISTOGRAM, HISTOGRAM_BUCKETS, INSTANCE_GAUGE, Stat, bucket_of

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
    histogram = slab.histogram("h")
    cells = histogram._cells[histogram._first : histogram._first + HISTOGRAM_BUCKETS].tolist()
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
