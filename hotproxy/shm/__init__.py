"""Shared memory: what survives every process of an instance, and can be read with all of them dead.

    object    one POSIX shared-memory object; a segment is a base object and, when that is full, chained ones
    schema    the append-only list of all statistics; it says which cells belong to which name
    cell      8 bytes, one signed number, exactly one writer
    slab      the cells of one process incarnation (serial, epoch, role, slot, pid, start time), and its heartbeat
    retired   the folded counters of the incarnations that are gone
    fold      adding a dead incarnation's slab to the retired totals

The supervisor is the only writer of everything but slabs (`segment`, `fold`); each process writes its own slab
(`cells`); anybody may read (`reader`). Byte by byte: docs/shm-layout.md.
"""
