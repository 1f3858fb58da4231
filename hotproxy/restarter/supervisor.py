"""The supervisor: signals, commands and the messages of generations in; sockets, shared memory and processes out.

What happens to a generation stands in `generation` (a table), to a restart in `restarts`. Here is what each action
means, and the loop that ties them together. It never reads the config and never imports the data plane.
"""

from __future__ import annotations

import gc
import os
import resource
import selectors
import signal
import sys
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hotproxy.errors import EXIT_OK, EXIT_REFUSED, HotproxyError
from hotproxy.restarter.actions import Actions
from hotproxy.restarter.commands import Caller, CommandSocket
from hotproxy.restarter.conversation import Conversation
from hotproxy.restarter.digest import supervisor_code
from hotproxy.restarter.generation import ACCEPTING_STATES, ON_TRIAL, Event, State, step
from hotproxy.restarter.heartbeats import LATE_TICKS, TICK_S, Heartbeats
from hotproxy.restarter.hello import NO_LIMIT_S
from hotproxy.restarter.instance_dir import SUPERVISOR_SOCKET, InstanceLock
from hotproxy.restarter.kernel import become_subreaper, set_process_name
from hotproxy.restarter.ledger import Ledger
from hotproxy.restarter.live import DEAF_TICKS, LiveGeneration
from hotproxy.restarter.log import ERROR, INFO, NOTICE, WARNING, for_stderr, log, name_process
from hotproxy.restarter.loop import Loop
from hotproxy.restarter.moves import Moves
from hotproxy.restarter.recycling import Recycling
from hotproxy.restarter.renewal import Renewal
from hotproxy.restarter.requests import Requests
from hotproxy.restarter.restarts import Outcome, Restarts
from hotproxy.restarter.resume import NOTHING, Inherited, read_or_none
from hotproxy.restarter.sockets import OwnedSocket, SocketTable
from hotproxy.restarter.spawn import spawn
from hotproxy.restarter.store import Store
from hotproxy.restarter.survivors import WAIT_S, Survivors
from hotproxy.restarter.systemd import Notifier, passed_descriptors
from hotproxy.restarter.ticket_chain import TicketChain

# Before HELLO nothing is known of a generation's own deadlines: interpreter, imports, config.
HELLO_S: Final = 30.0
# How often we look whether the processes of an earlier supervisor are gone, when nothing else is left to do.
STRANGERS_S: Final = 0.1
# How long a process gets to be dead after SIGKILL, at a stop that must not wait for anybody.
AT_ONCE_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Options:
    """What `hotproxy run` was told. `workers` 0: the config decides."""

    config: str
    instance: str
    instance_dir: Path
    workers: int = 0
    allow_faults: bool = False
    last_good: Path | None = None  # where a generation that serves keeps its config
    fallback_last_good: bool = False  # a start may take that one when the config is broken


class Supervisor:
    """One instance. `zygote_command` is executed for each generation, with its arguments appended; `own_command` when
    there is other code for the supervisor (none: it keeps its own)."""

    lock: InstanceLock
    commands: CommandSocket

    def __init__(
        self,
        options: Options,
        zygote_command: Sequence[str],
        late_ticks: int = LATE_TICKS,
        own_command: Sequence[str] = (),
        inherited: Inherited = NOTHING,
    ) -> None:
        self.options = options
        self._zygote_command = list(zygote_command)
        self.loop = Loop(selectors.DefaultSelector())
        self.ledger = Ledger(options.instance, options.instance_dir)
        self.notifier = Notifier()
        self.store = Store(self.notifier)
        self.sockets = SocketTable(self._is_ours, self.store.remove)
        self.restarts = Restarts(self.loop, self)
        self.started_s = self.loop.now_s()
        self.code = supervisor_code()
        self.tickets = TicketChain.new(time.time())
        self._generations: list[LiveGeneration] = []
        self._events: deque[tuple[LiveGeneration, Event]] = deque()
        self._handling = False
        self._heartbeats = Heartbeats(late_ticks)
        self.moves = Moves(self.loop, self.ledger.connections, self._heartbeats.stands_still, self.ledger.count_moved)
        self.recycling = Recycling(self)
        self.actions = Actions(self)
        self.conversation = Conversation(self)
        self.survivors = Survivors(self)
        self.renewal = Renewal(self, own_command)
        self._inherited = inherited
        self.requests = Requests(self)
        self._late_ticks = late_ticks
        self._stop_callers: list[Caller] = []
        self.stopping = False
        self.soft_drain = False  # `hotproxy drain`: every answer says Connection: close, generations to come too
        self.stop_by_s = 0.0  # CLOCK_MONOTONIC; 0: each generation's own drain_timeout
        self._strangers_until_s = 0.0
        self.served = False
        self._exit_code = EXIT_OK

    def run(self) -> int:
        """Until the end; the exit code. Raises HotproxyError when it can't begin."""
        directory, inherited = self.options.instance_dir, self._inherited
        self.lock = InstanceLock(directory, self.options.instance, inherited.lock)
        name_process("supervisor")
        set_process_name("hotproxy")
        become_subreaper()
        _allow_all_descriptors()
        self.requests.hear_signals()
        try:
            self.store.take(self.sockets, passed_descriptors())
            self.commands = self.listen(directory / SUPERVISOR_SOCKET, inherited.commands)
        except OSError as error:
            self.lock.release()
            raise HotproxyError(f"{directory / SUPERVISOR_SOCKET}: {error.strerror}") from None
        except HotproxyError:
            self.lock.release()
            raise
        self._resume()
        try:
            awaits = self.survivors.begin()
        except HotproxyError:
            self.commands.close()
            self.lock.release()
            raise
        if awaits and not self.served:  # a supervisor was killed, its generations serve on
            self.started_s -= self.ledger.uptime_s()
        self._tick()
        if self.notifier.watchdog_s > 0.0:
            self._pet()
        if not awaits:
            self.restarts.request(asked=False)
        self.loop.run()
        self.sockets.close()
        for caller in self._stop_callers:
            caller.answer(True, "stopped")
        self.commands.close()
        self.ledger.close()
        self.notifier.close()
        self.lock.release()
        return self._exit_code

    def listen(self, path: Path, inherited: int = -1) -> CommandSocket:
        return CommandSocket(path, self.loop, self.requests.on_command, self.survivors.welcome, inherited)

    # --- its own code ---

    def _resume(self) -> None:
        """Go on with what this process had before its code was replaced."""
        resume = read_or_none(self._inherited)
        if resume is None:
            return
        self.started_s, self.soft_drain, self.served = resume.started_s, resume.soft_drain, True
        try:
            if resume.last_restart is not None:
                self.restarts.last = Outcome.from_wire(resume.last_restart)
            for wire in resume.sockets:
                self.sockets.put(OwnedSocket.from_wire(wire))
            if resume.tickets:
                self.tickets = TicketChain.from_wire(resume.tickets)
        except (KeyError, TypeError, ValueError, IndexError, OSError) as error:
            log(WARNING, f"not all that the last version handed over makes sense: {error!r}")

    # --- generations ---

    def handle(self, live: LiveGeneration, event: Event) -> None:
        """Take the step; events that actions cause follow it, never interrupt it."""
        self._events.append((live, event))
        if self._handling:
            return
        self._handling = True
        try:
            while self._events:
                self._step(*self._events.popleft())
        finally:
            self._handling = False

    def _step(self, live: LiveGeneration, event: Event) -> None:
        before = live.state
        live.state, actions = step(before, event)
        if live.state is not before:
            if live.alarm is not None:
                live.alarm.cancel()
            self._set_deadline(live)
        for action in actions:
            self.actions.do(action, live, event)

    def _set_deadline(self, live: LiveGeneration) -> None:
        if live.hello is None or live.state in (State.ACTIVE, State.ORPHANED, State.FAILED, State.GONE):
            return
        deadlines = live.hello.deadlines
        delay_s = {
            State.WARMING: deadlines.ready_s,
            State.OPENING: deadlines.accept_s,
            State.YIELDING: deadlines.stop_accepting_s,
            State.SHUTTING: deadlines.shut_s,
            State.MOVING: deadlines.move_s + 3 * deadlines.handoff_s,  # `moves` has given up before
        }.get(live.state)
        if delay_s is not None:  # a draining one gets its deadline where it is told to drain
            self.set_alarm(live, delay_s)

    def set_alarm(self, live: LiveGeneration, delay_s: float) -> None:
        if live.alarm is not None:
            live.alarm.cancel()
        live.alarm = self.loop.after(delay_s, lambda: self._too_late(live, delay_s))

    def _too_late(self, live: LiveGeneration, delay_s: float) -> None:
        waited_for = {
            State.STARTING: "it did not say HELLO",
            State.WARMING: "its slots were not ready",
            State.OPENING: "its slots did not accept",
        }
        if (what := waited_for.get(live.state)) is not None:
            self.blame(live, f"{what} within {delay_s:g} s")
        self.handle(live, Event.DEADLINE)

    def blame(self, live: LiveGeneration, why: str) -> None:
        """The first reason is the cause; what follows from it is not."""
        live.why = live.why or f"generation {live.epoch}: {why}"

    def predecessor(self, live: LiveGeneration) -> LiveGeneration | None:
        """The youngest other generation that accepts for good."""
        for other in reversed(self._generations):
            if other is not live and other.state in (State.ACTIVE, State.ORPHANED):
                return other
        return None

    def start_generation(self, asked: bool) -> LiveGeneration | str:
        """`asked`: by somebody who hears when it is refused. Nobody does at 4 a.m., when the first one is started or
        another one afresh: so those make do with less."""
        epoch = self.ledger.next_epoch()
        options = self.options
        arguments = ["--epoch", str(epoch), "--config", options.config, "--segment", self.ledger.segment_name]
        arguments += ["--instance-dir", str(options.instance_dir)]
        if options.allow_faults:
            arguments.append("--allow-faults")
        if options.workers:
            arguments += ["--workers", str(options.workers)]
        if options.last_good is not None:
            arguments += ["--last-good", str(options.last_good)]
        if options.fallback_last_good and not asked:
            arguments.append("--fallback-last-good")
        if not asked and (why := self._why_pure()):
            arguments += ["--pure", why]
        try:
            spawned = spawn(self._zygote_command, arguments)
        except OSError as error:
            why = f"generation {epoch}: {self._zygote_command[0]} can't be run: {error.strerror}"
            if not self.served:
                self.give_up(why)
            return why
        live = LiveGeneration.adopt(epoch, spawned, self.loop, self.conversation.ears)
        self._generations.append(live)
        self.set_alarm(live, HELLO_S)
        return live

    def _why_pure(self) -> str:
        """Why the one that serves, started afresh, gets no compiled code; "" if it does."""
        serving = [live for live in self._generations if live.state in (State.ACTIVE, State.ORPHANED)]
        if not serving or serving[-1].hello is None:
            return ""
        return serving[-1].hello.pure or serving[-1].crash_signals.why

    def doubt_compiled(self, live: LiveGeneration) -> None:
        """Its workers crash too often. One that leaves is not replaced, nor one that has no compiled code."""
        accepts = live.state in (State.ACTIVE, State.ORPHANED) and live.hello is not None and live.hello.compiled
        if accepts and not self.stopping and self.restarts.replace():
            cure = "it is started afresh without compiled code; `hotproxy reload` tries that again"
            log(ERROR, f"generation {live.epoch}: {live.crash_signals.why}: {cure}")

    def add(self, live: LiveGeneration) -> None:
        """One that an earlier supervisor has started."""
        self._generations.append(live)
        self._generations.sort(key=lambda each: each.epoch)

    def reattached(self, live: LiveGeneration, text: str) -> None:
        """`live`, of an earlier supervisor, is the one that accepts."""
        assert live.hello is not None
        self.served = True
        self.ledger.serving(live.epoch, live.slots, live.hello.version)
        self.ledger.draining(self.soft_drain)
        self.ledger.peculiar(bool(live.hello.fallback), bool(live.hello.pure))
        live.tell("SERVES")  # it may not have heard it
        self.notifier.ready(text + live.hello.remarks())

    def live_generations(self) -> list[LiveGeneration]:
        return list(self._generations)

    def expire(self, live: LiveGeneration) -> None:
        self.handle(live, Event.EXPIRE)

    def abort(self, live: LiveGeneration, why: str) -> None:
        if live.state in ON_TRIAL:
            self.blame(live, why)
            self.handle(live, Event.BROKEN)

    def serves(self, live: LiveGeneration) -> None:
        """It accepts: everybody else who accepted yields to it."""
        self.served = True
        live.tell("SERVES")
        if live.hello is not None:
            self.ledger.peculiar(bool(live.hello.fallback), bool(live.hello.pure))
        if self.soft_drain:
            self.actions.say_soft_drain(live)
            self.ledger.draining(True)
        others = [other for other in self._generations if other is not live and other.state in ACCEPTING_STATES]
        for other in others:
            self.handle(other, Event.RETIRE)
        self.restarts.serves(live, [other.epoch for other in others])

    def failed(self, live: LiveGeneration) -> None:
        if not self.served and not self.stopping:
            self.give_up(live.why)
        self.restarts.failed(live)
        self._keep_serving()

    def give_up(self, why: str) -> None:
        """The first generation can't be: `hotproxy run` ends, and its user reads why, as it was said."""
        self._exit_code = EXIT_REFUSED
        print(for_stderr(ERROR, why), file=sys.stderr, flush=True)
        self.stopping = True
        self.restarts.close()
        self.recycling.close()
        self._end_if_empty()

    def forget(self, live: LiveGeneration) -> None:
        self._generations.remove(live)
        for serial in (*live.promised, *([live.serial] if live.serial else [])):
            self.ledger.fold(serial)
        live.close()
        # It refers to itself, with all the names of its statistics. By the collector's own thresholds, some 100 dead
        # generations would wait for it, and keep 7 MB.
        gc.collect()
        log(INFO, f"generation {live.epoch} is gone")
        self.restarts.gone()
        self._keep_serving()
        self._end_if_empty()

    def _keep_serving(self) -> None:
        """With no healthy generation, and none on its way, one is started: at once, then ever more patiently."""
        healthy = any(live.state is State.ACTIVE for live in self._generations)
        if self.served and not self.stopping and not healthy:
            self.restarts.replace()

    def restart_began(self) -> None:
        if self.served:
            self.notifier.reloading()

    def restart_ended(self, outcome: Outcome) -> None:
        if not self.served or self.stopping:
            return
        if self.restarts.last is not None:  # not the first start
            self.ledger.count_restart(outcome.ok)
        serving = next((live for live in reversed(self._generations) if live.state is State.ACTIVE), None)
        text = outcome.reason if outcome.ok else f"reload refused: {outcome.reason}"
        if serving is not None and serving.hello is not None:
            self.renewal.restart_ended(outcome.ok, serving.hello.supervisor_digest)
            text += serving.hello.remarks()
        self.notifier.ready(text)

    # --- the end ---

    def stop(self, timeout_s: float, caller: Caller | None, limited: bool = False) -> None:
        if caller is not None:
            self._stop_callers.append(caller)
        if self.stopping:
            if caller is None:
                self._stop_at_once()
            return
        log(NOTICE, "stopping")
        self.stopping = True
        self.store.keeps = caller is None  # a signal: `systemctl restart` begins with one
        if caller is not None:
            for owned in self.sockets.all():
                self.store.remove(owned)
        self.notifier.stopping()
        self.ledger.draining(True)
        self.restarts.close()
        self.recycling.close()
        self.renewal.close()
        if limited:
            self.stop_by_s = self.loop.now_s() + timeout_s
            self.loop.after(timeout_s, self._expire_all)
        drains_s = [live.hello.deadlines.drain_s or NO_LIMIT_S for live in self._generations if live.hello]
        # Those who may still come back are not killed for being late.
        patience_s = max(*drains_s, WAIT_S if self.survivors.waiting else 0.0, 0.0)
        self._strangers_until_s = self.stop_by_s or self.loop.now_s() + patience_s
        for live in self.live_generations():
            self.blame(live, "the supervisor is stopping")
            self.handle(live, Event.RETIRE)
        self._end_if_empty()

    def _expire_all(self) -> None:
        for live in self.live_generations():
            self.handle(live, Event.EXPIRE)

    def _stop_at_once(self) -> None:
        log(NOTICE, "stopping at once")
        self._strangers_until_s = 0.0
        for live in self._generations:
            live.kill()
        self.loop.after(AT_ONCE_S, self.loop.stop)

    def _end_if_empty(self) -> None:
        if not self.stopping or self._generations:
            return
        # With KillMode=process nobody else ends what a killed supervisor left: it may drain as long as we might have.
        if strangers := self.ledger.strangers:
            if self.loop.now_s() < self._strangers_until_s:
                self.loop.after(STRANGERS_S, self._end_if_empty)
                return
            log(WARNING, f"processes of an earlier supervisor are killed: {', '.join(map(str, sorted(strangers)))}")
            for pid in strangers:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass  # it has just ended by itself
            self.loop.after(STRANGERS_S, self.loop.stop)  # so that their counters can be folded
            return
        self.loop.stop()

    # --- processes ---

    def reap(self) -> None:
        """Zygotes, and processes whose zygote died before them. Any number of deaths is one SIGCHLD."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            self.conversation.on_death(pid, status)

    def _tick(self) -> None:
        self.loop.after(TICK_S, self._tick)
        self.reap()
        self.tickets.advance(time.time())
        self.notifier.flush()
        self.renewal.look()
        self.store.add(self.sockets.all())
        self.ledger.fold_strangers()
        for live in self._generations:
            if live.is_deaf(min(DEAF_TICKS, self._late_ticks)):
                log(ERROR, f"the zygote of generation {live.epoch} (pid {live.pid}) hangs: killed; its slots serve on")
                live.kill_zygote()
        members = {member.serial: member for live in self._generations for member in live.members.values()}
        cells = {serial: self.ledger.heartbeat_ns(serial) for serial in members}
        for serial in self._heartbeats.tick(cells):
            member = members[serial]
            log(ERROR, f"{member.role} {member.slot} (pid {member.pid}) has no heartbeat: killed")
            member.kill()

    def _pet(self) -> None:
        self.notifier.pet()
        self.loop.after(self.notifier.watchdog_s, self._pet)

    def _is_ours(self, pid: int) -> bool:
        return self.ledger.is_survivor(pid) or any(
            pid in (os.getpid(), live.pid) or any(pid == member.pid for member in live.members.values())
            for live in self._generations
        )


def _allow_all_descriptors() -> None:
    """The soft limit (1024 by default) is for programs that use select(2); ours may have the hard one."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
