"""What a worker does about its own bugs; the rest of its life is in test_worker_process.py."""

from __future__ import annotations

import gc
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import uvloop

from hotproxy.config.model import AccessLog, Config, Listener, Tcp
from hotproxy.net.connection import CLOSED, Connection
from hotproxy.restarter.frames import Channel
from hotproxy.shm.cells import Slab
from hotproxy.worker.build import declare_stats
from hotproxy.worker.main import EXIT_FAILED, Worker, WorkerStart, _prepare_process, run
from tests.kit.connection import FakeGauge


class Owner:
    """Raises when it hears data, as no owner should; hears that its connection is lost."""

    def __init__(self) -> None:
        self.lost: list[str] = []

    def on_data(self, data: bytes) -> None:
        raise RuntimeError(f"cannot cope with {data!r}")

    def on_eof(self) -> None: ...

    def on_lost(self, error: str) -> None:
        self.lost.append(error)

    def on_pressure(self, high: bool) -> None: ...


@dataclass
class Bench:
    loop: uvloop.Loop
    slab: Slab
    worker: Worker

    def turn(self) -> None:
        self.loop.call_later(0.0, self.loop.stop)
        self.loop.run_forever()

    @property
    def bugs(self) -> int:
        return self.slab.counter("server.internal_errors").value


@pytest.fixture
def bench() -> Iterator[Bench]:
    loop = uvloop.new_event_loop()
    ours, theirs = Channel.pair()
    slab = Slab.private(declare_stats(Config()))
    worker = Worker(WorkerStart(Config(), 1, 0, [], theirs, slab, 5.0), loop)
    yield Bench(loop, slab, worker)
    worker._poller.close()
    worker._parts.admission.close()
    loop.close()
    ours.close()
    theirs.close()


def test_an_exception_ends_the_connection_concerned_and_is_counted(bench, capfd):
    ours, peer = socket.socketpair()
    ours.setblocking(False)
    owner = Owner()
    worker = bench.worker
    connection = Connection(ours, owner, worker._poller, worker._wheel, FakeGauge())
    connection.start()
    peer.sendall(b"poison")
    bench.turn()
    assert connection.state == CLOSED
    assert owner.lost == ["internal error"]
    assert bench.bugs == 1
    assert "RuntimeError: cannot cope with b'poison'" in capfd.readouterr().err
    peer.close()


def test_an_exception_outside_of_connections_is_logged_and_counted(bench, capfd):
    def fail() -> None:
        raise RuntimeError("in a tick")

    bench.loop.call_soon(fail)
    bench.turn()
    assert bench.bugs == 1
    assert "RuntimeError: in a tick" in capfd.readouterr().err


def test_a_worker_is_never_stopped_by_the_collector():
    """With 2,000 requests in flight everybody had to wait for 3 to 9 ms, again and again, and nothing was found."""
    pid = os.fork()
    if pid == 0:
        _prepare_process()
        os._exit(gc.isenabled())
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_a_worker_that_cannot_be_built_says_why(tmp_path):
    listener = Listener("db", (), AccessLog(str(tmp_path / "none" / "log")), Tcp("c"))
    config = Config(listeners=(listener,))
    ours, theirs = Channel.pair()
    pid_status = _in_a_child(config, theirs)
    assert pid_status == EXIT_FAILED
    message = ours.receive()
    assert message is not None
    assert message.kind == "FAILED"
    assert message.fields["why"].startswith("cannot write the access log ")  # it began with "[Errno 2]"
    assert "none/log" in message.fields["why"]
    ours.close()
    theirs.close()


def _in_a_child(config: Config, channel: Channel) -> int:
    """`run` changes signals and the garbage collector of its process."""
    pid = os.fork()
    if pid == 0:
        code = 70
        try:
            code = run(WorkerStart(config, 1, 0, [], channel, Slab.private(declare_stats(config)), 5.0))
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
