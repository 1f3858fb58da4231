# cython: language_level=3, boundscheck=False, wraparound=False
"""What `plain_transfer.py` does, compiled: one buffer for all reads, and no exception where there is just nothing to do.

Memory: the kernel writes into an array of READ_BYTES, never told to write more; what it wrote is copied into an object
of that size before anything else runs. What is sent is held by its buffer while the kernel reads it.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.errno cimport EAGAIN, EINTR, errno

import os
import socket

from hotproxy.net import plain_transfer

cdef extern from "sys/socket.h" nogil:
    ctypedef unsigned int socklen_t
    struct sockaddr:
        unsigned short sa_family
    struct sockaddr_storage:
        pass
    int accept4(int fd, sockaddr* address, socklen_t* size, int flags)
    ssize_t recv(int fd, void* into, size_t size, int flags)
    ssize_t send(int fd, const void* data, size_t size, int flags)
    enum:
        MSG_DONTWAIT
        MSG_NOSIGNAL
        MSG_PEEK
        SOCK_NONBLOCK
        SOCK_CLOEXEC

cdef extern from "arpa/inet.h" nogil:
    struct in_addr:
        pass
    struct in6_addr:
        pass
    struct sockaddr_in:
        unsigned short sin_port
        in_addr sin_addr
    struct sockaddr_in6:
        unsigned short sin6_port
        unsigned int sin6_flowinfo
        in6_addr sin6_addr
        unsigned int sin6_scope_id
    enum:
        AF_INET
        AF_INET6
        INET6_ADDRSTRLEN
    const char* inet_ntop(int family, const void* address, char* text, socklen_t size)
    unsigned short ntohs(unsigned short number)
    unsigned int ntohl(unsigned int number)

cdef enum:
    READ_BYTES = 65536

if READ_BYTES != plain_transfer.READ_BYTES:
    raise ImportError("it was built from other sources: install again")

cdef char[READ_BYTES] INTO  # one thread reads

# What Python's own accept finds out by system calls and enums for each socket: that it is a non-blocking stream.
cdef object _Socket = socket.socket
cdef int _KIND = socket.SOCK_STREAM | SOCK_NONBLOCK


cdef object _error(int number):
    """The subclass of OSError that belongs to that errno."""
    return OSError(number, os.strerror(number))


def accept(listening):
    """See `plain_transfer.accept`."""
    cdef sockaddr_storage address
    cdef socklen_t size = sizeof(address)
    cdef int fd = accept4(listening.fileno(), <sockaddr*> &address, &size, SOCK_NONBLOCK | SOCK_CLOEXEC)
    if fd < 0:
        if errno == EAGAIN:
            return None
        raise _error(errno)
    cdef int family = (<sockaddr*> &address).sa_family
    sock = _Socket(family, _KIND, 0, fd)
    if family == AF_INET:
        return sock, _inet(<sockaddr_in*> &address)
    if family == AF_INET6 and not (<sockaddr_in6*> &address).sin6_scope_id:
        return sock, _inet6(<sockaddr_in6*> &address)
    try:
        return sock, sock.getpeername()
    except OSError:  # it has gone
        return sock, ""


cdef object _inet(sockaddr_in* address):
    cdef char[INET6_ADDRSTRLEN] text
    inet_ntop(AF_INET, &address.sin_addr, text, INET6_ADDRSTRLEN)
    return (<bytes> text).decode("ascii"), ntohs(address.sin_port)


cdef object _inet6(sockaddr_in6* address):
    cdef char[INET6_ADDRSTRLEN] text
    inet_ntop(AF_INET6, &address.sin6_addr, text, INET6_ADDRSTRLEN)
    return (<bytes> text).decode("ascii"), ntohs(address.sin6_port), ntohl(address.sin6_flowinfo), 0


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
