"""The worker process: one event loop, a tick of 50 ms, and a conversation with the zygote (restarter/frames.py).

READY -> ACCEPT_ON / ACCEPTING -> ... ADOPT, RELEASE, SHUT, TAKE ... -> ACCEPT_OFF / ACCEPT_STOPPED
-> GIVE / MOVED -> DRAIN -> exit 0
EOF of the channel: an orphan. Serves on for `orphan_timeout` (somebody may start a supervisor), then drains. One that
was never told to accept has nothing to serve, and ends: its zygote died before the supervisor heard of it.
"""

from __future__ import annotations

import asyncio
import gc
import random
import signal
import socket
import traceback
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import uvloop

from hotproxy.clock import TICK_S, SystemClock, TimerWheel
from hotproxy.config.model import Config
from hotproxy.net.connection import Connection
from hotproxy.net.poller import Poller
from hotproxy.net.tls_errors import hush_server_names
from hotproxy.net.tls_tickets import TicketKeys
from hotproxy.restarter.frames import Channel, ChannelClosed, ChannelFull, DescriptorsLost, FrameError, Message
from hotproxy.restarter.log import ERROR, INFO, WARNING, log, name_process
from hotproxy.restarter.systemd import STORED
from hotproxy.restarter.ticket_chain import TicketChain
from hotproxy.shm.cells import Slab
from hotproxy.worker.build import INTERNAL_ERRORS, Parts, TlsSides, build
from hotproxy.worker.drain import Drain
from hotproxy.worker.handoff import Handoff

EXIT_DRAINED: Final = 0
EXIT_FAILED: Final = 1

_IGNORED: Final = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


@dataclass(slots=True)
class ListeningSocket:
    """One of the supervisor's sockets, as the zygote passes it on. `listening` False: bound only."""

    listener: str
    address_index: int
    slot: int
    listening: bool
    shared: bool
    sock: socket.socket


@dataclass(slots=True)
class WorkerStart:
    """What the zygote gives to a freshly forked worker, which owns all of it."""

    config: Config
    epoch: int
    slot: int
    sockets: list[ListeningSocket]
    channel: Channel
    slab: Slab
    drain_timeout_s: float
    tickets: TicketChain | None = None  # of TLS sessions; None: they resume within this generation at most
    tls: TlsSides | None = None


def run(start: WorkerStart) -> int:
    """Serve until drained. Returns the exit code; the caller ends the process with it."""
    name_process(f"worker {start.epoch}/{start.slot}")
    _prepare_process()
    loop = uvloop.new_event_loop()
    try:
        worker = Worker(start, loop)
    except OSError as error:  # an access log that can't be opened
        why = error.strerror or str(error)
        log(ERROR, f"cannot start: {why}")
        start.channel.send("FAILED", {"why": why})
        return EXIT_FAILED
    try:
        return worker.run()
    finally:
        loop.close()


def _prepare_process() -> None:
    # Ctrl-C and systemd signal whole groups; only messages and EOF move a worker. The mask survives fork and exec.
    for number in _IGNORED:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    hush_server_names()
    # No collections: what ends here breaks its cycles itself, so they find nothing, and everybody waits for them. No
    # threshold bounds a pause: objects of older generations that die count against it, so with 10,000 for generation 0
    # and 2,000 requests in flight it looked at 30,000 objects, for 3 to 9 ms of CPU. Also tried: a collection while
    # no connection is open, 12 ms for the idle ones of the pool. bench/collector.py measures it.
    gc.disable()


class Worker:
    """The objects of one worker and what happens to them. Nothing here is on the path of a byte."""

    __slots__ = (
        "_bugs", "_channel", "_clock", "_drain", "_exit_code", "_handoff", "_loop", "_orphaned", "_outbox", "_parts",
        "_poller",
        "_start", "_told_to_accept", "_wheel",
    )  # fmt: skip

    def __init__(self, start: WorkerStart, loop: asyncio.AbstractEventLoop) -> None:
        self._start = start
        self._loop = loop
        self._channel = start.channel
        self._clock = SystemClock()
        self._wheel = TimerWheel(self._clock)
        self._poller = Poller(loop, self._on_bug)
        self._outbox: deque[tuple[str, dict[str, Any]]] = deque()
        self._orphaned = False
        self._told_to_accept = False
        self._bugs = start.slab.counter(INTERNAL_ERRORS.name)
        self._exit_code = EXIT_DRAINED
        loop.set_exception_handler(self._on_loop_bug)
        self._parts: Parts = build(
            start.config, start.slab, self._poller, self._wheel, self._clock, random.Random(), _report, _complain,
            start.tls, self._ticket_keys(),
        )  # fmt: skip
        self._drain = Drain(
            self._parts, self._poller, self._clock, start.drain_timeout_s, start.config.orphan_timeout_s, STORED
        )
        self._handoff = Handoff(
            self._parts.listeners, self._parts.runtime, self._poller, self._wheel, start.slab.serial, self._send,
            self._bugs.inc,
        )  # fmt: skip
        for item in start.sockets:
            self._add_socket(item.listener, item.address_index, item.slot, item.listening, item.shared, item.sock)

    def _ticket_keys(self) -> TicketKeys | None:
        chain = self._start.tickets
        if chain is None:
            return None
        chain.advance(self._clock.wall_s())
        return TicketKeys(chain)

    def run(self) -> int:
        self._poller.add_reader(self._channel.fileno(), self._on_channel)
        self._tick()
        self._send("READY")
        self._loop.run_forever()
        self._parts.logs.close()
        return self._exit_code

    def _stop(self, code: int) -> None:
        self._exit_code = code
        self._loop.stop()

    # -- the tick -----------------------------------------------------------------------------------------------

    def _tick(self) -> None:
        self._loop.call_later(TICK_S, self._tick)
        slab = self._start.slab
        slab.heartbeat_ns = int(self._clock.now_s() * 1e9)
        slab.connections = self._parts.admission.open
        self._wheel.advance()
        self._parts.logs.flush()
        self._parts.certificates.tick()
        self._flush_outbox()
        self._drain.tick()
        if self._drain.leaving:  # an orphan's end comes from nobody
            self._handoff.stop()
        if self._drain.over:
            self._stop(EXIT_DRAINED)

    # -- the conversation ---------------------------------------------------------------------------------------

    def _send(self, kind: str, fields: dict[str, Any] | None = None) -> None:
        if not self._orphaned:
            self._outbox.append((kind, fields or {}))
            self._flush_outbox()

    def _flush_outbox(self) -> None:
        while self._outbox:
            try:
                self._channel.send(*self._outbox[0])
            except ChannelFull:
                return  # at the next tick
            except ChannelClosed:
                self._outbox.clear()
                return  # EOF follows
            self._outbox.popleft()

    def _on_channel(self) -> None:
        while not self._orphaned:
            try:
                message = self._channel.receive()
            except FrameError as error:
                log(WARNING, f"refused a message: {error}")
                if isinstance(error, DescriptorsLost) and error.kind == "GIVE":
                    self._handoff.decline(error.fields)
                else:
                    self._send("UNKNOWN", {"kind": "", "why": str(error)})
                continue
            except ChannelClosed:
                self._orphaned = True
                self._drain.orphaned()
                self._poller.remove_reader(self._channel.fileno())
                self._channel.close()
                if not self._told_to_accept:
                    self._stop(EXIT_DRAINED)
                return
            if message is None:
                return
            try:
                self._obey(message)
            except FrameError as error:
                log(WARNING, f"refused {message.kind}: {error}")
                self._send("UNKNOWN", {"kind": message.kind, "why": str(error)})
            finally:
                message.close_fds()  # those that nobody has taken

    def _obey(self, message: Message) -> None:
        kind, fields = message.kind, message.fields
        if kind == "ACCEPT_ON":
            self._accept_on()
        elif kind == "ACCEPT_OFF":
            for listener in self._parts.listeners.values():
                listener.stop_accepting()
            self._send("ACCEPT_STOPPED")
        elif kind == "ADOPT":
            self._adopt(message)
        elif kind == "RELEASE":
            for name, address_index, slot in _sockets(fields["sockets"], (str, int, int)):
                if name in self._parts.listeners:
                    self._parts.listeners[name].release(address_index, slot)
        elif kind == "SHUT":
            for name, address_index, slot in _sockets(fields["sockets"], (str, int, int)):
                if name in self._parts.listeners:
                    self._parts.listeners[name].shut(address_index, slot)
            self._send("SHUT_DONE")
        elif kind == "DRAIN":
            # 0: only say so (`hotproxy drain`); the balancer in front will take its clients elsewhere.
            if fields["deadline_s"] == 0:
                self._drain.soft()
            else:
                self._handoff.stop()
                self._drain.begin(float(fields["deadline_s"]))
        elif kind == "GIVE":
            self._handoff.give(message, self._drain.leaving)
        elif kind == "TAKE":
            self._handoff.take(message, self._drain.leaving)
        elif kind == "UNDRAIN":
            self._drain.undo()
        elif kind == "REOPEN_LOGS":
            self._parts.logs.reopen()
        elif kind == "UNKNOWN":
            log(WARNING, f"the zygote refused a message: {fields['why']}")
        else:
            raise FrameError("a worker does not understand it")

    def _accept_on(self) -> None:
        self._told_to_accept = True
        for name, listener in self._parts.listeners.items():
            try:
                listener.start_accepting()
            except OSError as error:
                log(ERROR, f"listener '{name}' cannot listen: {error.strerror}")
                self._send("FAILED", {"why": f"listener '{name}' cannot listen: {error.strerror}"})
                return
        self._send("ACCEPTING")

    def _adopt(self, message: Message) -> None:
        sockets = _sockets(message.fields["sockets"], (str, int, int, bool, bool))
        if len(sockets) != len(message.fds):
            raise FrameError(f"{len(sockets)} sockets are named, and {len(message.fds)} descriptors came")
        opened = _stream_sockets(message.fds)
        for (name, address_index, slot, listening, shared), sock in zip(sockets, opened, strict=True):
            try:
                self._add_socket(name, address_index, slot, listening, shared, sock)
            except OSError as error:
                log(ERROR, f"listener '{name}' cannot accept on a socket: {error.strerror}")

    def _add_socket(
        self, name: str, address_index: int, slot: int, listening: bool, shared: bool, sock: socket.socket
    ) -> None:
        listener = self._parts.listeners.get(name)
        if listener is None or self._drain.leaving:
            log(WARNING, f"a socket of listener '{name}', which this generation does not have, is left to others")
            sock.close()
            return
        listener.add_socket(sock, address_index, slot, listening, shared)

    # -- our own bugs -------------------------------------------------------------------------------------------

    def _on_bug(self, callback: Callable[[], None], error: Exception) -> None:
        """A callback raised: say it with its traceback, and end the connection concerned; all others go on."""
        self._bugs.inc()
        log(ERROR, f"internal error in {callback!r}:\n{''.join(traceback.format_exception(error))}")
        connection = getattr(callback, "__self__", None)
        if isinstance(connection, Connection):
            try:
                connection.abort("internal error")
            except Exception as second:
                log(ERROR, f"internal error while ending it:\n{''.join(traceback.format_exception(second))}")

    def _on_loop_bug(self, loop: asyncio.AbstractEventLoop, details: dict[str, Any]) -> None:
        self._bugs.inc()
        error = details.get("exception")
        text = "".join(traceback.format_exception(error)) if error is not None else ""
        log(ERROR, f"internal error: {details.get('message')}\n{text}")


def _sockets(entries: list[Any], shape: tuple[type, ...]) -> list[list[Any]]:
    """The sockets that a message names; longer entries (RELEASE sends what ADOPT did) are cut. Raises FrameError."""
    for entry in entries:
        if not isinstance(entry, list) or [type(value) for value in entry[: len(shape)]] != list(shape):
            raise FrameError(f"{entry!r:.80} does not name a socket")
    return [entry[: len(shape)] for entry in entries]


def _stream_sockets(fds: list[int]) -> list[socket.socket]:
    """Empties `fds`. Raises FrameError when one is anything that nobody can accept on; all are closed then."""
    opened: list[socket.socket] = []
    try:
        while fds:
            opened.append(socket.socket(fileno=fds[0]))
            del fds[0]
            if opened[-1].type != socket.SOCK_STREAM:
                raise FrameError("a descriptor is no stream socket")
    except (OSError, FrameError) as error:
        for sock in opened:
            sock.close()
        raise FrameError(f"a socket can't be used: {error}") from None
    return opened


def _report(text: str) -> None:
    log(INFO, text)


def _complain(text: str) -> None:
    log(ERROR, text)
