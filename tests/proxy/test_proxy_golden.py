"""What releases have written, today's code reads; and what it writes is what its version says.

A record goes from one release to the next one, or back: whoever changes a record's shape gives it a new version, keeps
reading the old one, and adds a file (`python -m tests.kit.golden`).
"""

from __future__ import annotations

import functools
import socket
from pathlib import Path
from typing import Any

import pytest

from hotproxy.net.proxy_protocol import encode
from hotproxy.proxy import http2_moving, http_moving, introduction, tcp_moving
from hotproxy.proxy.tcp_proxy import TcpProxy
from hotproxy.telemetry.stream_info import FIELDS, StreamInfo
from hotproxy.upstream import moving
from tests.kit import golden, http2_moments, introductions
from tests.kit.clock import FakeClock
from tests.kit.handoff import Handoff
from tests.kit.moments import MOMENTS
from tests.kit.tcp_bench import Process

ATTEMPTS = FIELDS.index("attempts")
# What the record of an exchange has since version 2, and what a record of version 1 means by not having it.
ADDED = [getattr(StreamInfo(), name) for name in FIELDS[FIELDS.index("downstream_direct_remote") :]]
FILES = sorted(golden.DIRECTORY.glob("*.txt"))


def records_of(kind: str) -> list[Any]:
    return [
        pytest.param(moment, record, id=f"{path.stem} {moment}")
        for path in FILES
        if path.stem.rpartition("-v")[0] == kind
        for moment, record in golden.read(path).items()
    ]


@functools.cache
def today() -> dict[Path, golden.Records]:
    return golden.written_today()


@pytest.mark.parametrize(
    "part", [http_moving, http2_moving, tcp_moving, introduction, moving], ids=lambda part: part.KIND
)
def test_every_version_has_its_file(part: Any) -> None:
    for version in range(1, part.DUMP_VERSION + 1):
        assert golden.path_of(part.KIND, version) in FILES


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_what_is_written_today_is_what_the_version_says(path: Path) -> None:
    records = today().get(path)
    if records is not None:  # else it is an older version's
        assert records == golden.read(path), "another shape needs another version"


@pytest.mark.parametrize(("moment", "record"), records_of("http1"))
def test_an_http_connection_of_any_release_goes_on(moment: str, record: Any) -> None:
    play = MOMENTS[moment].play()
    handoff = Handoff(play)
    handoff.state = record
    handoff.commit()
    MOMENTS[moment].play_on(play)
    assert play.log.infos and all(info.status for info in play.log.infos)
    play.end()


@pytest.mark.parametrize(("moment", "record"), records_of("http2"))
def test_so_does_one_of_http2(moment: str, record: Any) -> None:
    play = http2_moments.play(moment)
    handoff = Handoff(play)
    handoff.state = record
    handoff.commit()
    http2_moments.play_on(moment, play)
    assert play.log.infos and all(info.status == 200 for info in play.log.infos)
    play.end()


@pytest.mark.parametrize("moment", http2_moments.MOMENTS)
def test_a_moment_of_http2_is_what_it_says(moment: str) -> None:
    """With a move and without."""
    moved, stayed = http2_moments.play(moment), http2_moments.play(moment)
    moved.hand_off()
    for play in (moved, stayed):
        http2_moments.play_on(moment, play)
        assert [info.status for info in play.log.infos] == [200] * (3 if moment == "several" else 1)
        play.end()
    assert moved.counts() == stayed.counts()


@pytest.mark.parametrize(("moment", "record"), records_of("http1_idle"))
def test_so_does_an_idle_one_to_an_endpoint(moment: str, record: Any) -> None:
    play = MOMENTS["idle"].play()
    handoff = Handoff(play)
    handoff.idle_states = [record]
    handoff.commit()
    MOMENTS["idle"].play_on(play)
    assert play.find("up2") is None and play.log.infos[-1].status == 200
    play.end()


@pytest.mark.parametrize(("moment", "record"), records_of("proxy_protocol"))
def test_so_does_a_proxy_in_the_middle_of_its_header(moment: str, record: Any) -> None:
    process = introductions.Process(FakeClock())
    ours, theirs = socket.socketpair()
    with theirs:
        ours.setblocking(False)
        loaded = process.listener.adopt(record, [ours])
        assert golden.packed(loaded.freeze() or loaded.dump()) == record
        loaded.start()
        whole = encode(1, "192.0.2.1:1", "192.0.2.2:2") if b"P" in record["received"][:1] else encode(2, "", "")
        theirs.sendall(whole[len(record["received"]) :] + b"x")
        process.loop.run()
        assert process.only.heard == ["start", b"x"]
    process.end()


@pytest.mark.parametrize(("moment", "record"), records_of("tcp"))
def test_so_does_a_tcp_connection(moment: str, record: Any) -> None:
    process = Process(FakeClock(), [golden.ENDPOINT])
    pairs = [socket.socketpair() for _ in range(1 if record["up"] is None else 2)]
    for ours, theirs in pairs:
        ours.setblocking(False)
        theirs.settimeout(5)
    socks = [ours for ours, _ in pairs]
    loaded = TcpProxy.load(record, socks, process.listener, process, process.runtime)
    if record["version"] == 1:  # written down again, it has what was added since
        record = {**record, "version": tcp_moving.DUMP_VERSION, "info": [*record["info"], *ADDED]}
    if record["up"] is None:  # the attempt that was under way is to be begun anew
        record["info"][ATTEMPTS] -= 1
        assert golden.packed(loaded.dump()) == record
        loaded.discard()
        assert process.moved == [loaded]
    else:
        assert golden.packed(loaded.dump()) == record
        loaded.start()
        pairs[1][1].sendall(b"on it goes")
        process.loop.run()
        assert pairs[0][1].recv(100) == b"on it goes"
        pairs[0][1].close()
        pairs[1][1].close()
        process.loop.run()
        assert process.ended == [loaded]
    for _, theirs in pairs:
        theirs.close()
    process.assert_clean()
