# cython: language_level=3, boundscheck=False, wraparound=False
"""The cells of `plain_cells.py`, compiled: the same names and meanings, a third of the time.

Memory: a cell holds the buffer of its slab's memoryview, so the memory can't be unmapped under it; whoever wants to
unmap calls `release()` first (`Slab.close` does), and counting after that is a ValueError. The index is checked once,
when the cell is made, and nothing is addressed but by that index. A store is one aligned 8-byte move on every machine
that CPython has 64-bit builds for; `volatile` keeps the compiler from splitting or dropping it.
"""

from cpython.buffer cimport PyBUF_CONTIG, PyBUF_FORMAT, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport int64_t, uintptr_t

from hotproxy.shm import schema

cdef enum:
    # schema.py's
    OCTAVES = 20
    BUCKETS = 336
    SUM = 336

if (BUCKETS, OCTAVES, SUM) != (schema.HISTOGRAM_BUCKETS, schema.HISTOGRAM_OCTAVES, schema.SUM_CELL):
    raise ImportError("it was built from other sources: install again")


cdef class Cells:
    """So many words of a slab from an index on."""

    cdef Py_buffer _buffer
    cdef volatile int64_t* _words  # NULL after `release`

    cdef int _take(self, cells, Py_ssize_t first, Py_ssize_t count) except -1:
        PyObject_GetBuffer(cells, &self._buffer, PyBUF_CONTIG | PyBUF_FORMAT)
        if (
            self._buffer.format == NULL
            or self._buffer.format[0] != c"q"
            or self._buffer.itemsize != sizeof(int64_t)
            or <uintptr_t> self._buffer.buf % sizeof(int64_t)
            or first < 0
            or count > self._buffer.len // self._buffer.itemsize - first
        ):
            PyBuffer_Release(&self._buffer)
            raise IndexError(f"there are no {count} aligned words from {first} on")
        self._words = <volatile int64_t*> self._buffer.buf + first
        return 0

    cdef int _check(self) except -1:
        if self._words == NULL:
            raise ValueError("this cell has been released")
        return 0

    def release(self):
        """Let go of the memory. Safe to call twice."""
        if self._words != NULL:
            self._words = NULL
            PyBuffer_Release(&self._buffer)

    def __dealloc__(self):
        if self._words != NULL:
            PyBuffer_Release(&self._buffer)


cdef class Counter(Cells):
    """Only grows; survives its process."""

    cdef readonly int64_t value

    def __cinit__(self, cells, Py_ssize_t index):
        self._take(cells, index, 1)
        self.value = self._words[0]

    def inc(self):
        self._check()
        self.value += 1
        self._words[0] = self.value

    def add(self, int64_t amount):
        self._check()
        self.value += amount
        self._words[0] = self.value


cdef class Gauge(Cells):
    """Goes up and down; vanishes with its process."""

    cdef readonly int64_t value

    def __cinit__(self, cells, Py_ssize_t index):
        self._take(cells, index, 1)
        self.value = self._words[0]

    def inc(self):
        self._check()
        self.value += 1
        self._words[0] = self.value

    def dec(self):
        self._check()
        self.value -= 1
        self._words[0] = self.value

    def add(self, int64_t amount):
        self._check()
        self.value += amount
        self._words[0] = self.value

    def set(self, int64_t value):
        self._check()
        self.value = value
        self._words[0] = value


cdef class Histogram(Cells):
    """Counts values by size, 16 buckets to the octave (see `schema.bucket_of`), and their sum."""

    cdef int64_t _sum

    def __cinit__(self, cells, Py_ssize_t first):
        self._take(cells, first, BUCKETS + 1)
        self._sum = self._words[SUM]

    def record(self, int64_t value):
        """Count one value, in the statistic's unit; a negative one (a clock that was set back) counts as 0."""
        cdef int octave = 0
        cdef int64_t bucket
        self._check()
        if value < 0:
            value = 0
        while octave < OCTAVES and value >> octave >= 32:
            octave += 1
        bucket = BUCKETS - 1 if octave == OCTAVES else (octave << 4) + (value >> octave)
        self._words[bucket] = self._words[bucket] + 1
        # After the bucket: killed in between, the sum lacks one value, and no count is ever lost.
        self._sum += value
        self._words[SUM] = self._sum
