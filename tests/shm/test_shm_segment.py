"""A segment from its supervisor's side: growth, chaining, who may continue whose, and what a reader makes of it."""

import itertools
import os
import resource
import subprocess
import sys

import pytest

from hotproxy.shm import layout
from hotproxy.shm.cells import Slab, SlabPlace
from hotproxy.shm.layout import ShmAbsent, ShmError, segment_name
from hotproxy.shm.liveness import start_time
from hotproxy.shm.memory import SharedObject, open_objects
from hotproxy.shm.reader import HistogramValue, read
from hotproxy.shm.schema import COUNTER, GAUGE, HISTOGRAM, INSTANCE_GAUGE, SchemaError, Stat
from hotproxy.shm.segment import SLABS_PER_OBJECT, Segment
from hotproxy.shm.server_stats import RESTARTS, server_stats

STATS = [
    Stat("a", COUNTER),
    Stat("g", GAUGE),
    Stat("h", HISTOGRAM),
    Stat("m", INSTANCE_GAUGE),
    Stat("b", COUNTER, (("tag", "value"),), "family"),
]
# What the reader makes of the head.
DERIVED = {
    f"server.{name}"
    for name in (
        *("uptime", "live", "state", "concurrency", "version", "total_connections"),
        *("hot_restart_epoch", "hot_restart_generation"),
    )
}


@pytest.fixture
def segment(shm_name):
    made = Segment.create(shm_name, "1.2.3")
    made.add_stats(STATS)
    yield made
    made.close()


def start(segment: Segment, role: str = "worker", slot: int = 0, epoch: int = 1, pid: int | None = None) -> Slab:
    """A slab as a process would have it; the process is this one unless `pid` says another."""
    place = segment.allocate_slab(epoch, role, slot)
    slab = Slab.open(segment.name, SlabPlace.from_wire(place.to_wire()))
    segment.activate_slab(place.serial, os.getpid() if pid is None else pid)
    return slab


def dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def values(segment: Segment) -> dict[str, object]:
    return {name: value for name, value in read(segment.name).values.items() if name not in DERIVED}


def test_readers_add_up_the_slabs(segment):
    first, second = start(segment), start(segment, slot=1)
    first.counter("a").add(5)
    second.counter("a").inc()
    first.gauge("g").set(7)
    second.gauge("g").dec()
    second.histogram("h").record(100)
    assert values(segment) == {"a": 6, "g": 6, "h": HistogramValue(1, 100, ((103, 1),)), "m": 0, "b": 0}


def test_a_fold_keeps_counters_and_histograms_and_drops_gauges(segment):
    slab = start(segment)
    slab.counter("a").add(5)
    slab.gauge("g").set(7)
    slab.histogram("h").record(3)
    assert segment.fold(slab.serial)
    assert not segment.fold(slab.serial)
    assert values(segment) == {"a": 5, "g": 0, "h": HistogramValue(1, 3, ((3, 1),)), "m": 0, "b": 0}
    assert read(segment.name).processes == []


def test_a_dead_process_counts_but_its_gauges_do_not(segment):
    slab = start(segment, pid=dead_pid())
    slab.counter("a").inc()
    slab.gauge("g").inc()
    assert (values(segment)["a"], values(segment)["g"]) == (1, 0)
    assert segment.fold_the_dead() == 1
    assert (values(segment)["a"], values(segment)["g"]) == (1, 0)


def test_a_process_may_count_before_its_pid_is_known(segment):
    place = segment.allocate_slab(1, "worker", 0)
    Slab.open(segment.name, place).counter("a").inc()
    assert values(segment)["a"] == 1
    assert segment.fold_the_dead() == 0
    assert values(segment)["a"] == 1


def test_a_claim_lets_the_next_supervisor_judge(segment):
    place = segment.allocate_slab(1, "worker", 0)
    child = os.fork()
    if child == 0:
        slab = Slab.open(segment.name, place)
        slab.claim()
        slab.counter("a").inc()
        os._exit(0)
    os.waitpid(child, 0)
    assert segment.fold_the_dead() == 1
    assert values(segment)["a"] == 1


def test_an_instance_gauge_is_one_control_process_not_a_sum(segment):
    segment.epoch = 1
    old, new = start(segment, "control"), start(segment, "control", epoch=2)
    old.gauge("m").set(3)
    assert values(segment)["m"] == 3  # the new one has not published yet
    new.gauge("m").set(4)
    assert values(segment)["m"] == 3  # ... and does not accept yet
    segment.epoch = 2
    assert values(segment)["m"] == 4
    segment.fold(new.serial)
    assert values(segment)["m"] == 3
    start(segment, "worker").gauge("m").set(9)
    assert values(segment)["m"] == 3


def test_the_schema_grows_while_slabs_live(segment):
    old = start(segment)
    old.counter("a").inc()
    segment.add_stats([*STATS, Stat("c", COUNTER), Stat("h2", HISTOGRAM)])
    with pytest.raises(KeyError):
        old.counter("c")
    new = start(segment)
    new.counter("c").add(10)
    new.histogram("h2").record(1)
    old.counter("a").inc()
    expected = values(segment)
    assert (expected["a"], expected["c"], expected["h2"]) == (2, 10, HistogramValue(1, 1, ((1, 1),)))
    for slab in (old, new):
        segment.fold(slab.serial)
        assert values(segment) == expected


def test_a_known_name_with_another_kind_adds_nothing(segment):
    with pytest.raises(SchemaError, match="'a' has kind 1"):
        segment.add_stats([Stat("new", COUNTER), Stat("a", GAUGE)])
    assert "new" not in read(segment.name).stats


def test_tags_and_family_come_back(segment):
    assert read(segment.name).stats["b"] == STATS[-1]


def test_everything_chains_when_the_base_is_full(shm_name):
    segment = Segment.create(shm_name, size_bytes=64 * 1024, schema_bytes=8 * 1024, entries=2)
    total = 0
    slabs = []
    for number in range(12):
        segment.add_stats([Stat(f"cluster.{number}.{index}", COUNTER) for index in range(1000)])
        slabs.append(start(segment, slot=number))
        slabs[-1].counter(f"cluster.{number}.7").add(number)
        slabs[-1].counter("cluster.0.0").inc()
        total += 1
    assert len(segment.objects) > 1
    assert len(os.listdir("/dev/shm")) >= len(segment.objects)

    def check():
        found = values(segment)
        assert len(found) == 12_000
        assert found["cluster.0.0"] == total
        assert [found[f"cluster.{number}.7"] for number in range(12)] == list(range(12))

    check()
    again = Segment.attach(shm_name)
    assert again.schema.stats == segment.schema.stats
    for slab in slabs:
        again.fold(slab.serial)
        check()
        slab.close()
    again.close()
    segment.close()


def test_slabs_are_used_again_and_never_overlap(segment):
    objects = len(segment.objects)
    living = []
    for round_ in range(300):
        living.append(start(segment, slot=round_ % 4))
        living[-1].counter("a").inc()
        places = sorted((entry.shared.number, entry.offset, entry.cells) for entry in segment.entries())
        for (number, offset, cells), (next_number, next_offset, _) in itertools.pairwise(places):
            assert number < next_number or offset + layout.slab_bytes(cells) <= next_offset
        if len(living) == 5:
            slab = living.pop(round_ % 5)
            segment.fold(slab.serial)
            slab.close()
    assert len(segment.objects) == objects
    assert values(segment)["a"] == 300


def test_the_place_of_another_slab_is_refused(segment):
    place = segment.allocate_slab(1, "worker", 0)
    segment.fold(place.serial)
    segment.allocate_slab(1, "worker", 0)
    with pytest.raises(ShmError, match="no slab with serial"):
        Slab.open(segment.name, place)


def test_counting_after_close_is_an_error(segment):
    slab = start(segment)
    counter = slab.counter("a")
    slab.close()
    with pytest.raises(ValueError):
        counter.inc()


def test_the_head_of_a_slab(segment):
    slab = start(segment)
    slab.heartbeat_ns, slab.connections = 5, 6
    slab.buffered().add(7)
    vitals = segment.vitals(slab.serial)
    assert (vitals.heartbeat_ns, vitals.connections, vitals.buffered_bytes) == (5, 6, 7)
    process = read(segment.name).processes[0]
    assert (process.heartbeat_ns, process.connections, process.buffered_bytes) == (5, 6, 7)
    assert (process.role, process.slot, process.epoch, process.pid, process.alive) == (
        "worker",
        0,
        1,
        os.getpid(),
        True,
    )
    segment.fold(slab.serial)
    assert segment.vitals(slab.serial) is None


def test_the_supervisors_own_slab_survives_an_execve(segment):
    segment.add_stats(server_stats())
    slab = segment.own_slab()
    slab.counter(RESTARTS).inc()
    again = Segment.attach(segment.name)
    same = again.own_slab()
    assert same.serial == slab.serial
    same.counter(RESTARTS).inc()
    assert values(segment)[RESTARTS] == 2


def test_server_values_come_from_the_head(segment):
    segment.epoch, segment.concurrency, segment.state = 3, 4, layout.LIVE
    reading = read(segment.name, wall_s=lambda: segment.started_wall_ns / 1e9 + 12.5)
    assert {name: reading.values[name] for name in DERIVED} == {
        "server.uptime": 12,
        "server.live": 1,
        "server.state": layout.LIVE,
        "server.concurrency": 4,
        "server.hot_restart_epoch": 3,
        "server.hot_restart_generation": 3,
        "server.version": 10203,
        "server.total_connections": 0,
    }
    segment.mark_stopped()
    reading = read(segment.name)
    assert (reading.stopped, reading.values["server.live"], reading.values["server.uptime"]) == (True, 0, 0)
    assert (reading.version, reading.supervisor_pid, reading.supervisor_alive) == ("1.2.3", os.getpid(), True)


def test_a_crashed_supervisors_segment_is_continued(segment):
    slab = start(segment, pid=dead_pid())
    slab.counter("a").add(9)
    segment.supervisor_pid = dead_pid()
    logged = []
    again = Segment.open_or_create(segment.name, "1.2.4", logged.append)
    assert logged == []
    assert again.entries() == []
    assert (values(again)["a"], again.version, again.supervisor_pid) == (9, "1.2.4", os.getpid())


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda segment: segment.mark_stopped(), "was stopped"),
        (lambda segment: segment.objects[0].put(layout.O_BOOT_ID, 1), "before the machine was started"),
        (lambda segment: segment.objects[0].put(layout.O_LAYOUT, 99), "layout 99"),
        (lambda segment: segment.objects[0].put(layout.O_MAGIC, 0), "never finished"),
        (lambda segment: segment.objects[0].put(layout.O_SCHEMA_COMMITTED, 5), "schema is corrupt"),
        (lambda segment: segment.objects[0].put(segment.objects[0].directory, 9), "directory makes no sense"),
        (lambda segment: os.truncate(f"/dev/shm{segment.name}", 5000), "truncated"),
        (lambda segment: os.truncate(f"/dev/shm{segment.name}", 0), "truncated"),
        (lambda segment: os.chmod(f"/dev/shm{segment.name}", 0o666), "written by others"),
    ],
)
def test_what_cannot_be_continued_is_replaced_and_why_is_said(segment, spoil, why):
    spoil(segment)
    logged = []
    again = Segment.open_or_create(segment.name, "1", logged.append)
    assert len(logged) == 1
    assert why in logged[0]
    assert again.schema.stats == []
    assert read(segment.name).version == "1"


def test_a_running_supervisors_segment_is_not_taken(segment):
    process = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    segment.supervisor_pid, segment.supervisor_start = process.pid, start_time(process.pid)
    with pytest.raises(ShmError, match=f"running supervisor {process.pid}"):
        Segment.open_or_create(segment.name)
    process.communicate()
    Segment.open_or_create(segment.name)


def test_a_second_create_is_refused(segment):
    with pytest.raises(ShmError, match="exists already"):
        Segment.create(segment.name)


def test_nothing_there(shm_name):
    for attempt in (lambda: read(shm_name), lambda: Segment.attach(shm_name)):
        with pytest.raises(ShmAbsent, match="there is no shared memory"):
            attempt()


def test_unlink_removes_every_object(shm_name):
    segment = Segment.create(shm_name, size_bytes=16 * 1024, schema_bytes=8 * 1024, entries=1)
    segment.add_stats([Stat(str(index), COUNTER) for index in range(5000)])
    start(segment)
    start(segment)
    assert len(segment.objects) > 1
    segment.unlink()
    segment.close()
    assert [name for name in os.listdir("/dev/shm") if name.startswith(shm_name[1:])] == []


def test_mode_and_size(segment):
    status = os.stat(f"/dev/shm{segment.name}")
    assert status.st_mode & 0o777 == 0o640
    assert status.st_blocks * 512 >= status.st_size  # reserved, so never a SIGBUS
    assert status.st_size <= 2 * 1024 * 1024


def test_a_full_dev_shm_is_a_clear_error(shm_name):
    limit = 1 << 40  # more than any machine's
    with pytest.raises(ShmError, match=r"full|can't be made"):
        SharedObject.create(shm_name, 0, 1, bytes(16), 64, 1, limit)
    with pytest.raises(ShmAbsent):
        open_objects(shm_name)


def test_a_small_dev_shm_is_used_to_its_end(shm_name):
    """800 clusters reserved 87 MiB for slabs that might come, and a container with 64 MiB refused to start."""
    segment = Segment.create(shm_name)
    stats = [Stat(f"cluster.{number}.upstream_rq_time", HISTOGRAM) for number in range(1000)]  # a slab of 2.7 MB
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8 << 20, before[1]))  # stands for a small tmpfs; Python ignores SIGXFSZ
    try:
        segment.add_stats(stats)
        slabs = [start(segment, slot=slot) for slot in range(2)]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    for slab in slabs:
        slab.histogram("cluster.999.upstream_rq_time").record(1)
        slab.close()
    assert values(segment)["cluster.999.upstream_rq_time"] == HistogramValue(2, 2, ((1, 2),))
    segment.close()


def test_spare_room_is_for_slabs_not_for_totals(shm_name):
    segment = Segment.create(shm_name)
    segment.add_stats([Stat(f"cluster.{number}.upstream_rq_time", HISTOGRAM) for number in range(1000)])
    slab_bytes = layout.slab_bytes(segment.schema.cells)
    assert segment.objects[-1].arena_bytes < (SLABS_PER_OBJECT + 3) * slab_bytes
    slabs = [start(segment, slot=slot) for slot in range(SLABS_PER_OBJECT)]
    assert len(segment.objects) == 2
    for slab in slabs:
        slab.close()
    segment.close()


def test_names_of_two_runtime_dirs_differ(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "a")
    name = segment_name("web", str(tmp_path / "a"))
    assert name.startswith("/hotproxy.web.")
    assert name.endswith(f".v{layout.LAYOUT_VERSION}")
    assert name == segment_name("web", str(tmp_path / "link"))
    assert name != segment_name("web", str(tmp_path))
    assert name != segment_name("web2", str(tmp_path / "a"))
    for bad in ("", "a/b", "a\0b", "x" * 200):
        with pytest.raises(ShmError):
            segment_name(bad, str(tmp_path))


def test_the_total_of_one_process_by_name(shm_name):
    segment = Segment.create(shm_name)
    segment.add_stats(
        [Stat(f"listener.{name}.cx_active", GAUGE) for name in "ab"] + [Stat("listener.a.cx_total", COUNTER)]
    )
    first, second = start(segment), start(segment, slot=1)
    for slab, amount in ((first, 2), (second, 40)):
        for name in "ab":
            slab.gauge(f"listener.{name}.cx_active").add(amount)
        slab.counter("listener.a.cx_total").add(1000)
    segment.add_stats([Stat("listener.c.cx_active", GAUGE)])  # younger than these slabs
    assert segment.total(first.serial, "listener.", ".cx_active") == 4
    assert segment.total(second.serial, "listener.", ".cx_active") == 80
    assert segment.total(12345, "listener.", ".cx_active") == 0
    for slab in (first, second):
        slab.close()
    segment.close()
