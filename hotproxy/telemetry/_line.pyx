# cython: language_level=3, boundscheck=False, wraparound=False
"""One line of an access log, joined and looked over in one go; see `plain_line.tame_line`.

Memory: the sizes of all pieces and values are added up before a byte is written, into an object of exactly that size.
In between no Python code runs, and nothing else holds the list.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.string cimport memcpy

cdef extern from "Python.h":
    bint PyUnicode_IS_COMPACT_ASCII(object text)
    Py_ssize_t PyUnicode_GET_LENGTH(object text)
    const unsigned char* PyUnicode_1BYTE_DATA(object text)


def tame_line(tuple pieces not None, list values not None):
    cdef Py_ssize_t count = len(values), index, size, total, at, within
    cdef const unsigned char* text
    cdef char* into
    cdef bytes line
    cdef bint wild = False
    if len(pieces) != count + 1:
        raise ValueError(f"{count} values need {count + 1} pieces around them, not {len(pieces)}")
    total = _size_of_piece(pieces[count])
    for index in range(count):
        total += _size_of_piece(pieces[index])
        value = values[index]
        if not isinstance(value, str):
            raise TypeError(f"a line is made of text, not of {type(value).__name__}")
        if not PyUnicode_IS_COMPACT_ASCII(value):
            return None
        size = PyUnicode_GET_LENGTH(value)
        total += size if size else 1
    line = PyBytes_FromStringAndSize(NULL, total)
    into = PyBytes_AS_STRING(line)
    at = 0
    for index in range(count):
        size = PyBytes_GET_SIZE(pieces[index])
        memcpy(into + at, PyBytes_AS_STRING(pieces[index]), size)
        at += size
        size = PyUnicode_GET_LENGTH(values[index])
        if size == 0:
            into[at] = c"-"
            at += 1
            continue
        text = PyUnicode_1BYTE_DATA(values[index])
        memcpy(into + at, text, size)
        at += size
        for within in range(size):
            wild |= text[within] < 32 or text[within] == 127 or text[within] == c'"' or text[within] == c"\\"
    size = PyBytes_GET_SIZE(pieces[count])
    memcpy(into + at, PyBytes_AS_STRING(pieces[count]), size)
    return None if wild else line


cdef Py_ssize_t _size_of_piece(object piece) except -1:
    if not isinstance(piece, bytes):
        raise TypeError(f"the pieces of a line are bytes, not {type(piece).__name__}")
    return PyBytes_GET_SIZE(piece)
