"""The bench of the garbage collector's pauses: what it notes is what happened, in the process where it happened."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench import collector
from bench.collector import Collection, Phase, notes, read, summary
from tests.kit.origin import need


@pytest.fixture
def noted(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "collections"
    callback = notes(str(path), sizes=True)
    gc.callbacks.append(callback)
    yield path
    gc.callbacks.remove(callback)


def test_each_collection_is_noted_with_its_generation_and_what_it_found(noted: Path) -> None:
    gc.collect()
    before = len(read(noted, os.getpid()))
    cycle: list[object] = []
    cycle.append(cycle)
    del cycle
    gc.collect(1)
    gc.collect(2)
    first, second = read(noted, os.getpid())[before:][:2]
    assert (first.generation, first.collected, second.generation) == (1, 1, 2)
    assert 0 < first.objects < second.objects, "the oldest generation has everything"
    assert first.began_ns + first.took_ns <= second.began_ns and first.cpu_ns > 0


def test_a_forked_process_notes_its_own(noted: Path) -> None:
    gc.collect()
    pid = os.fork()
    if pid == 0:
        gc.collect()
        os._exit(0)
    os.waitpid(pid, 0)
    assert [each.pid for each in read(noted, pid)] == [pid]


def test_a_record_that_is_being_written_is_not_read(noted: Path) -> None:
    gc.collect()
    whole = read(noted, os.getpid())
    noted.write_bytes(noted.read_bytes()[:-1])
    assert read(noted, os.getpid()) == whole[:-1]


def test_the_summary_has_the_worst_of_each_phase_and_generation() -> None:
    phases = [Phase("first", 0, 1_000_000_000, 10), Phase("second", 1_000_000_000, 3_000_000_000, 0)]
    collections = [
        Collection(1, 0, 0, 100, 5, 1_000_000, 900_000),
        Collection(1, 0, 3, 50, 999_999_999, 4_000_000, 1_000_000),
        Collection(1, 1, 0, 0, 1_000_000_000, 2_000_000, 2_000_000),
    ]
    made = summary(phases, collections)
    assert made["first"] == {
        "seconds": 1.0,
        "requests": 10,
        "generations": {
            0: {
                "collections": 2, "worst_ms": 4.0, "worst_cpu_ms": 1.0, "share": 0.005, "collected": 3,
                "most_objects": 100,
            }
        },
    }  # fmt: skip
    assert list(made["second"]["generations"]) == [1]
    assert made["second"]["generations"][1]["share"] == 0.001


@pytest.mark.slow
def test_the_worker_of_a_real_proxy_is_measured(tmp_path: Path) -> None:
    """With thresholds that make it collect all the time: the callbacks are in the worker, and see its objects."""
    need("nginx")
    need("wrk")
    made = collector.measure(tmp_path, 100, 10, 0.2, {collector.THRESHOLDS: "50,2,1000000", collector.SIZES: "1"})
    come, ask, beside, _ = made.values()
    assert come["requests"] == 100 and ask["requests"] > 100 and beside["requests"] > 0
    assert come["generations"][0]["collections"] > 0 and come["generations"][1]["most_objects"] > 0
    assert all(each["collected"] == 0 for phase in made.values() for each in phase["generations"].values()), "no cycles"
