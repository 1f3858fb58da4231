# cython: language_level=3
"""What `_kernel` sees of compiled headers."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.ref cimport PyObject

cdef enum:
    FIRST_ROOM = 24  # nearly every head has fewer fields: no other memory is needed


cdef struct FieldLine:
    # Where the field is in `raw`; not looked at when it has objects of its own.
    int name
    int name_size
    int value
    int value_size
    # Bytes objects, owned, or both NULL.
    PyObject* own_name
    PyObject* own_value


cdef class Headers:
    cdef bytes raw  # the head that fields were read from, or b""
    cdef FieldLine[FIRST_ROOM] first
    cdef FieldLine* lines  # `first`, or an array of its own
    cdef int count
    cdef int room

    cdef int make_room(self, int more) except -1
    cdef int find(self, bytes name, int start) except -2
    cdef int put(self, int index, bytes name, bytes value) except -1
    cdef void drop(self, int index) noexcept
    cdef bytes name_bytes(self, int index)
    cdef bytes value_bytes(self, int index)


cdef inline const char* name_of(Headers headers, FieldLine* line, Py_ssize_t* size) noexcept:
    if line.own_name != NULL:
        size[0] = PyBytes_GET_SIZE(<object> line.own_name)
        return PyBytes_AS_STRING(<object> line.own_name)
    size[0] = line.name_size
    return PyBytes_AS_STRING(headers.raw) + line.name


cdef inline const char* value_of(Headers headers, FieldLine* line, Py_ssize_t* size) noexcept:
    if line.own_value != NULL:
        size[0] = PyBytes_GET_SIZE(<object> line.own_value)
        return PyBytes_AS_STRING(<object> line.own_value)
    size[0] = line.value_size
    return PyBytes_AS_STRING(headers.raw) + line.value
