"""Records as releases have written them, kept as text: one file for each kind and version, one record for each moment.

    python -m tests.kit.golden          add what today's code writes and the files do not have

What is in a file is never changed: it is what some release sends to its successor.
"""

from __future__ import annotations

import ast
import pprint
from pathlib import Path
from typing import Any

import msgpack

from hotproxy.proxy.http2_connection_manager import Http2ConnectionManager
from hotproxy.telemetry.stream_info import FIELDS
from tests.kit import http2_moments
from tests.kit.handoff import Handoff
from tests.kit.introductions import Bench
from tests.kit.moments import MOMENTS, TCP_MOMENTS, play_tcp

DIRECTORY = Path(__file__).parents[1] / "proxy" / "golden"
ENDPOINT = "127.0.0.1:9000"
INTRODUCTION_MOMENTS = {
    "nothing said": b"",
    "half a line": b"PROXY TCP4 192.",
    "half of version 2": b"\r\n\r\n\x00\r\nQUIT",
}
# Their size is all that there is to them.
_BULKY = frozenset(("slow client", "slow endpoint"))
_REMOTE, _LOCAL = (FIELDS.index(name) for name in ("upstream_remote", "upstream_local"))

Records = dict[str, Any]


def path_of(kind: str, version: int) -> Path:
    return DIRECTORY / f"{kind}-v{version}.txt"


def read(path: Path) -> Records:
    records: Records = ast.literal_eval(path.read_text())
    return records


def written_today() -> dict[Path, Records]:
    """Of each kind, by the file that should have them."""
    found: dict[Path, Records] = {}

    def add(moment: str, state: Any) -> None:
        found.setdefault(path_of(state["kind"], state["version"]), {})[moment] = state

    for name in MOMENTS:
        if name not in _BULKY:
            play = MOMENTS[name].play()
            handoff = Handoff(play)
            add(name, handoff.state)
            for state in handoff.idle_states:
                add(name, state)
            handoff.roll_back()
            play.end()
    for name in http2_moments.MOMENTS:
        play = http2_moments.play(name)
        # A client that has sent no whole preface is one of HTTP/1, as any.
        if isinstance(play.manager, Http2ConnectionManager):
            handoff = Handoff(play)
            add(name, handoff.state)
            handoff.roll_back()
        play.end()
    for name in TCP_MOMENTS:
        add(name, _of_tcp(name))
    for name, said in INTRODUCTION_MOMENTS.items():
        add(name, _of_introduction(said))
    return found


def packed(state: dict[str, object]) -> Any:
    """As it arrives: msgpack makes lists of tuples."""
    return msgpack.unpackb(msgpack.packb(state))


def _of_tcp(name: str) -> Any:
    """With fixed ports in place of those that the kernel gave."""
    bench = play_tcp(name)
    assert bench.proxy.freeze()
    state = packed(bench.proxy.dump())
    bench.proxy.thaw()
    bench.close()
    if state["endpoint"]:
        state["endpoint"] = state["info"][_REMOTE] = ENDPOINT
        state["info"][_LOCAL] = "127.0.0.1:50000"
    return state


def _of_introduction(said: bytes) -> Any:
    bench = Bench()
    bench.say(said)
    introduction = bench.process.only
    assert introduction.freeze()
    state = packed(introduction.dump())
    introduction.thaw()
    bench.close()
    return {**state, "peer": "10.0.0.1:5000"}


def main() -> None:
    DIRECTORY.mkdir(exist_ok=True)
    for path, records in written_today().items():
        kept = read(path) if path.exists() else {}
        path.write_text(pprint.pformat({**records, **kept}, width=118, compact=True, sort_dicts=False) + "\n")


if __name__ == "__main__":
    main()
