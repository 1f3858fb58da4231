"""Where every byte of a segment lies: the numbers that writers and readers of all versions agree on.

The picture and the meaning of each field are in docs/shm-layout.md; a change of meaning raises `LAYOUT_VERSION`.
Offsets are bytes from the start of an object, numbers are 8 bytes, signed, native byte order.
"""

from __future__ import annotations

import hashlib
import os
import re
import threading
from typing import Final

from hotproxy.errors import EXIT_REFUSED, EXIT_UNREACHABLE, HotproxyError

LAYOUT_VERSION: Final = 1
# Read as one number it also tells a segment of the other byte order.
MAGIC: Final = b"hotproxy"

PAGE_BYTES: Final = 4096
WORD_BYTES: Final = 8
# Slabs begin on a cache line of their own: two processes never write to the same line.
CACHE_LINE_BYTES: Final = 64

# --- page 0 of every object ---
O_MAGIC: Final = 0  # written last: an object without it was never finished
O_LAYOUT: Final = 8
O_SIZE: Final = 16  # of this object
O_NUMBER: Final = 24  # 0 is the base object, chained ones count from 1
O_BOOT_ID: Final = 32  # 16 bytes
O_NONCE: Final = 48  # the same in all objects of a segment
O_SCHEMA: Final = 64  # offset, ...
O_SCHEMA_CAPACITY: Final = 72
O_SCHEMA_COMMITTED: Final = 80  # ... and how much of it is valid, written last
O_DIRECTORY: Final = 88
O_DIRECTORY_ENTRIES: Final = 96
O_ARENA: Final = 104
O_ARENA_BYTES: Final = 112
O_CHUNKS_COMMITTED: Final = 120
# --- page 0 of the base object only ---
O_FLIPS: Final = 128  # how often retired totals were replaced; the low bit says which buffer is active
O_INCLUDED: Final = 136  # two words: the serial whose slab buffer 0 (1) includes although it may still be listed
O_OBJECTS: Final = 152  # objects in this segment, the base included
O_NEXT_SERIAL: Final = 160
O_SUPERVISOR_PID: Final = 168
O_SUPERVISOR_START: Final = 176  # clock ticks since boot, /proc/<pid>/stat field 22
O_STATE: Final = 184  # LIVE ...
O_STOPPED: Final = 192  # 1 after a clean stop
O_EPOCH: Final = 200  # of the generation that accepts
O_LAST_EPOCH: Final = 208  # the highest that was ever given out
O_STARTED_WALL_NS: Final = 216
O_CONCURRENCY: Final = 224
O_VERSION: Final = 256  # 64 bytes UTF-8, zero-padded
VERSION_BYTES: Final = 64

# --- the rest of page 0: the chunks of the retired totals that lie in this object ---
O_CHUNKS: Final = 1024
CHUNK_WORDS: Final = 4  # first cell, cells, offset of buffer 0, offset of buffer 1
MAX_CHUNKS: Final = (PAGE_BYTES - O_CHUNKS) // (CHUNK_WORDS * WORD_BYTES)
# Chunks cover a multiple of this, so that a reload that adds a few names needs no new one.
CHUNK_CELLS: Final = 512

# --- one entry of the directory ---
ENTRY_WORDS: Final = 8
E_STATE: Final = 0  # FREE, RESERVED or TAKEN; written last and read first
E_SERIAL: Final = 1
E_EPOCH: Final = 2
E_ROLE_SLOT: Final = 3  # role << 32 | slot
E_PID: Final = 4  # 0 until the supervisor knows it
E_START: Final = 5
E_OFFSET: Final = 6  # of the slab, in the same object
E_CELLS: Final = 7
FREE: Final = 0
RESERVED: Final = 1
TAKEN: Final = 2

# --- the head of a slab; cells follow it ---
SLAB_HEAD_BYTES: Final = 64
S_SERIAL: Final = 0
S_PID: Final = 1  # written by the process itself
S_START: Final = 2
S_HEARTBEAT_NS: Final = 3  # CLOCK_MONOTONIC
S_CONNECTIONS: Final = 4
S_BUFFERED_BYTES: Final = 5

# server.state, Envoy's numbers (admin/v3/server_info.proto).
LIVE: Final = 0
DRAINING: Final = 1
PRE_INITIALIZING: Final = 2
INITIALIZING: Final = 3

ROLES: Final = ("supervisor", "zygote", "worker", "control")

# What fits a small instance with room to spare: 64 slabs of 1,500 cells. A container's /dev/shm has 64 MiB.
BASE_OBJECT_BYTES: Final = 1024 * 1024
SCHEMA_BYTES: Final = 128 * 1024
DIRECTORY_ENTRIES: Final = 64
# A corrupt size must not make a reader map the machine's memory.
MAX_OBJECT_BYTES: Final = 1 << 30
MAX_OBJECTS: Final = 64

_INSTANCE: Final = re.compile(r"[A-Za-z0-9_.@+-]{1,128}")


class ShmError(HotproxyError):
    """Shared memory that is absent, foreign, of another layout or corrupt; the message is one clear sentence."""


class ShmAbsent(ShmError):
    """There is no segment of that name."""

    def __init__(self, message: str) -> None:
        super().__init__(message, EXIT_UNREACHABLE)


def segment_name(instance: str, runtime_dir: str, layout: int = LAYOUT_VERSION) -> str:
    """The name of an instance's base object. Instances of one name in two runtime directories differ.

    Raises ShmError when `instance` can't be part of a name in /dev/shm.
    """
    if not _INSTANCE.fullmatch(instance):
        raise ShmError(f"instance name {instance!r} may have 1 to 128 of A-Z a-z 0-9 _ . @ + -", EXIT_REFUSED)
    digest = hashlib.sha256(os.fsencode(os.path.realpath(runtime_dir))).hexdigest()[:8]
    return f"/hotproxy.{instance}.{digest}.v{layout}"


def object_name(segment: str, number: int) -> str:
    return segment if number == 0 else f"{segment}.{number}"


def align(value: int, to: int) -> int:
    """The smallest multiple of `to` that is not below `value`."""
    return -(-value // to) * to


def slab_bytes(cells: int) -> int:
    return align(SLAB_HEAD_BYTES + cells * WORD_BYTES, CACHE_LINE_BYTES)


_ordering: Final = threading.Lock()
_ordering.acquire()


def fence() -> None:
    """Stores before it are seen before stores after it, loads likewise.

    x86 keeps that order by itself; ARM needs a release and an acquire, and Python has no other name for them. The
    lock belongs to this process and is held between calls; nobody ever waits for it.
    """
    _ordering.release()
    _ordering.acquire()
