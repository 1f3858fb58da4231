"""A zygote without a supervisor: how it finds the next one, and what it tells it.

    EOF --> looks for `supervisor.sock`: at once, then ever more patiently --connected--> introduces itself
        --ATTACHED--> all is as before: the same processes, sockets and connections, under another supervisor

Nothing changes for its children meanwhile. What they said that no supervisor heard is kept here and told later.
"""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from hotproxy.restarter.frames import MAX_FDS, Channel, FrameError, Message
from hotproxy.restarter.hello import MAX_COUNT, Hello
from hotproxy.restarter.log import NOTICE, WARNING, log
from hotproxy.restarter.loop import Alarm, Loop
from hotproxy.restarter.outbox import Outbox
from hotproxy.zygote.seats import Seats

# A supervisor that replaces its own code listens all the time. One that was killed is started again by systemd after
# 100 ms (RestartSec), by a person after seconds.
FIRST_RETRY_S: Final = 0.01
LAST_RETRY_S: Final = 0.1
# A supervisor has said no: it may be another one's turn.
REFUSED_S: Final = 1.0
# More deaths than a generation of the usual size can have while nobody listens.
MAX_UNTOLD: Final = 256


class _Search:
    """For a supervisor that listens on `path`. `on_found` gets the channel to it."""

    def __init__(self, path: Path, loop: Loop, on_found: Callable[[Channel], None]) -> None:
        self._path = path
        self._loop = loop
        self._on_found = on_found
        self._alarm: Alarm | None = None
        self._retry_s = FIRST_RETRY_S

    def begin(self, after_s: float = 0.0) -> None:
        self.stop()
        self._retry_s = FIRST_RETRY_S
        if after_s:
            self._alarm = self._loop.after(after_s, self._look)
        else:
            self._look()

    def stop(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None

    def _look(self) -> None:
        self._alarm = None
        sock = None
        try:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
            sock.connect(str(self._path))
        except OSError:  # ENOENT, ECONNREFUSED: nobody; EAGAIN: many others are asking; EMFILE
            if sock is not None:
                sock.close()
            self._alarm = self._loop.after(self._retry_s, self._look)
            self._retry_s = min(self._retry_s * 2, LAST_RETRY_S)
            return
        self._on_found(Channel(sock))


class _Untold:
    """What the last supervisor may not have heard."""

    def __init__(self) -> None:
        # All deaths of late: one that was sent may have been lost with the supervisor that was to read it. The next one
        # knows from the shared memory which of them were counted.
        self.deaths: deque[Mapping[str, Any]] = deque(maxlen=MAX_UNTOLD)
        self.moved = 0
        self.refused = 0

    def add_move(self, fields: Mapping[str, Any]) -> None:
        """MOVED, which nobody was there to read."""
        if 0 <= fields["moved"] <= MAX_COUNT and 0 <= fields["refused"] <= MAX_COUNT:
            self.moved = min(self.moved + fields["moved"], MAX_COUNT)
            self.refused = min(self.refused + fields["refused"], MAX_COUNT)

    def told(self) -> None:
        self.moved = self.refused = 0


class Supervision:
    """The channel to the supervisor, whichever it is. `on_gone` says whether another one may go on with this zygote;
    then `introduce` is to say to it who we are."""

    def __init__(
        self,
        channel: Channel,
        path: Path,
        loop: Loop,
        on_message: Callable[[Message], None],
        on_bad_frame: Callable[[FrameError], None],
        on_gone: Callable[[], bool],
        introduce: Callable[[Outbox], None],
    ) -> None:
        self._loop = loop
        self._on_message = on_message
        self._on_bad_frame = on_bad_frame
        self._on_gone = on_gone
        self._introduce = introduce
        self._search = _Search(path, loop, self._on_found)
        self._outbox = self._listen_to(channel)
        self.attached = True  # False: there is none, or it has not said yet that it goes on with us
        self.untold = _Untold()

    def post(self, kind: str, fields: Mapping[str, Any] | None = None, fds: Sequence[int] = ()) -> None:
        self._outbox.post(kind, fields, fds)

    @property
    def channel(self) -> Channel:
        return self._outbox.channel

    @property
    def waiting_fds(self) -> list[int]:
        return self._outbox.waiting_fds

    def on_attached(self, ok: bool, why: str) -> bool:
        """ATTACHED came: whether all is as before."""
        if not ok:
            log(WARNING, f"a supervisor does not go on with this generation: {why}")
            self.introduce_again()
            return False
        log(NOTICE, "another supervisor is there")
        self.attached = True
        self.untold.told()
        return True

    def introduce_again(self) -> None:
        """What was said to one that has not answered yet is not so any more; or it has said no."""
        if self._outbox.open and not self.attached:
            self._outbox.close()
            self._search.begin(REFUSED_S)

    def _listen_to(self, channel: Channel) -> Outbox:
        return Outbox(channel, self._loop, self._on_message, self._on_bad_frame, self._on_closed)

    def _on_closed(self) -> None:
        self.attached = False
        if self._on_gone():
            self._search.begin()
            if not self._outbox.open:  # one that replaces its own code is found at once
                log(WARNING, "the supervisor is gone; looking for another one")

    def _on_found(self, channel: Channel) -> None:
        self._outbox = self._listen_to(channel)
        self._introduce(self._outbox)


def introduce(outbox: Outbox, hello: Hello, fields: Mapping[str, Any], seats: Seats, untold: _Untold) -> None:
    """Everything that a supervisor knows of its generations; `fields`: how far this one is (ATTACH)."""
    said = {**hello.to_wire(), "stats": []}  # those are in the shared memory
    sums = {"moved": untold.moved, "refused": untold.refused}
    outbox.post("ATTACH", {**fields, **sums, "slots": seats.slots, "hello": said})
    sockets = seats.sockets
    for at in range(0, len(sockets), MAX_FDS):
        batch = sockets[at : at + MAX_FDS]
        wires = {
            "sockets": [held.wire() for held in batch],
            "inodes": [list(held.inode) for held in batch],
            "last": at + MAX_FDS >= len(sockets),
        }
        outbox.post("SOCKETS", wires, [held.sock.fileno() for held in batch])
    for child in seats.children.values():
        forked = {"serial": child.serial, "slot": child.slot, "role": child.role, "pid": child.pid}
        outbox.post("FORKED", forked, [child.outbox.channel.fileno(), child.pidfd])
        outbox.post("SLOT", {"serial": child.serial, "state": child.state})
    for death in untold.deaths:
        outbox.post("DIED", death)
    outbox.post("INTRODUCED")
