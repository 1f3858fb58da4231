# cython: language_level=3, boundscheck=False, wraparound=False
"""What `plain_transfer.py` does, compiled: one buffer for all reads, and no exception where there is just nothing to do.

Memory: the kernel writes into an array of READ_BYTES, never told to write more; what it wrote is copied into an object
of that size before anything else runs. What is sent is held by its buffer while the kernel reads it.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.errno cimport EAGAIN, EINTR, errno

import os

from hotproxy.net import plain_transfer

cdef extern from "sys/socket.h" nogil:
    ssize_t recv(int fd, void* into, size_t size, int flags)
    ssize_t send(int fd, const void* data, size_t size, int flags)
    enum:
        MSG_DONTWAIT
        MSG_NOSIGNAL
        MSG_PEEK

cdef enum:
    READ_BYTES = 65536

if READ_BYTES != plain_transfer.READ_BYTES:
    raise ImportError("it was built from other sources: install again")

cdef char[READ_BYTES] INTO  # one thread reads


cdef object _error(int number):
    """The subclass of OSError that belongs to that errno."""
    return OSError(number, os.strerror(number))


def receive(int fd):
    """See `plain_transfer.receive`."""
    cdef ssize_t size = recv(fd, INTO, READ_BYTES, MSG_DONTWAIT)
    if size >= 0:
        return PyBytes_FromStringAndSize(INTO, size)
    if errno == EAGAIN or errno == EINTR:
        return None
    raise _error(errno)


def transmit(int fd, data):
    """See `plain_transfer.transmit`."""
    cdef Py_buffer buffer
    cdef ssize_t sent
    cdef int failed
    PyObject_GetBuffer(data, &buffer, PyBUF_SIMPLE)
    sent = send(fd, buffer.buf, buffer.len, MSG_DONTWAIT | MSG_NOSIGNAL)
    failed = errno
    PyBuffer_Release(&buffer)
    if sent >= 0:
        return sent
    if failed == EAGAIN or failed == EINTR:
        return 0
    raise _error(failed)


def is_quiet(int fd):
    """See `plain_transfer.is_quiet`."""
    cdef char byte
    return recv(fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) < 0 and errno == EAGAIN
