"""The real program of a zygote: a config, what of it the supervisor must know, and the worker and control process.

Everything that a child will ever need is imported here, before the first fork.
"""

from __future__ import annotations

import grp
import os
import pwd
from typing import Final

from setproctitle import setproctitle

from hotproxy import __version__
from hotproxy.config import examine, render_text
from hotproxy.config.address import Address
from hotproxy.config.last_good import check_owner
from hotproxy.config.model import Config
from hotproxy.config.on_disk import Files
from hotproxy.config.sources import SourceError
from hotproxy.control import main as control_main
from hotproxy.data_path import why_plain
from hotproxy.http import kernel as http_kernel
from hotproxy.net import tls_tickets, transfer
from hotproxy.proxy import http_moving, introduction, tcp_moving
from hotproxy.restarter.digest import supervisor_code
from hotproxy.restarter.frames import HANDOFF, HANDOFF_VERSION, PROTOCOL_VERSION
from hotproxy.restarter.hello import MOVE_S, NO_LIMIT_S, Deadlines, Hello, WantedAddress, WantedListener
from hotproxy.restarter.log import ERROR, WARNING, log
from hotproxy.shm import kernel as shm_kernel
from hotproxy.shm.layout import LAYOUT_VERSION
from hotproxy.shm.schema import to_wire
from hotproxy.telemetry import line
from hotproxy.telemetry.log_format import LogFormat
from hotproxy.upstream import moving as upstream_moving
from hotproxy.worker import main as worker_main
from hotproxy.worker.build import TlsSides, check_buildable, declare_stats, load_tls
from hotproxy.zygote.program import Birth, HeldSocket, Orders

# The control process listens on these; the config reserves the names.
ADMIN_UNIX: Final = "admin.unix"
ADMIN_TCP: Final = "admin"
# Of what is wrong with a config, for `status`: the first mistakes. The log has all of them.
MAX_WHY: Final = 4000


class Refused(Exception):
    """This generation can't be; the text is for the user who asked for it."""


class HotproxyProgram:
    """A generation of hotproxy itself."""

    def __init__(self, orders: Orders, config: Config, files: Files, tls: TlsSides, fallback: str = "") -> None:
        """`files`: those that `config` was read from; `fallback`: why it is the last good one, and not the file's."""
        self._config = config
        self._tls = tls
        self._orders = orders
        self._files = files
        self._shares_sessions = _shares_sessions(config)
        self.hello = Hello(
            epoch=orders.epoch,
            slots=orders.workers or config.workers or len(os.sched_getaffinity(0)),
            listeners=(*_listeners(config), *_admin(config, str(orders.instance_dir))),
            deadlines=_deadlines(config),
            stats=to_wire(declare_stats(config)),
            version=__version__,
            protocol=PROTOCOL_VERSION,
            layout=LAYOUT_VERSION,
            supervisor_digest=supervisor_code(),
            codecs={
                HANDOFF: HANDOFF_VERSION,
                **{part.KIND: part.DUMP_VERSION for part in (http_moving, tcp_moving, introduction, upstream_moving)},
            },
            compiled=not all(_why_not_compiled()),
            pure=orders.pure,
            fallback=fallback[:MAX_WHY],
        )

    @staticmethod
    def is_control(listener: str) -> bool:
        return listener in (ADMIN_UNIX, ADMIN_TCP)

    def work(self, birth: Birth) -> int:
        orders = self._orders
        setproctitle(f"hotproxy: worker {birth.slot}, generation {orders.epoch}, {orders.instance_dir}")
        config = self._config
        sockets = [_listening(held) for held in birth.sockets]
        start = worker_main.WorkerStart(
            config, orders.epoch, birth.slot, sockets, birth.channel, birth.slab, config.drain_timeout_s,
            birth.tickets if self._shares_sessions else None, self._tls,
        )  # fmt: skip
        return worker_main.run(start)

    def control(self, birth: Birth) -> int:
        orders = self._orders
        setproctitle(f"hotproxy: control, generation {orders.epoch}, {orders.instance_dir}")
        sockets = [held.sock for held in birth.sockets]
        start = control_main.ControlStart(
            self._config, orders.epoch, sockets, birth.channel, birth.slab, orders.segment, self._files,
            "" if self.hello.fallback else orders.last_good,
        )  # fmt: skip
        return control_main.run(start)


def load_program(orders: Orders) -> HotproxyProgram:
    """Read the config and build what can be built without processes. Raises Refused with all that is wrong."""
    try:
        return _load(orders, orders.config)
    except Refused as refused:
        if not orders.fallback:
            raise
        why = str(refused)
    try:
        check_owner(orders.last_good)
        program = _load(orders, orders.last_good, why)
    except (SourceError, Refused) as error:
        raise Refused(f"{why}\nand there is no last good config to fall back on: {error}") from None
    log(ERROR, f"the config is broken, this generation runs the last good one ({orders.last_good}) instead:\n{why}")
    return program


def _load(orders: Orders, path: str, fallback: str = "") -> HotproxyProgram:
    examined = examine(path, log_format=LogFormat.compile)
    if examined.config is None:
        raise Refused(render_text(examined.problems).rstrip())
    # The files of a broken config are not what the last good one was read from, whatever they hold later.
    files = Files(((orders.config, ""),)) if fallback else examined.files
    try:
        check_buildable(examined.config)
        return HotproxyProgram(orders, examined.config, files, load_tls(examined.config), fallback)
    except (ValueError, OSError) as error:
        raise Refused(f"{path}: {error}") from None


def _why_not_compiled() -> list[str]:
    """Of each part of the data path that could be; "" where it is."""
    return [why_plain(), http_kernel.WHY_PURE, shm_kernel.WHY_PLAIN, transfer.WHY_PLAIN, line.WHY_PLAIN]


def _shares_sessions(config: Config) -> bool:
    """Can the workers of all generations resume each other's TLS sessions? Tried here, before anything is forked."""
    if all(listener.tls is None for listener in config.listeners):
        return False
    why = tls_tickets.why_not()
    if why:
        log(WARNING, f"TLS sessions resume within one generation at most: {why}")
    return not why


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


def _admin(config: Config, instance_dir: str) -> list[WantedListener]:
    path = os.path.join(instance_dir, "admin.sock")
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
