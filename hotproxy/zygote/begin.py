"""From an interpreter to a zygote that can fork: fewer privileges, the program, everything frozen."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path

from hotproxy.restarter.frames import Channel
from hotproxy.restarter.instance_dir import SUPERVISOR_SOCKET
from hotproxy.restarter.kernel import drop_all_capabilities, set_process_name
from hotproxy.restarter.log import NOTICE, log, name_process
from hotproxy.shm.bulk import no_collections
from hotproxy.zygote.child import ignore_signals
from hotproxy.zygote.main import Zygote
from hotproxy.zygote.program import Orders, Program


def begin(channel: Channel, orders: Orders) -> int:
    """A generation of hotproxy; the zygote's exit code. What is raised becomes FAILED in `__main__`."""

    def load() -> Program | str:
        # Not before: code of the data plane, and later of users, never runs with a capability.
        from hotproxy.data_path import why_plain
        from hotproxy.http.kernel import WHY_PURE
        from hotproxy.zygote.declare import Refused, load_program

        plain = why_plain()
        if plain:
            log(NOTICE, f"data path: plain Python: {plain}")
        if WHY_PURE:
            log(NOTICE, f"http kernel: httptools; no compiled kernel: {WHY_PURE}")
        try:
            return load_program(orders)
        except Refused as refused:
            return str(refused)

    return live(channel, load, orders.epoch, orders.segment, orders.instance_dir / SUPERVISOR_SOCKET)


def live(channel: Channel, load: Callable[[], Program | str], epoch: int, segment: str, supervisor_path: Path) -> int:
    """`load` gives the program, or why there is none."""
    name_process(f"zygote {epoch}")
    set_process_name("hotproxy-zygote")
    ignore_signals()
    drop_all_capabilities()
    with no_collections():
        program = load()
    if isinstance(program, str):
        channel.send("FAILED", {"why": program})
        return 1
    # What exists now lives as long as the generation: no collection looks at it again, and the pages stay shared with
    # all children (a reference count that is written to copies its page; the collector would touch every one).
    gc.collect()
    gc.freeze()
    return Zygote(channel, program, segment, supervisor_path).run()
