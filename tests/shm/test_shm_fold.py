"""A supervisor killed at any bytecode of a fold or of a growth: nothing counts twice, nothing is lost.

A child does the work with a tracer that sends itself SIGKILL at the n-th opcode inside hotproxy/shm; for each n the
parent reads what is left, continues as the next supervisor would, and reads again.
"""

import os
import random
import signal
import subprocess
import sys

import pytest

from hotproxy.shm.cells import Slab
from hotproxy.shm.reader import HistogramValue, read
from hotproxy.shm.schema import COUNTER, GAUGE, HISTOGRAM, Stat
from hotproxy.shm.segment import Segment

STATS = [Stat("a", COUNTER), Stat("g", GAUGE), Stat("b", COUNTER)]
SURVIVED = 7  # an exit code that no interpreter makes by itself


@pytest.fixture
def segment(shm_name):
    made = Segment.create(shm_name, entries=3)  # a short directory: fewer opcodes to be killed at
    made.add_stats(STATS)
    yield made
    made.close()


def start(segment: Segment, pid: int) -> Slab:
    place = segment.allocate_slab(1, "worker", 0)
    slab = Slab.open(segment.name, place)
    segment.activate_slab(place.serial, pid)
    return slab


@pytest.fixture(scope="module")
def gone() -> int:
    """The pid of a process that is gone."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def killed_at(opcode: int, work) -> bool:
    """Do `work` in a child that is killed at its n-th opcode within hotproxy/shm. False: it finished before."""
    child = os.fork()
    if child == 0:
        left = opcode

        def trace(frame, event, argument):
            nonlocal left
            if "/hotproxy/shm/" not in frame.f_code.co_filename:
                return None
            frame.f_trace_opcodes = True
            if event == "opcode":
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
            return trace

        try:
            sys.settrace(trace)
            work()
            sys.settrace(None)
            os._exit(SURVIVED)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return True
    assert os.waitstatus_to_exitcode(status) == SURVIVED
    return False


def counted(name: str) -> tuple[object, ...]:
    values = read(name).values
    return values["a"], values["g"], values["b"]


def test_a_fold_killed_at_every_opcode_counts_exactly_once(segment, gone):
    a = b = 0
    opcode = 0
    while True:
        opcode += 1
        slab = start(segment, gone)
        slab.counter("a").add(opcode)
        slab.counter("b").inc()
        slab.gauge("g").set(1000)
        a, b = a + opcode, b + 1
        assert counted(segment.name) == (a, 0, b)
        killed = killed_at(opcode, lambda serial=slab.serial: segment.fold(serial))
        assert counted(segment.name) == (a, 0, b), opcode
        successor = Segment.attach(segment.name)
        assert counted(segment.name) == (a, 0, b), opcode
        successor.fold_the_dead()
        assert successor.entries() == []
        successor.close()
        slab.close()
        assert counted(segment.name) == (a, 0, b), opcode
        if not killed:
            break
    assert opcode > 200
    assert len(segment.objects) == 1


# Growing takes a few thousand opcodes: a step of 7 meets each line, and the long suite each opcode.
@pytest.mark.parametrize("offset", [0, *(pytest.param(offset, marks=pytest.mark.slow) for offset in range(1, 7))])
def test_a_growth_killed_at_any_moment_can_be_repeated(shm_name, gone, offset):
    segment = Segment.create(shm_name, size_bytes=16 * 1024, schema_bytes=4 * 1024, entries=2)
    segment.add_stats(STATS)
    slab = start(segment, gone)
    slab.counter("a").add(5)
    grown = 0
    opcode = offset
    while True:
        opcode += 7
        grown += 1
        more = [Stat(f"round.{grown}.{index}", COUNTER) for index in range(3)]
        more.append(Stat(f"histogram.{grown}", HISTOGRAM))

        def work(segment=segment, more=more):
            segment.add_stats(more)
            segment.allocate_slab(1, "worker", 1)

        killed = killed_at(opcode, work)
        assert counted(shm_name) == (5, 0, 0), opcode
        segment.close()
        segment = Segment.attach(shm_name)
        segment.add_stats(more)
        for entry in segment.entries():
            if entry.serial != slab.serial:
                segment.fold(entry.serial)  # reserved, never forked
        new = start(segment, gone)
        new.counter(more[0].name).add(grown)
        new.histogram(more[3].name).record(grown)
        segment.fold(new.serial)
        new.close()
        values = read(shm_name).values
        assert values[more[0].name] == grown
        assert values[more[3].name].sum == grown
        assert all(values[f"round.{number}.0"] == number for number in range(1, grown + 1))
        if not killed or opcode > 700:
            break
    segment.close()
    slab.close()


def test_a_reader_sees_only_growing_counters_during_thousands_of_folds(segment, gone):
    reader = os.fork()
    if reader == 0:
        status = 1
        try:
            last, reads = (0, 0), 0
            while last[0] < 3000:
                values = read(segment.name).values
                now = (values["a"], values["b"])
                assert now[0] >= last[0]
                assert now[1] >= last[1]
                assert 0 <= now[1] - now[0] <= 1  # "b" is counted before "a", and "a" is read before "b"
                last, reads = now, reads + 1
            status = 0 if reads > 10 else 2
        finally:
            os._exit(status)
    for _ in range(3000):
        slab = start(segment, gone)
        slab.counter("b").inc()
        slab.counter("a").inc()
        segment.fold(slab.serial)
        slab.close()
    _, status = os.waitpid(reader, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert read(segment.name).values["a"] == 3000


def test_histograms_fold(shm_name, gone):
    segment = Segment.create(shm_name)
    segment.add_stats([Stat("h", HISTOGRAM)])
    for value in (1, 1, 40):
        slab = start(segment, gone)
        slab.histogram("h").record(value)
        segment.fold(slab.serial)
    assert read(shm_name).values["h"] == HistogramValue(3, 42, ((1, 2), (41, 1)))


def test_a_slab_full_of_garbage_does_not_stop_the_fold(segment, gone):
    for _ in range(3):
        slab = start(segment, gone)
        slab.counter("a").add(2**63 - 1)
        slab.counter("b").inc()
    assert segment.fold_the_dead() == 3
    assert counted(segment.name) == (2**63 - 1, 0, 3)


def test_many_deaths_at_once(segment, gone):
    for number in range(200):  # more than one directory holds
        slab = start(segment, gone)
        slab.counter("a").add(number)
        slab.close()
    assert segment.fold_the_dead() == 200
    assert segment.entries() == []
    assert counted(segment.name) == (sum(range(200)), 0, 0)


def test_a_living_process_is_not_disturbed_by_what_happens_to_its_supervisors(segment, gone):
    place = segment.allocate_slab(1, "worker", 0)
    worker = os.fork()
    if worker == 0:
        slab = Slab.open(segment.name, place)
        counter = slab.counter("a")
        for _ in range(200_000):
            counter.inc()
        os._exit(0)
    segment.activate_slab(place.serial, worker)

    def folds() -> None:
        supervisor = Segment.attach(segment.name)
        for _ in range(5):
            supervisor.fold(start(supervisor, gone).serial)

    last = 0
    moments = random.Random(5)
    for _ in range(30):
        killed_at(moments.randrange(1, 4000), folds)
        successor = Segment.attach(segment.name)
        successor.fold_the_dead()
        successor.close()
        now = read(segment.name).values["a"]
        assert last <= now <= 200_000
        last = now
    os.waitpid(worker, 0)
    successor = Segment.attach(segment.name)
    successor.fold_the_dead()
    assert read(segment.name).values["a"] == 200_000
    successor.close()
