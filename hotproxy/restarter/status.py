"""The answer to `hotproxy status`: generations, their processes, the bound addresses, how the last restart went."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from hotproxy.restarter.digest import SHOWN
from hotproxy.restarter.generation import State
from hotproxy.restarter.live import LiveGeneration

if TYPE_CHECKING:
    from hotproxy.restarter.supervisor import Supervisor


def status_of(supervisor: Supervisor) -> dict[str, Any]:
    """CONTRACT's JSON, msgpack-able."""
    generations = supervisor.live_generations()
    serving = [live for live in generations if live.state in (State.ACTIVE, State.ORPHANED) and not live.yielded]
    if supervisor.survivors.waiting:
        serving = []  # which one accepts is known when all are back
    last = supervisor.restarts.last
    hello = serving[-1].hello if serving else None
    return {
        "pid": os.getpid(),
        "instance": supervisor.options.instance,
        "config": supervisor.options.config,
        "config_fallback": hello.fallback if hello is not None else "",
        "pure_kernel": hello.pure if hello is not None else "",
        "state": _state(supervisor, bool(serving)),
        "epoch": serving[-1].epoch if serving else 0,
        "supervisor": {
            "code": supervisor.code[:SHOWN],
            "on_disk": supervisor.renewal.on_disk()[:SHOWN],
            "note": _note(supervisor),
        },
        "uptime_s": round(supervisor.loop.now_s() - supervisor.started_s, 3),
        "generations": [_generation(supervisor, live) for live in generations],
        "listeners": _listeners(supervisor, serving[-1]) if serving else [],
        "last_restart": last.to_wire() if last is not None else {},
    }


def _note(supervisor: Supervisor) -> str:
    """What there is to say of this process itself."""
    if supervisor.survivors.waiting:
        return "re-attaching"
    return supervisor.renewal.why or supervisor.survivors.outcome


def _state(supervisor: Supervisor, serves: bool) -> str:
    """Envoy's words (admin/v3/server_info.proto)."""
    if supervisor.stopping or supervisor.soft_drain:
        return "DRAINING"
    return "LIVE" if serves else "INITIALIZING"


def _generation(supervisor: Supervisor, live: LiveGeneration) -> dict[str, Any]:
    control = next((member.pid for member in live.members.values() if member.role == "control"), None)
    slots = [
        {
            "slot": member.slot,
            "pid": member.pid,
            "state": member.state,
            "connections": supervisor.ledger.connections(member.serial),
        }
        for member in live.slot_members
    ]
    if live.state is State.ACTIVE:
        taken = {slot["slot"] for slot in slots}
        down = [slot for slot in range(live.slots) if slot not in taken]
        # No pid, rather than 0: to `kill` that would be the caller's whole process group.
        slots += [{"slot": slot, "pid": None, "state": "down", "connections": 0} for slot in down]
    slots.sort(key=lambda slot: (slot["slot"], slot["pid"] or 0))
    return {
        "epoch": live.epoch,
        "state": live.state.value,
        "pid": live.pid,
        "slots": slots,
        "control": {"pid": control},
    }


def _listeners(supervisor: Supervisor, live: LiveGeneration) -> list[dict[str, Any]]:
    if live.hello is None:
        return []
    return [
        {"name": listener.name, "addresses": supervisor.sockets.bound(live.lease, listener.name)}
        for listener in live.hello.listeners
    ]
