"""One shared-memory object: made, opened, checked and mapped. What lies in it is the business of others.

Nothing is touched before the object's size is known to cover it, so a truncated one is an error and never a SIGBUS;
space is reserved when an object is made, so a full /dev/shm is an error then and never a SIGBUS later.
"""

from __future__ import annotations

import errno
import mmap
import os
import stat
import sys
from typing import Final

import posix_ipc

from hotproxy.errors import EXIT_NOT_PERMITTED
from hotproxy.shm.bulk import no_collections
from hotproxy.shm.layout import (
    CACHE_LINE_BYTES,
    ENTRY_WORDS,
    LAYOUT_VERSION,
    MAGIC,
    MAX_OBJECT_BYTES,
    MAX_OBJECTS,
    O_ARENA,
    O_ARENA_BYTES,
    O_BOOT_ID,
    O_DIRECTORY,
    O_DIRECTORY_ENTRIES,
    O_LAYOUT,
    O_MAGIC,
    O_NONCE,
    O_NUMBER,
    O_OBJECTS,
    O_SCHEMA,
    O_SCHEMA_CAPACITY,
    O_SCHEMA_COMMITTED,
    O_SIZE,
    PAGE_BYTES,
    WORD_BYTES,
    ShmAbsent,
    ShmError,
    align,
    fence,
    object_name,
)
from hotproxy.shm.schema import Schema, decode_entries

_MAGIC_WORD: Final = int.from_bytes(MAGIC, sys.byteorder)
_SWAPPED_WORD: Final = int.from_bytes(MAGIC[::-1], sys.byteorder)
# Owner writes, group reads (an operator's or a monitoring agent's), others nothing.
MODE: Final = 0o640


class SharedObject:
    """A mapped object. `words` is all of it as 8-byte numbers: byte offset o is `words[o >> 3]`."""

    __slots__ = (
        "arena",
        "arena_bytes",
        "directory",
        "directory_entries",
        "map",
        "name",
        "number",
        "schema",
        "schema_capacity",
        "size",
        "words",
    )

    def __init__(self, name: str, memory: mmap.mmap) -> None:
        self.name = name  # of this object, not of the segment
        self.map = memory
        self.words = memoryview(memory).cast("q")
        self.number = self.get(O_NUMBER)
        self.size = self.get(O_SIZE)
        self.schema = self.get(O_SCHEMA)
        self.schema_capacity = self.get(O_SCHEMA_CAPACITY)
        self.directory = self.get(O_DIRECTORY)
        self.directory_entries = self.get(O_DIRECTORY_ENTRIES)
        self.arena = self.get(O_ARENA)
        self.arena_bytes = self.get(O_ARENA_BYTES)

    @classmethod
    def create(
        cls, segment: str, number: int, nonce: int, boot: bytes, schema_bytes: int, entries: int, arena_bytes: int
    ) -> SharedObject:
        """Make object `number` of a segment, zeroed. It is valid, but nobody knows of it before `publish`.

        Raises ShmError when it exists, is not permitted, or when /dev/shm has no room.
        """
        name = object_name(segment, number)
        schema = PAGE_BYTES
        directory = schema + align(schema_bytes, CACHE_LINE_BYTES)
        arena = directory + entries * ENTRY_WORDS * WORD_BYTES
        size = align(arena + arena_bytes, PAGE_BYTES)
        fd = _shm_create(name)
        try:
            os.fchmod(fd, MODE)  # whatever the umask is
            os.posix_fallocate(fd, 0, size)
            memory = mmap.mmap(fd, size)
        except OSError as error:
            remove_object(name)
            if error.errno == errno.ENOSPC:
                raise ShmError(f"/dev/shm is full: {size} bytes were needed for {name}") from None
            raise ShmError(f"shared memory {name} of {size} bytes can't be made: {error.strerror}") from None
        finally:
            os.close(fd)
        words = memoryview(memory).cast("q")
        for offset, value in (
            (O_LAYOUT, LAYOUT_VERSION),
            (O_SIZE, size),
            (O_NUMBER, number),
            (O_NONCE, nonce),
            (O_SCHEMA, schema),
            (O_SCHEMA_CAPACITY, directory - schema),
            (O_DIRECTORY, directory),
            (O_DIRECTORY_ENTRIES, entries),
            (O_ARENA, arena),
            (O_ARENA_BYTES, size - arena),
        ):
            words[offset >> 3] = value
        words.release()
        memory[O_BOOT_ID : O_BOOT_ID + 16] = boot
        return cls(name, memory)

    def publish(self) -> None:
        """From now on it is a hotproxy object to whoever opens it."""
        fence()
        self.put(O_MAGIC, _MAGIC_WORD)

    @classmethod
    def open(cls, segment: str, number: int, writable: bool, owner_uid: int | None = None) -> SharedObject:
        """Map an existing object, checked.

        A writer must own it; a reader accepts what belongs to `owner_uid`, to itself or to root (everything, when it
        is root). Raises ShmAbsent, or ShmError that says what is wrong with it.
        """
        name = object_name(segment, number)
        fd = _shm_open(name, writable)
        try:
            status = os.fstat(fd)
            _check_owner(name, status, writable, owner_uid)
            size = _check_head(name, number, os.pread(fd, PAGE_BYTES, 0), status.st_size)
            memory = mmap.mmap(fd, size, access=mmap.ACCESS_WRITE if writable else mmap.ACCESS_READ)
        except OSError as error:
            raise ShmError(f"shared memory {name} can't be mapped: {error.strerror}") from None
        finally:
            os.close(fd)
        return cls(name, memory)

    def get(self, offset: int) -> int:
        value: int = self.words[offset >> 3]
        return value

    def put(self, offset: int, value: int) -> None:
        self.words[offset >> 3] = value

    def holds(self, offset: int, size: int, to: int = WORD_BYTES) -> bool:
        """Whether `size` bytes at `offset` lie within the arena, aligned to `to` bytes."""
        return offset % to == 0 and self.arena <= offset and 0 <= size <= self.arena + self.arena_bytes - offset

    def close(self) -> None:
        """Unmap. Whoever still counts in it gets a ValueError."""
        self.words.release()
        self.map.close()


def open_objects(segment: str, writable: bool = False, owner_uid: int | None = None) -> list[SharedObject]:
    """All objects of a segment, the base first. Raises ShmAbsent or ShmError."""
    objects = [SharedObject.open(segment, 0, writable, owner_uid)]
    try:
        open_chained(objects, segment, writable, owner_uid)
    except BaseException:
        close_objects(objects)
        raise
    return objects


def open_chained(objects: list[SharedObject], segment: str, writable: bool, owner_uid: int | None = None) -> None:
    """Open those that the base lists and `objects` lacks. Raises ShmError."""
    count = objects[0].get(O_OBJECTS)
    if not 1 <= count <= MAX_OBJECTS:
        raise ShmError(f"shared memory {segment} is corrupt: it claims {count} objects")
    while len(objects) < count:
        try:
            chained = SharedObject.open(segment, len(objects), writable, owner_uid)
        except ShmAbsent:
            raise ShmError(f"shared memory {segment} is corrupt: its object {len(objects)} is missing") from None
        objects.append(chained)
        if chained.get(O_NONCE) != objects[0].get(O_NONCE):
            raise ShmError(f"shared memory {chained.name} is corrupt: it belongs to another segment")


def close_objects(objects: list[SharedObject]) -> None:
    while objects:
        objects.pop().close()


def read_schema(objects: list[SharedObject]) -> Schema:
    """The schema of all objects together. Raises SchemaError where it is none."""
    schema = Schema()
    with no_collections():
        for shared in objects:
            committed = shared.get(O_SCHEMA_COMMITTED)
            if not 0 <= committed <= shared.schema_capacity:
                raise ShmError(f"shared memory {shared.name} is corrupt: its schema claims {committed} bytes")
            for entry in decode_entries(shared.map[shared.schema : shared.schema + committed]):
                schema.append(entry)
    return schema


def remove_object(name: str) -> bool:
    """Unlink one object; False when there is none. Raises ShmError when it is not permitted."""
    try:
        posix_ipc.unlink_shared_memory(name)
    except posix_ipc.ExistentialError:
        return False
    except posix_ipc.PermissionsError:
        raise ShmError(f"shared memory {name} belongs to another user", EXIT_NOT_PERMITTED) from None
    except OSError as error:  # a read-only /dev/shm
        raise ShmError(f"shared memory {name} can't be removed: {error.strerror}") from None
    return True


def remove_segment(segment: str) -> None:
    """Unlink every object of a segment, however many it has. Processes that have mapped it keep their memory."""
    for number in range(MAX_OBJECTS + 1):
        if not remove_object(object_name(segment, number)) and number > 0:
            return


def _shm_create(name: str) -> int:
    try:
        return int(posix_ipc.SharedMemory(name, posix_ipc.O_CREX, mode=MODE).fd)
    except posix_ipc.ExistentialError:
        raise ShmError(f"shared memory {name} exists already") from None
    except (posix_ipc.Error, OSError, ValueError) as error:
        raise ShmError(f"shared memory {name} can't be made: {error}") from None


def _shm_open(name: str, writable: bool) -> int:
    try:
        return int(posix_ipc.SharedMemory(name, read_only=not writable).fd)
    except posix_ipc.ExistentialError:
        raise ShmAbsent(f"there is no shared memory {name}") from None
    except posix_ipc.PermissionsError:
        raise ShmError(f"shared memory {name} may not be read by this user", EXIT_NOT_PERMITTED) from None
    except (posix_ipc.Error, OSError, ValueError) as error:
        raise ShmError(f"shared memory {name} can't be opened: {error}") from None


def _check_owner(name: str, status: os.stat_result, writable: bool, owner_uid: int | None) -> None:
    me = os.geteuid()
    trusted = status.st_uid == me if writable else me == 0 or status.st_uid in (me, 0, owner_uid)
    if not trusted:
        raise ShmError(f"shared memory {name} belongs to uid {status.st_uid}, not to this instance", EXIT_NOT_PERMITTED)
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise ShmError(f"shared memory {name} can be written by others, so it is not trusted")


def _check_head(name: str, number: int, page: bytes, actual: int) -> int:
    """The object's size, once page 0 makes sense."""
    if len(page) < PAGE_BYTES:
        raise ShmError(f"shared memory {name} is truncated: it has {actual} bytes, not even one page")
    words = memoryview(page).cast("q")
    magic = words[O_MAGIC >> 3]
    if magic == 0:
        raise ShmError(f"shared memory {name} is not a hotproxy segment, or was never finished")
    if magic == _SWAPPED_WORD:
        raise ShmError(f"shared memory {name} has the other byte order")
    if magic != _MAGIC_WORD:
        raise ShmError(f"shared memory {name} is not a hotproxy segment: its magic is {page[:8]!r}")
    if words[O_LAYOUT >> 3] != LAYOUT_VERSION:
        raise ShmError(
            f"shared memory {name} has layout {words[O_LAYOUT >> 3]}, this version of hotproxy reads {LAYOUT_VERSION}"
        )
    size = words[O_SIZE >> 3]
    if not PAGE_BYTES <= size <= MAX_OBJECT_BYTES or size % PAGE_BYTES:
        raise ShmError(f"shared memory {name} is corrupt: it claims a size of {size} bytes")
    if actual < size:
        raise ShmError(f"shared memory {name} is truncated: it has {actual} of {size} bytes")
    if words[O_NUMBER >> 3] != number:
        raise ShmError(f"shared memory {name} is corrupt: it claims to be object {words[O_NUMBER >> 3]}")
    for area, offset, length, to in (
        ("schema", words[O_SCHEMA >> 3], words[O_SCHEMA_CAPACITY >> 3], WORD_BYTES),
        ("directory", words[O_DIRECTORY >> 3], words[O_DIRECTORY_ENTRIES >> 3] * ENTRY_WORDS * WORD_BYTES, WORD_BYTES),
        ("arena", words[O_ARENA >> 3], words[O_ARENA_BYTES >> 3], CACHE_LINE_BYTES),
    ):
        if not PAGE_BYTES <= offset <= size or offset % to or not 0 <= length <= size - offset:
            raise ShmError(f"shared memory {name} is corrupt: its {area} lies outside of it")
    return size
