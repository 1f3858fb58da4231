"""What people ask of the supervisor: signals, and the commands of `supervisor.sock`."""

from __future__ import annotations

import signal
import socket
from typing import TYPE_CHECKING, Any, Final

from hotproxy.restarter.bind import BindRefused
from hotproxy.restarter.commands import Caller
from hotproxy.restarter.generation import State
from hotproxy.restarter.hello import MAX_SLOTS
from hotproxy.restarter.log import ERROR, INFO, NOTICE, WARNING, log
from hotproxy.restarter.status import status_of

if TYPE_CHECKING:
    from hotproxy.restarter.supervisor import Supervisor

SIGNALS: Final = (
    signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGTTIN,
    signal.SIGTTOU, signal.SIGWINCH, signal.SIGCHLD,
)  # fmt: skip


class Requests:
    """Translates them; what follows is the supervisor's."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._wake, self._wake_write = socket.socketpair()

    def hear_signals(self) -> None:
        """A handler does nothing: Python's wakeup descriptor has the signal's number, and wakes the loop."""
        for end in (self._wake, self._wake_write):
            end.setblocking(False)
        signal.set_wakeup_fd(self._wake_write.fileno(), warn_on_full_buffer=False)
        for number in SIGNALS:
            signal.signal(number, _only_wake)
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        self._supervisor.loop.watch(self._wake, self._on_wake)

    def _on_wake(self) -> None:
        try:
            numbers = self._wake.recv(4096)
        except BlockingIOError:
            return  # `catch_up` was faster
        for number in numbers:
            self._on_signal(signal.Signals(number))

    def catch_up(self) -> None:
        """With the signals that were received, now."""
        self._on_wake()

    def _on_signal(self, number: signal.Signals) -> None:
        if number is signal.SIGCHLD:
            self._supervisor.reap()
            return
        log(INFO, f"{number.name} received")
        if number in (signal.SIGHUP, signal.SIGUSR2):
            if number is signal.SIGUSR2:
                self._supervisor.renewal.ask()
            self._supervisor.restarts.request()
        elif number in (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT):
            self._supervisor.stop(0.0, None)
        elif number is signal.SIGUSR1:
            self._reopen_logs()
        elif number in (signal.SIGTTIN, signal.SIGTTOU):
            self._change_slots(1 if number is signal.SIGTTIN else -1)

    def on_command(self, caller: Caller, verb: str, arguments: dict[str, Any]) -> None:
        supervisor = self._supervisor
        timeout_s = arguments.get("timeout_s", 0.0)
        if isinstance(timeout_s, bool) or not isinstance(timeout_s, int | float) or not 0.0 <= timeout_s < 1e9:
            caller.answer(False, f"timeout_s is {timeout_s!r}, not a number of seconds")
        elif verb == "ping":
            caller.answer(True, "alive")
        elif verb == "status":
            caller.answer(True, "", status_of(supervisor))
        elif verb == "reload":
            supervisor.restarts.request(caller, float(timeout_s))
        elif verb == "stop":
            # "--timeout 0" is at once; without one the generations' own deadlines count.
            supervisor.stop(float(timeout_s), caller, "timeout_s" in arguments)
        elif verb == "recycle":
            supervisor.recycling.request(caller, arguments.get("slot"))
        elif verb == "drain":
            self._drain_softly(arguments.get("undo") is not True)
            caller.answer(True, "draining" if supervisor.soft_drain else "answering normally again")
        elif verb == "reopen_logs":
            self._reopen_logs()
            caller.answer(True, "logs reopened")
        else:
            caller.answer(False, f"unknown command '{verb[:40]}'")

    def _drain_softly(self, drain: bool) -> None:
        supervisor = self._supervisor
        supervisor.soft_drain = drain
        supervisor.ledger.draining(drain or supervisor.stopping)
        for live in supervisor.live_generations():
            if live.state is State.ACTIVE:
                supervisor.actions.say_soft_drain(live)

    def _reopen_logs(self) -> None:
        for live in self._supervisor.live_generations():
            live.tell("REOPEN_LOGS")

    def _change_slots(self, by: int) -> None:
        supervisor = self._supervisor
        live = next((each for each in supervisor.live_generations() if each.state is State.ACTIVE), None)
        if live is None or supervisor.restarts.running:
            log(WARNING, "the number of slots can't be changed during a restart")
            return
        slots = min(max(live.slots + by, 1), MAX_SLOTS)
        if slots == live.slots:
            log(NOTICE, f"there are {slots} slots already")
            return
        try:
            supervisor.actions.change_slots(live, slots)
        except BindRefused as refused:
            log(ERROR, f"no further slot: {refused}")


def _only_wake(number: int, frame: object) -> None:
    """The wakeup descriptor has the signal's number already."""
