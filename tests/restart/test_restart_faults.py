"""C8: a process exits, hangs, is killed or talks nonsense at any message of a restart, and no client notices.

One instance for each kind of fault, and one restart after the other: `HOTPROXY_FAULT=@FILE` is read by each generation
as it starts. Connections of every kind live through all of it; they may only be *asked* to go (`Connection: close`),
where an old worker kept what it could not give away.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from hotproxy.restarter.faults import EXIT, FAULTS, GARBAGE, HANG, KILL
from hotproxy.worker.giver import CANARY
from tests.kit import clients, origin
from tests.kit.instance import Instance, eventually
from tests.restart.test_restart_handoff import assert_gauges_zero, config, wishes

# Before the new generation accepts: it is refused, with a reason.
REFUSED = [
    "send.HELLO", "receive.SOCKETS", "send.SLAB", "receive.SLAB_IS", "send.FORKED", "worker.send.READY",
    "zygote.receive.READY", "zygote.send.READY", "control.send.READY", "zygote.receive.ACCEPT_ON",
]  # fmt: skip
# While it begins to accept: it may have clients, and is asked to go like an old one.
OPENING = [
    "zygote.send.ACCEPT_ON", "worker.receive.ACCEPT_ON", "control.receive.ACCEPT_ON", "worker.send.ACCEPTING",
    "zygote.receive.ACCEPTING", "zygote.send.ACCEPTING", "zygote.receive.SERVES", "zygote.send.SERVES",
    "control.receive.SERVES",
]  # fmt: skip
# The side that takes connections: whatever happens to it, who gives has them back.
TAKING = [
    "zygote.receive.TAKE", "zygote.send.TAKE", "worker.receive.TAKE", "receive.OFFER", "send.PREPARED",
    "receive.COMMIT", "send.COMMITTED",
]  # fmt: skip
# The side that gives. A worker that dies here takes with it what it has not given away yet.
GIVING = [
    "zygote.receive.ACCEPT_OFF", "zygote.send.ACCEPT_OFF", "worker.receive.ACCEPT_OFF", "worker.send.ACCEPT_STOPPED",
    "zygote.receive.GIVE", "zygote.send.GIVE", "worker.receive.GIVE", "send.OFFER", "receive.PREPARED", "send.COMMIT",
    "receive.COMMITTED", "worker.send.MOVED", "zygote.receive.MOVED", "zygote.receive.DRAIN", "worker.receive.DRAIN",
]  # fmt: skip

SETTINGS = "drain_timeout: 45s\nhandoff_timeout: 700ms"


@contextlib.contextmanager
def faulty(directory: Path, ports: dict[str, int]) -> Iterator[tuple[Instance, Path]]:
    """A proxy whose next generation reads its fault from the file."""
    fault = directory / "fault"
    fault.write_text("")
    proxy = Instance(directory)
    proxy.environment["HOTPROXY_FAULT"] = f"@{fault}"
    proxy.write(config(ports, more=SETTINGS))
    try:
        proxy.start("--allow-faults")
        yield proxy, fault
    finally:
        proxy.end()


@pytest.fixture
def ports() -> Iterator[dict[str, int]]:
    with origin.echo_origin() as made:
        yield made


def settled(proxy: Instance) -> bool:
    """One generation, with all its processes."""
    status = proxy.status()
    return (
        len(status["generations"]) == 1
        and status["generations"][0]["state"] == "active"
        and all(slot["state"] == "accepting" for slot in status["generations"][0]["slots"])
    )


def fail_at(proxy: Instance, fault: Path, step: str, what: str) -> int:
    """A restart whose new generation fails at this step; the exit code of `reload`."""
    fault.write_text(f"{step}:{what}")
    answer = proxy.command("reload", "--timeout", "3")
    fault.write_text("")
    return answer.returncode


def restart_with(proxy: Instance, ports: dict[str, int], fault: Path, step: str, what: str, old: bool) -> None:
    """One step, with clients of every kind that live through it. `old`: it is the old side that fails at it."""
    kinds = {"keepalive": 20, "websocket": 10, "tcp_pairs": 10, "streams": 2, "uploads": 2, "pace_s": 0.1}
    if old:
        fault.write_text(f"{step}:{what}")
        proxy.reload()  # this one will fail when the next one takes its place
        fault.write_text("")
    with clients.long_lived(**wishes(proxy, ports, **kinds)) as living:
        before = proxy.stats()["server.crashed_in_flight"]
        with clients.load(proxy.port("web"), new_rate=50) as load:
            code = proxy.command("reload").returncode if old else fail_at(proxy, fault, step, what)
            assert proxy.command("status").returncode == 0
            new = load.stop()
        counts = living.stop()
    # One that hangs is killed half a minute later; only then it is known what it held.
    eventually(lambda: settled(proxy), f"{step}:{what}: one sound generation\n{proxy.log_text()}")
    where = f"{step}:{what} {code} {counts} {new}\n{proxy.log_text()}"
    # A worker that dies takes with it whom it was serving, as any crash does; and nobody else.
    crashed = proxy.stats()["server.crashed_in_flight"] - before
    failed = sum(new["failures"].values())
    cut = sum(count for what, count in counts["failures"].items() if what != "keepalive: Connection: close")
    assert failed <= (crashed if step not in REFUSED else 0), where
    assert new["ok"] + failed >= new["requests"], where
    # Nor can anybody keep what a worker has taken that says nonsense in place of COMMITTED: it is killed for that.
    lied = (step, what) == ("send.COMMITTED", GARBAGE)
    assert cut <= (crashed if old or lied else 0), where
    if old:
        assert code == 0, where
    else:
        assert code == 1 if step in REFUSED and what != GARBAGE else code in (0, 1), where


QUICK = {HANG: ["send.PREPARED"], KILL: ["worker.send.READY", "receive.OFFER", "send.COMMITTED"]}


@pytest.mark.parametrize("what", QUICK)
def test_a_new_generation_that_fails_at_some_steps(short_path: Path, ports: dict[str, int], what: str) -> None:
    all_steps(short_path, ports, QUICK[what], what, old=False)


QUICK_OLD = {EXIT: ["send.COMMIT"], KILL: ["receive.COMMITTED", "zygote.receive.GIVE"], GARBAGE: ["send.OFFER"]}


@pytest.mark.parametrize("what", QUICK_OLD)
def test_an_old_generation_that_fails_at_some_steps(short_path: Path, ports: dict[str, int], what: str) -> None:
    all_steps(short_path, ports, QUICK_OLD[what], what, old=True)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("what", FAULTS)
@pytest.mark.parametrize("steps", [REFUSED, OPENING, TAKING], ids=["refused", "opening", "taking"])
def test_a_new_generation_that_fails_at_every_step(
    short_path: Path, ports: dict[str, int], what: str, steps: list[str]
) -> None:
    all_steps(short_path, ports, steps, what, old=False)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("what", FAULTS)
def test_an_old_generation_that_fails_at_every_step(short_path: Path, ports: dict[str, int], what: str) -> None:
    all_steps(short_path, ports, GIVING, what, old=True)


def all_steps(directory: Path, ports: dict[str, int], steps: list[str], what: str, old: bool) -> None:
    with faulty(directory, ports) as (proxy, fault):
        for step in steps:
            restart_with(proxy, ports, fault, step, what, old)
        assert_gauges_zero(proxy)
        assert proxy.stats()["server.internal_errors"] == 0


DEATHS = [
    ("worker.receive.COMMITTED", "recycle"),
    ("worker.receive.COMMITTED", "TTIN"),
    pytest.param("worker.send.COMMITTED", "TTIN", marks=pytest.mark.slow),
    pytest.param("worker.send.COMMITTED", "recycle", marks=pytest.mark.slow),
    pytest.param("worker.receive.OFFER", "TTIN", marks=pytest.mark.slow),
]


def connections(proxy: Instance) -> int:
    """As their workers have last said."""
    return sum(slot["connections"] for slot in proxy.status()["generations"][-1]["slots"])


@pytest.mark.parametrize(("step", "order"), DEATHS)
def test_a_worker_that_dies_while_connections_move_within_its_generation(
    short_path: Path, ports: dict[str, int], step: str, order: str
) -> None:
    """Only what it still owned is lost, and counted; who takes owns nothing before it has said COMMITTED."""
    with faulty(short_path, ports) as (proxy, fault):
        fault.write_text(f"{step}:{KILL}")
        proxy.reload()
        fault.write_text("")
        with clients.long_lived(**wishes(proxy, ports, keepalive=60, tcp_pairs=60, pace_s=0.1)) as living:
            if order == "TTIN":
                eventually(
                    lambda: connections(proxy) == 120, "the supervisor to know of them, by the workers' next tick"
                )
                proxy.signal(signal.SIGTTIN)
                eventually(lambda: "worker 2/2 serves" in proxy.log_text(), f"a third worker\n{proxy.log_text()}")
            else:
                answer = proxy.command("worker", "recycle", "1")
                # When it gives, it is the one that was asked for; who takes is forked again, and the rest drains.
                assert (answer.returncode == 1 and "died while its connections moved" in answer.stderr) is (
                    step == "worker.receive.COMMITTED"
                ), f"{answer}"
            eventually(
                lambda: proxy.stats()["server.worker_crashes"] >= 1, f"the crash to be counted\n{proxy.log_text()}"
            )
            eventually(lambda: settled(proxy) or "draining" in str(proxy.status()), "everybody to be there")
            counts = living.stop()
        where = f"{counts}\n{proxy.log_text()}"
        cut = sum(count for what, count in counts["failures"].items() if what != "keepalive: Connection: close")
        gives = step == "worker.receive.COMMITTED"
        assert cut <= (proxy.stats()["server.crashed_in_flight"] if gives else 0), where
        # Its canaries, at least, were somebody else's before it died.
        assert not gives or cut <= 120 - CANARY, where
        assert gives or order == "recycle" or counts["failures"] == {}, where
        assert_gauges_zero(proxy)


@pytest.mark.slow
def test_a_zygote_that_hangs_with_a_word_in_its_hands_is_found_out(short_path: Path, ports: dict[str, int]) -> None:
    """It had read all that it was told, so nobody found it deaf: `reload` waited 32 s, for the last deadline of all."""
    with faulty(short_path, ports) as (proxy, fault):
        fault.write_text("zygote.send.MOVED:hang")
        proxy.reload()
        fault.write_text("")
        hung = proxy.status()["generations"][-1]["pid"]
        with clients.long_lived(**wishes(proxy, ports, keepalive=10, tcp_pairs=10)) as living:
            proxy.reload()
            assert f"the zygote of generation 2 (pid {hung}) hangs: killed; its slots serve on" in proxy.log_text()
            counts = living.stop()
        assert counts["failures"] == {}, f"{counts}\n{proxy.log_text()}"
        assert proxy.stats()["server.worker_crashes"] == 0
        eventually(lambda: settled(proxy), "the old generation to be gone")


def test_faults_are_honoured_only_when_they_are_allowed(short_path: Path, ports: dict[str, int]) -> None:
    proxy = Instance(short_path)
    proxy.write(config(ports))
    try:
        proxy.environment["HOTPROXY_FAULT"] = "send.HELLO:exit"
        proxy.start()
        proxy.reload()
        proxy.environment["HOTPROXY_FAULT"] = "send.NOTHING:exit"
        answer = proxy.command("run", "-c", str(proxy.config), "--allow-faults")
        assert answer.returncode == 2 and "'send.NOTHING' is no step such as" in answer.stderr
        assert "allow-faults" not in proxy.command("run", "--help").stdout
    finally:
        proxy.end()
