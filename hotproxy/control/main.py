"""The control process of a generation: its conversation with the zygote, the admin API, what is known per cluster."""

from __future__ import annotations

import asyncio
import socket
from concurrent.futures.thread import ThreadPoolExecutor
from dataclasses import dataclass

import uvloop

from hotproxy.clock import SystemClock
from hotproxy.config import last_good
from hotproxy.config.certificate import CertificateError, read_certificate
from hotproxy.config.effective import config_digest
from hotproxy.config.model import Config
from hotproxy.config.on_disk import Files
from hotproxy.control.admin import Admin
from hotproxy.control.http_server import HttpServer
from hotproxy.restarter.frames import Channel, ChannelClosed, ChannelFull, FrameError, Message
from hotproxy.restarter.log import WARNING, log
from hotproxy.shm.cells import Slab
from hotproxy.shm.layout import ShmError
from hotproxy.shm.reader import read
from hotproxy.telemetry.stats import FIRST_EXPIRY, ClusterStats

# The same beat as a worker's: the supervisor judges both by the age of this cell.
TICK_S = 0.05
# Answers that are under way when the generation leaves; a scrape takes milliseconds.
GRACE_S = 2.0
# A control process that lost its zygote answers on, like the slots beside it, until a successor has had time to come.
ORPHAN_TIMEOUT_S = 60.0
# How often the certificates' files are read for their ends: renewed ones show within a minute.
EXPIRY_S = 60.0


@dataclass(slots=True)
class ControlStart:
    """What the zygote gives the process that it has just forked. `sockets` listen for the admin API; `files`: what
    `config` was read from; `last_good`: where to keep it once it serves, "": nowhere."""

    config: Config
    epoch: int
    sockets: list[socket.socket]
    channel: Channel
    slab: Slab
    segment_name: str
    files: Files
    last_good: str


def run(start: ControlStart) -> int:
    """The whole life of the process; its exit code."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_Control(start).live())
    return 0


class _Control:
    def __init__(self, start: ControlStart) -> None:
        self._start = start
        self._accepting = False
        self._draining = False  # `hotproxy drain`: still serving, no longer ready
        self._leaving = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        # What waits for a disk does so here, and nobody waits for it. Two, so that one that hangs leaves the other.
        self._disk = ThreadPoolExecutor(2)
        # At the files: whoever asks meanwhile gets the same answer.
        self._looking: asyncio.Future[list[str]] | None = None

    async def live(self) -> None:
        self._loop = loop = asyncio.get_running_loop()
        admin = Admin(
            self._start.segment_name, self._start.epoch, self._is_ready, self._config_digest, self._changed_files
        )
        self._server = HttpServer(admin.answer)
        loop.add_reader(self._start.channel.fileno(), self._on_channel)
        self._tick()
        self._publish_membership()
        self._publish_expiry()
        self._start.channel.send("READY")
        await self._leaving.wait()
        self._stop_accepting()
        await self._server.close(GRACE_S)

    def _is_ready(self) -> bool:
        return self._accepting and not self._draining

    def _config_digest(self) -> str:
        return config_digest(self._start.config)  # rarely asked, and 50 ms for a thousand clusters

    async def _changed_files(self) -> list[str]:
        assert self._loop is not None
        if self._looking is None or self._looking.done():
            self._looking = self._loop.run_in_executor(self._disk, self._start.files.changed)
        return await asyncio.shield(self._looking)

    def _keep_config(self) -> None:
        start = self._start
        try:
            last_good.keep(start.last_good, start.config, start.epoch, self._serves_still)
        except (OSError, ValueError, ShmError) as error:
            log(WARNING, f"the last good config can't be kept in {start.last_good}: {error}")

    def _serves_still(self) -> bool:
        return read(self._start.segment_name).epoch == self._start.epoch

    def _tick(self) -> None:
        assert self._loop is not None
        self._start.slab.heartbeat_ns = int(SystemClock.now_s() * 1e9)
        self._loop.call_later(TICK_S, self._tick)

    def _on_channel(self) -> None:
        assert self._loop is not None
        channel = self._start.channel
        while True:
            try:
                message = channel.receive()
            except FrameError as error:
                log(WARNING, f"control: a message was refused: {error}")
                self._say("UNKNOWN", {"kind": "?", "why": str(error)})
                continue
            except ChannelClosed:
                self._loop.remove_reader(channel.fileno())
                # One that was never told to accept is asked nothing: its zygote died before anybody heard of it.
                self._loop.call_later(ORPHAN_TIMEOUT_S if self._accepting else 0.0, self._leaving.set)
                return
            if message is None:
                return
            self._on_message(message)

    def _say(self, kind: str, fields: dict[str, str] | None = None) -> None:
        try:
            self._start.channel.send(kind, fields)
        except (ChannelClosed, ChannelFull):
            pass  # EOF follows; a zygote that does not read is found out by the supervisor

    def _on_message(self, message: Message) -> None:
        assert self._loop is not None
        message.close_fds()
        if message.kind == "ACCEPT_ON":
            self._start_accepting()
            self._say("ACCEPTING")
        elif message.kind == "ACCEPT_OFF":
            self._stop_accepting()
            self._say("ACCEPT_STOPPED")
        elif message.kind == "SERVES":
            if self._start.last_good:
                self._loop.run_in_executor(self._disk, self._keep_config)
        elif message.kind == "DRAIN" and message.fields["deadline_s"] == 0.0:
            self._draining = True
        elif message.kind == "UNDRAIN":
            self._draining = False
        elif message.kind == "DRAIN":
            self._leaving.set()
        elif message.kind != "REOPEN_LOGS":
            self._say("UNKNOWN", {"kind": message.kind, "why": "not for the control process"})

    def _start_accepting(self) -> None:
        if self._accepting:
            return
        self._accepting = True
        for sock in self._start.sockets:
            sock.setblocking(False)
            # 64 callers may wait: scrapers and people. Calling it again on a socket that listens already is harmless.
            sock.listen(64)
        self._server.start_accepting(self._start.sockets)

    def _stop_accepting(self) -> None:
        if not self._accepting:
            return
        self._accepting = False
        self._server.stop_accepting()

    def _publish_expiry(self) -> None:
        """In days, as Envoy does; of the certificates that the files hold now. One that can't be read is told by those
        who would use it."""
        assert self._loop is not None
        paths = [pair.cert for each in self._start.config.listeners if each.tls for pair in each.tls.certificates]
        paths += [
            each.tls.certificate.cert for each in self._start.config.clusters if each.tls and each.tls.certificate
        ]
        ends_s = []
        for path in paths:
            try:
                ends_s.append(read_certificate(path).not_after_s)
            except CertificateError:
                continue
        if ends_s:
            days = max(0, int((min(ends_s) - SystemClock.wall_s()) / 86400.0))
            self._start.slab.gauge(FIRST_EXPIRY.name).set(days)
        if paths:
            self._loop.call_later(EXPIRY_S, self._publish_expiry)

    def _publish_membership(self) -> None:
        """Readers take these from the control process of the newest accepting generation; they are not added up."""
        for cluster in self._start.config.clusters:
            for statistic in ("membership_total", "membership_healthy"):  # of all of ClusterStats these alone
                self._start.slab.gauge(f"{ClusterStats.scope}.{cluster.name}.{statistic}").set(len(cluster.endpoints))
