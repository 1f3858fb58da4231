r"""The supervisor replaces its own code: the same process, the same children, the same sockets, by execve.

    other code on the disk (HELLO says so, or USR2) --the restart is over, nothing moves--> rehearsal: a child starts
    the new code as far as that goes beside the one that runs
        --it fails, or hangs--> the old code goes on; the same new code is not tried again (USR2 does)
        --it ends well, and still nothing moves--> execve: zygotes see EOF, and come back to the new code (`survivors`)

Nobody waits for any of this: while the rehearsal runs, commands and signals are obeyed. During the execve signals are
blocked, and delivered afterwards; commands wait in the queue of `supervisor.sock`, which stays open.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

from hotproxy.restarter.digest import SHOWN, supervisor_code
from hotproxy.restarter.generation import State
from hotproxy.restarter.live import LEAVING
from hotproxy.restarter.log import ERROR, NOTICE, log
from hotproxy.restarter.loop import Alarm, Loop
from hotproxy.restarter.rehearsal import clear
from hotproxy.restarter.requests import SIGNALS
from hotproxy.restarter.resume import Resume
from hotproxy.restarter.spawn import OF_GROUPS, TAIL_BYTES, describe_exit

if TYPE_CHECKING:
    from hotproxy.restarter.supervisor import Supervisor

# Interpreter, imports, one command: 100 ms. A machine that needs a hundred times as long has other worries.
REHEARSAL_S: Final = 10.0
# Somebody is being answered, a message is unread: over in no time.
RETRY_S: Final = 0.05
# How often the files on the disk are looked at for `hotproxy status`.
DISK_S: Final = 1.0


class _Rehearsal:
    """A child that is to say the digest of its code, and then to end."""

    def __init__(self, command: list[str]) -> None:
        self.output = b""
        self.errors = b""
        self.stdout, out = os.pipe()
        self.stderr, err = os.pipe()
        try:
            for fd in (self.stdout, self.stderr):
                os.set_blocking(fd, False)
            self.pid = os.posix_spawn(
                command[0],
                command,
                os.environ,
                file_actions=[(os.POSIX_SPAWN_DUP2, out, 1), (os.POSIX_SPAWN_DUP2, err, 2)],
                setsigmask=OF_GROUPS,  # what is sent to the whole group is not for a rehearsal: it stays blocked
                setsigdef=signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP},
            )
        except BaseException:
            self.close()
            raise
        finally:
            os.close(out)
            os.close(err)

    def watch(self, loop: Loop) -> None:
        for fd in (self.stdout, self.stderr):
            loop.watch(fd, partial(self._read, fd, loop))

    def _read(self, fd: int, loop: Loop) -> None:
        data, ended = _all_of(fd)
        if ended:
            loop.unwatch(fd)  # it would be readable for ever
        if fd == self.stdout:
            self.output = (self.output + data)[-TAIL_BYTES:]
        else:
            self.errors = (self.errors + data)[-TAIL_BYTES:]

    def end(self, loop: Loop) -> None:
        for fd in (self.stdout, self.stderr):
            self._read(fd, loop)
            loop.unwatch(fd)
        self.close()

    def close(self) -> None:
        os.close(self.stdout)
        os.close(self.stderr)


class Renewal:
    """`command` is executed in place of this process, and with `--rehearse` beside it."""

    def __init__(self, supervisor: Supervisor, command: Sequence[str]) -> None:
        self._supervisor = supervisor
        self._loop = supervisor.loop
        self._command = list(command)
        self._wanted = ""  # the digest that is on the disk, as far as is known
        self._asked = False  # by USR2
        self._refused = ""  # a digest that was rehearsed in vain
        self._rehearsed = ""
        self._rehearsal: _Rehearsal | None = None
        self._alarm: Alarm | None = None
        self._disk = ("", 0.0)
        self.why = ""  # newer code is not run

    def ask(self) -> None:
        """Once the restart that was asked for as well has succeeded, whatever code there is."""
        self._asked = True
        self._refused = ""

    def restart_ended(self, ok: bool, digest: str) -> None:
        """A generation with this code serves now; or the restart was refused, and nothing changes."""
        if not ok:
            self._asked = self._asked and self._supervisor.restarts.busy  # the one that was asked for is still to come
        elif digest != self._supervisor.code or self._asked:
            self._wanted = digest
            self.look()

    def on_disk(self) -> str:
        """The digest of what is on the disk, as it was a moment ago; "" where it can't be read."""
        digest, at_s = self._disk
        if not at_s or self._loop.now_s() - at_s > DISK_S:
            try:
                digest = supervisor_code()
            except OSError:
                digest = ""
            self._disk = (digest, self._loop.now_s())
        return digest

    def look(self) -> None:
        """Called after a restart and once a tick: begin, if there is a reason and nothing else is going on."""
        wanted = self._asked or (self._wanted and self._wanted not in (self._supervisor.code, self._refused))
        if wanted and self._rehearsal is None and not self._rehearsed and self._command and self._is_quiet():
            self._begin()

    def close(self) -> None:
        """The supervisor stops."""
        if self._rehearsal is not None:
            os.kill(self._rehearsal.pid, signal.SIGKILL)  # our child, and not reaped yet
        self._asked, self._wanted, self._rehearsed = False, "", ""

    # --- the rehearsal ---

    def _begin(self) -> None:
        log(NOTICE, "other code for the supervisor: it is rehearsed")
        try:
            rehearsal = _Rehearsal([*self._command, "--rehearse"])
        except OSError as error:
            self._give_up(f"{self._command[0]} can't be run: {error.strerror}")
            return
        self._rehearsal = rehearsal
        rehearsal.watch(self._loop)
        self._alarm = self._loop.after(REHEARSAL_S, lambda: os.kill(rehearsal.pid, signal.SIGKILL))

    def on_death(self, pid: int, status: int) -> bool:
        """A child was reaped. False: it is not ours."""
        rehearsal = self._rehearsal
        if rehearsal is None or rehearsal.pid != pid:
            return False
        self._rehearsal = None
        assert self._alarm is not None
        late = self._alarm.call is None
        self._alarm.cancel()
        rehearsal.end(self._loop)
        clear(self._supervisor.options.instance_dir)
        words = rehearsal.errors.decode(errors="replace").strip().splitlines()
        if self._supervisor.stopping:
            pass
        elif late:
            self._give_up(f"it was not ready within {REHEARSAL_S:g} s")
        elif status != 0:
            self._give_up(describe_exit(status) + (f": {words[-1]}" if words else ""))
        else:
            self._rehearsed = rehearsal.output.decode(errors="replace").strip()
            self._loop.after(0.0, self._go)  # not in the middle of the signals that were received
        return True

    def _give_up(self, why: str) -> None:
        self._refused = self._wanted or self.on_disk()
        self._asked = False
        self.why = f"the supervisor's new code is not run: {why}"
        log(ERROR, f"{self.why}; the old one goes on")

    # --- the execve ---

    def _is_quiet(self) -> bool:
        """Nothing is under way that a supervisor alone knows of."""
        supervisor = self._supervisor
        return not (
            supervisor.stopping or supervisor.survivors.busy or supervisor.restarts.busy or supervisor.moves.busy
            or supervisor.recycling.busy or supervisor.commands.busy
        ) and all(
            live.zygote_alive and live.state in (State.ACTIVE, State.DRAINING) and live.stderr < 0
            and not live.promised and not live.added and not live.outbox.unread
            and not any(member.state == LEAVING[0] for member in live.slot_members)
            for live in supervisor.live_generations()
        )  # fmt: skip

    def _go(self) -> None:
        if not self._rehearsed:
            return
        if self._is_quiet():
            if self._rehearsed != supervisor_code():
                self._rehearsed = ""  # the next look begins again
                return
            signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
            self._supervisor.requests.catch_up()  # with signals that came before: one may ask for a restart
            if self._is_quiet():
                self._execute()
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        self._loop.after(RETRY_S, self._go)

    def _execute(self) -> None:
        supervisor = self._supervisor
        last = supervisor.restarts.last
        resume = Resume(
            supervisor.started_s,
            supervisor.soft_drain,
            last.to_wire() if last is not None else None,
            [owned.to_wire() for owned in supervisor.sockets.all()],
            supervisor.tickets.to_wire(),
        )
        lock_fd, commands_fd, memfd = supervisor.lock.fileno(), supervisor.commands.fileno(), resume.write()
        inherited = [lock_fd, commands_fd, memfd, *(owned.sock.fileno() for owned in supervisor.sockets.all())]
        handed = ["--lock-fd", str(lock_fd), "--commands-fd", str(commands_fd), "--resume", str(memfd)]
        log(NOTICE, f"the supervisor becomes {self._rehearsed[:SHOWN]} (it was {supervisor.code[:SHOWN]})")
        for fd in inherited:
            os.set_inheritable(fd, True)
        try:
            os.execv(self._command[0], [*self._command, *handed])
        except OSError as error:
            self._rehearsed = ""
            self._give_up(f"{self._command[0]} can't be run: {error.strerror}")
        for fd in inherited:
            os.set_inheritable(fd, False)
        os.close(memfd)


def _all_of(fd: int) -> tuple[bytes, bool]:
    """What a non-blocking pipe has, and whether that was its end."""
    data = b""
    try:
        while more := os.read(fd, 65536):
            data += more
    except BlockingIOError:
        return data, False
    return data, True
