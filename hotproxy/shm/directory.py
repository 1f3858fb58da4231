"""The directory of slabs: which process incarnation has which slab, and who is gone.

    FREE --supervisor lays out a zeroed slab--> RESERVED --it learns the pid--> TAKEN --folded--> FREE

The state is written last, and read first. A process may count while its slab is still RESERVED: it is forked before
the supervisor knows its pid, so readers add up both states.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from hotproxy.shm.layout import (
    E_CELLS,
    E_EPOCH,
    E_OFFSET,
    E_PID,
    E_ROLE_SLOT,
    E_SERIAL,
    E_START,
    E_STATE,
    ENTRY_WORDS,
    FREE,
    RESERVED,
    ROLES,
    S_PID,
    S_START,
    SLAB_HEAD_BYTES,
    TAKEN,
    WORD_BYTES,
    ShmError,
    fence,
)
from hotproxy.shm.liveness import is_alive
from hotproxy.shm.memory import SharedObject


@dataclass(frozen=True, slots=True)
class Entry:
    """One used entry, as it was when it was read. `pid` and `start` are 0 while nobody has told them."""

    shared: SharedObject
    index: int
    state: int
    serial: int
    epoch: int
    role: str
    slot: int
    pid: int
    start: int
    offset: int  # of the slab, bytes
    cells: int

    @property
    def first_word(self) -> int:
        """Of the slab's cells, in the words of its object."""
        return (self.offset + SLAB_HEAD_BYTES) // WORD_BYTES

    def head(self, word: int) -> int:
        """One word of the slab's head."""
        value: int = self.shared.words[self.offset // WORD_BYTES + word]
        return value

    @property
    def process(self) -> int:
        """Its pid, as the supervisor or the process itself has said it; 0: nobody has yet."""
        return self.pid if self.state == TAKEN else self.head(S_PID)

    def alive(self) -> bool:
        """Whether the process still runs; one that nobody knows yet counts as alive."""
        if self.state == TAKEN:
            return is_alive(self.pid, self.start)
        pid = self.head(S_PID)
        return pid == 0 or is_alive(pid, self.head(S_START))


def read_entries(shared: SharedObject) -> list[Entry]:
    """The used entries of one object. Raises ShmError where one makes no sense."""
    first = shared.directory // WORD_BYTES
    words = shared.words[first : first + shared.directory_entries * ENTRY_WORDS].tolist()
    entries = []
    for index in range(shared.directory_entries):
        at = index * ENTRY_WORDS
        state = words[at + E_STATE]
        if state == FREE:
            continue
        role, slot = words[at + E_ROLE_SLOT] >> 32, words[at + E_ROLE_SLOT] & 0xFFFFFFFF
        offset, cells = words[at + E_OFFSET], words[at + E_CELLS]
        if (
            state not in (RESERVED, TAKEN)
            or not 0 <= role < len(ROLES)
            or not 0 <= cells < shared.size
            or not shared.holds(offset, SLAB_HEAD_BYTES + cells * WORD_BYTES, SLAB_HEAD_BYTES)
        ):
            raise ShmError(f"shared memory {shared.name} is corrupt: entry {index} of its directory makes no sense")
        entry = Entry(
            shared,
            index,
            state,
            words[at + E_SERIAL],
            words[at + E_EPOCH],
            ROLES[role],
            slot,
            words[at + E_PID] if state == TAKEN else 0,
            words[at + E_START] if state == TAKEN else 0,
            offset,
            cells,
        )
        if entry.head(0) != entry.serial:
            raise ShmError(f"shared memory {shared.name} is corrupt: entry {index} points to another's slab")
        entries.append(entry)
    return entries


def find(objects: Iterable[SharedObject], serial: int) -> Entry | None:
    for shared in objects:
        for entry in read_entries(shared):
            if entry.serial == serial:
                return entry
    return None


def free_index(shared: SharedObject) -> int | None:
    """An entry that can be used, if there is one."""
    first = shared.directory // WORD_BYTES
    for index in range(shared.directory_entries):
        if shared.words[first + index * ENTRY_WORDS + E_STATE] == FREE:
            return index
    return None


def reserve(
    shared: SharedObject, index: int, serial: int, epoch: int, role: str, slot: int, offset: int, cells: int
) -> None:
    """Zero the slab, then list it. Until the last store nobody knows of it."""
    words = shared.words
    first = offset // WORD_BYTES
    size = SLAB_HEAD_BYTES + cells * WORD_BYTES
    shared.map[offset : offset + size] = bytes(size)
    words[first] = serial
    at = shared.directory // WORD_BYTES + index * ENTRY_WORDS
    words[at + E_SERIAL] = serial
    words[at + E_EPOCH] = epoch
    words[at + E_ROLE_SLOT] = ROLES.index(role) << 32 | slot
    words[at + E_PID] = 0
    words[at + E_START] = 0
    words[at + E_OFFSET] = offset
    words[at + E_CELLS] = cells
    fence()
    words[at + E_STATE] = RESERVED


def take(entry: Entry, pid: int, start: int) -> None:
    """The process is known now."""
    words = entry.shared.words
    at = entry.shared.directory // WORD_BYTES + entry.index * ENTRY_WORDS
    words[at + E_PID] = pid
    words[at + E_START] = start
    fence()
    words[at + E_STATE] = TAKEN


def release(entry: Entry) -> None:
    """Nobody's from now on. Only after a fold: readers that still look at the slab notice its flip, and start over."""
    fence()
    entry.shared.words[entry.shared.directory // WORD_BYTES + entry.index * ENTRY_WORDS + E_STATE] = FREE
