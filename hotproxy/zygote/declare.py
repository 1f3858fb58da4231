"""The real program of a zygote: a config, what of it the supervisor must know, and the worker and control process.

Everything that a child will ever need is imported here, before the first fork.
"""

from __future__ import annotations

import grp
import os
import pwd
from pathlib import Path
from typing import Final

from setproctitle import setproctitle

from hotproxy import __version__
from hotproxy.config import ConfigErrors, load, render_text
from hotproxy.config.address import Address
from hotproxy.config.model import Config
from hotproxy.control import main as control_main
from hotproxy.proxy import http_moving, tcp_moving
from hotproxy.restarter.digest import supervisor_code
from hotproxy.restarter.frames import HANDOFF, HANDOFF_VERSION, PROTOCOL_VERSION
from hotproxy.restarter.hello import MOVE_S, NO_LIMIT_S, Deadlines, Hello, WantedAddress, WantedListener
from hotproxy.shm.layout import LAYOUT_VERSION
from hotproxy.shm.schema import to_wire
from hotproxy.telemetry.log_format import LogFormat
from hotproxy.upstream import moving as upstream_moving
from hotproxy.worker import main as worker_main
from hotproxy.worker.build import check_buildable, declare_stats
from hotproxy.zygote.program import Birth, HeldSocket

# The control process listens on these; the config reserves the names.
ADMIN_UNIX: Final = "admin.unix"
ADMIN_TCP: Final = "admin"


class Refused(Exception):
    """This generation can't be; the text is for the user who asked for it."""


class HotproxyProgram:
    """A generation of hotproxy itself."""

    def __init__(self, config: Config, epoch: int, segment_name: str, instance_dir: Path, workers: int) -> None:
        self._config = config
        self._epoch = epoch
        self._segment_name = segment_name
        self._instance_dir = instance_dir
        self.hello = Hello(
            epoch=epoch,
            slots=workers or config.workers or len(os.sched_getaffinity(0)),
            listeners=(*_listeners(config), *_admin(config, instance_dir)),
            deadlines=_deadlines(config),
            stats=to_wire(declare_stats(config)),
            version=__version__,
            protocol=PROTOCOL_VERSION,
            layout=LAYOUT_VERSION,
            supervisor_digest=supervisor_code(),
            codecs={
                HANDOFF: HANDOFF_VERSION,
                **{part.KIND: part.DUMP_VERSION for part in (http_moving, tcp_moving, upstream_moving)},
            },
        )

    @staticmethod
    def is_control(listener: str) -> bool:
        return listener in (ADMIN_UNIX, ADMIN_TCP)

    def work(self, birth: Birth) -> int:
        setproctitle(f"hotproxy: worker {birth.slot}, generation {self._epoch}, {self._instance_dir}")
        config = self._config
        sockets = [_listening(held) for held in birth.sockets]
        start = worker_main.WorkerStart(
            config, self._epoch, birth.slot, sockets, birth.channel, birth.slab, config.drain_timeout_s
        )
        return worker_main.run(start)

    def control(self, birth: Birth) -> int:
        setproctitle(f"hotproxy: control, generation {self._epoch}, {self._instance_dir}")
        sockets = [held.sock for held in birth.sockets]
        start = control_main.ControlStart(
            self._config, self._epoch, sockets, birth.channel, birth.slab, self._segment_name
        )
        return control_main.run(start)


def load_program(path: str, epoch: int, segment_name: str, instance_dir: Path, workers: int) -> HotproxyProgram:
    """Read the config and build what can be built without processes. Raises Refused with all that is wrong."""
    try:
        config = load(path, log_format=LogFormat.compile)
    except ConfigErrors as errors:
        raise Refused(render_text(errors.problems).rstrip()) from None
    try:
        check_buildable(config)
        return HotproxyProgram(config, epoch, segment_name, instance_dir, workers)
    except (ValueError, OSError) as error:
        raise Refused(f"{path}: {error}") from None


def _deadlines(config: Config) -> Deadlines:
    handoff_s = config.handoff_timeout_s or NO_LIMIT_S
    return Deadlines(
        drain_s=config.drain_timeout_s,
        handoff_s=handoff_s,
        move_s=max(MOVE_S, 4 * handoff_s),
        orphan_s=config.orphan_timeout_s or NO_LIMIT_S,
    )


def _listeners(config: Config) -> list[WantedListener]:
    return [
        WantedListener(listener.name, tuple(_wanted(address) for address in listener.addresses))
        for listener in config.listeners
    ]


def _admin(config: Config, instance_dir: Path) -> list[WantedListener]:
    path = str(instance_dir / "admin.sock")
    admin = [WantedListener(ADMIN_UNIX, (WantedAddress(f"unix:{path}", "unix", path=path, mode=0o660),), shared=True)]
    if config.admin is not None:
        admin.append(WantedListener(ADMIN_TCP, (_wanted(config.admin.address),), shared=True))
    return admin


def _wanted(address: Address) -> WantedAddress:
    """Names become numbers here: the supervisor asks no user database."""
    if address.family == "unix":
        owner, group = _number_of(address.owner, "passwd"), _number_of(address.group, "group")
        return WantedAddress(str(address), "unix", path=address.path, mode=address.mode, owner=owner, group=group)
    return WantedAddress(str(address), "tcp", host=address.host, port=address.port)


def _number_of(name: str, database: str) -> int:
    """A user's or group's number; -1 for none. Raises ValueError for one that does not exist."""
    if not name:
        return -1
    if name.isdigit():
        return int(name)
    try:
        return pwd.getpwnam(name).pw_uid if database == "passwd" else grp.getgrnam(name).gr_gid
    except KeyError:
        raise ValueError(f"there is no {'user' if database == 'passwd' else 'group'} '{name}'") from None


def _listening(held: HeldSocket) -> worker_main.ListeningSocket:
    return worker_main.ListeningSocket(
        held.listener, held.address_index, held.slot, held.listening, held.shared, held.sock
    )
