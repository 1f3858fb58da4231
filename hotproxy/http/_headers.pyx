# cython: language_level=3, boundscheck=False, wraparound=False
"""The headers of `plain_headers.py`, compiled: the same names and meanings, and no object for a field that nobody asks for.

Memory: a field is four numbers, a place in the bytes of the head that it was read from, which this object keeps alive;
or two bytes objects of its own, which it owns. Numbers come from `_kernel`, which has walked over those very bytes; the
array of fields grows before it is written. Nothing here calls Python code while it holds an address.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.ref cimport PyObject, Py_DECREF, Py_INCREF
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memchr, memcmp, memcpy, memmove

cdef enum:
    MORE_ROOM = 16

cdef unsigned char[256] LOWER
cdef int _code
for _code in range(256):
    LOWER[_code] = _code + 32 if 65 <= _code <= 90 else _code


cdef bint _is_lower(const char* text, const char* lower, Py_ssize_t size) noexcept:
    """Is this, in lower case, that?"""
    cdef Py_ssize_t at
    for at in range(size):
        if LOWER[<unsigned char> text[at]] != <unsigned char> lower[at]:
            return False
    return True


cdef bytes _lowered(bytes name):
    cdef Py_ssize_t size = PyBytes_GET_SIZE(name), at
    cdef bytes lowered
    cdef unsigned char* text
    if size < 2:  # CPython shares those objects
        return name.lower()
    lowered = PyBytes_FromStringAndSize(PyBytes_AS_STRING(name), size)
    text = <unsigned char*> PyBytes_AS_STRING(lowered)
    for at in range(size):
        text[at] = LOWER[text[at]]
    return lowered


cdef bytes _bytes(object piece):
    """A variable declared as bytes may be None, and an instance of a subclass may be anything."""
    if not PyBytes_CheckExact(piece):
        raise TypeError(f"a field is made of bytes, not of {type(piece).__name__}")
    return <bytes> piece


@cython.freelist(64)
cdef class Headers:
    """See `plain_headers.Headers`."""

    def __cinit__(self, fields=()):
        self.raw = b""
        self.lines = self.first
        self.room = FIRST_ROOM
        self.count = 0
        for name, value in fields:
            self.put(self.count, _bytes(name), _bytes(value))

    def __dealloc__(self):
        while self.count:
            self.count -= 1
            _release(&self.lines[self.count])
        if self.lines != self.first:
            free(self.lines)

    # -- in C

    cdef int make_room(self, int more) except -1:
        cdef FieldLine* lines
        cdef int room
        if self.count + more <= self.room:
            return 0
        room = self.count + more + MORE_ROOM
        if self.lines == self.first:
            lines = <FieldLine*> malloc(room * sizeof(FieldLine))
            if lines != NULL:
                memcpy(lines, self.first, self.count * sizeof(FieldLine))
        else:
            lines = <FieldLine*> realloc(self.lines, room * sizeof(FieldLine))
        if lines == NULL:
            raise MemoryError
        self.lines = lines
        self.room = room
        return 0

    cdef int find(self, bytes name, int start) except -2:
        """The index of the first field from `start` on with this lower-case name, or -1."""
        cdef Py_ssize_t wanted, size
        cdef const char* lower
        cdef const char* text
        cdef int index
        if name is None:
            raise TypeError("a name is made of bytes, not of NoneType")
        wanted = PyBytes_GET_SIZE(name)
        lower = PyBytes_AS_STRING(name)
        for index in range(start, self.count):
            text = name_of(self, &self.lines[index], &size)
            if size == wanted and _is_lower(text, lower, size):
                return index
        return -1

    cdef int put(self, int index, bytes name, bytes value) except -1:
        """Write this field in the place of that one; at the end, if there is none."""
        cdef FieldLine* line
        if index == self.count:
            self.make_room(1)
            self.count += 1
            line = &self.lines[index]
            line.own_name = line.own_value = NULL
        line = &self.lines[index]
        Py_INCREF(name)
        Py_INCREF(value)
        _release(line)
        line.own_name = <PyObject*> name
        line.own_value = <PyObject*> value
        return 0

    cdef void drop(self, int index) noexcept:
        _release(&self.lines[index])
        self.count -= 1
        memmove(&self.lines[index], &self.lines[index + 1], (self.count - index) * sizeof(FieldLine))

    cdef bytes name_bytes(self, int index):
        cdef Py_ssize_t size
        cdef FieldLine* line = &self.lines[index]
        if line.own_name != NULL:
            return <bytes> line.own_name
        return PyBytes_FromStringAndSize(PyBytes_AS_STRING(self.raw) + line.name, line.name_size)

    cdef bytes value_bytes(self, int index):
        cdef FieldLine* line = &self.lines[index]
        if line.own_value != NULL:
            return <bytes> line.own_value
        return PyBytes_FromStringAndSize(PyBytes_AS_STRING(self.raw) + line.value, line.value_size)

    # -- in Python

    @classmethod
    def from_parsed(cls, list fields not None, list lower not None):
        """`lower` is for the plain ones only."""
        return cls(fields)

    def get(self, bytes name not None):
        cdef int index = self.find(name, 0)
        return None if index < 0 else self.value_bytes(index)

    def get_all(self, bytes name not None):
        cdef list values = []
        cdef int index = self.find(name, 0)
        while index >= 0:
            values.append(self.value_bytes(index))
            index = self.find(name, index + 1)
        return values

    def has(self, bytes name not None):
        return self.find(name, 0) >= 0

    def add(self, name, value):
        self.put(self.count, _bytes(name), _bytes(value))

    def set(self, name, value):
        cdef bytes lower = _lowered(_bytes(name))
        cdef int index = self.find(lower, 0), other
        _bytes(value)
        if index < 0:
            self.put(self.count, name, value)
            return
        self.put(index, name, value)
        other = self.find(lower, index + 1)
        while other >= 0:
            self.drop(other)
            other = self.find(lower, other)

    def remove(self, bytes name not None):
        cdef int index = self.find(name, 0)
        while index >= 0:
            self.drop(index)
            index = self.find(name, index)

    def remove_prefixed(self, bytes prefix not None):
        cdef Py_ssize_t wanted = PyBytes_GET_SIZE(prefix), size
        cdef const char* text
        cdef int index = 0
        while index < self.count:
            text = name_of(self, &self.lines[index], &size)
            if size >= wanted and _is_lower(text, PyBytes_AS_STRING(prefix), wanted):
                self.drop(index)
            else:
                index += 1

    def remove_lookalikes(self, tuple beginnings not None):
        cdef Py_ssize_t size
        cdef const char* text
        cdef int index
        for index in range(self.count - 1, -1, -1):
            text = name_of(self, &self.lines[index], &size)
            # Rare enough for the long way.
            if size and memchr(text, c"_", size) != NULL:
                if self.name_bytes(index).lower().replace(b"_", b"-").startswith(beginnings):
                    self.drop(index)

    def __iter__(self):
        return iter([(self.name_bytes(index), self.value_bytes(index)) for index in range(self.count)])

    def __len__(self):
        return self.count

    def __eq__(self, other):
        cdef Headers one, two
        cdef Py_ssize_t size, other_size
        cdef int index
        cdef const char* text
        cdef const char* other_text
        if not isinstance(other, Headers):
            return False
        one, two = self, other
        if one.count != two.count:
            return False
        for index in range(one.count):
            text = name_of(one, &one.lines[index], &size)
            other_text = name_of(two, &two.lines[index], &other_size)
            if size != other_size or memcmp(text, other_text, size):
                return False
            text = value_of(one, &one.lines[index], &size)
            other_text = value_of(two, &two.lines[index], &other_size)
            if size != other_size or memcmp(text, other_text, size):
                return False
        return True

    __hash__ = None  # it changes

    def __repr__(self):
        return f"Headers({list(self)!r})"

    def __reduce__(self):
        raise TypeError("headers travel by `dump`, never by pickle")

    def copy(self):
        return type(self)(self)

    def dump(self):
        return [[name, value] for name, value in self]

    @classmethod
    def load(cls, state):
        return cls(plain_fields(state))


cdef void _release(FieldLine* line) noexcept:
    if line.own_name != NULL:
        Py_DECREF(<object> line.own_name)
        Py_DECREF(<object> line.own_value)
        line.own_name = line.own_value = NULL


from hotproxy.http.plain_headers import saved_fields as plain_fields  # noqa: E402
