"""As much of a supervisor's start as can be had beside the one that runs: what new code must do before it is run."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import TYPE_CHECKING

from hotproxy.errors import HotproxyError
from hotproxy.restarter.frames import Channel

if TYPE_CHECKING:
    from hotproxy.restarter.supervisor import Supervisor


def rehearse(supervisor: Supervisor) -> str:
    """The digest of this code. Raises what goes wrong."""
    supervisor.ledger.look()
    commands = supervisor.listen(_path(supervisor.options.instance_dir))
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.connect(str(commands.path))
        caller = Channel(sock)
        caller.send("COMMAND", {"verb": "status", "arguments": {}})
        while (answer := caller.receive()) is None:
            supervisor.loop.turn()
    commands.close()
    if not answer.fields.get("ok"):
        raise HotproxyError(f"it does not say how it is: {answer.fields}")
    return supervisor.code


def clear(instance_dir: Path) -> None:
    """Whatever one that failed has left."""
    path = _path(instance_dir)
    for each in (path, path.with_name(f"{path.name}.new")):
        each.unlink(missing_ok=True)


def _path(instance_dir: Path) -> Path:
    return instance_dir / "rehearsal"  # not longer than the one it stands for: 107 bytes are the limit
