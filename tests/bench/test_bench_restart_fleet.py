"""The clients of the harness: each connection that is cut is in the diary once, and has a successor."""

from __future__ import annotations

import array
import contextlib
import fcntl
import json
import re
import signal
import socket
import subprocess
import sys
import termios
import threading
import urllib.request
from collections import Counter
from pathlib import Path

from bench.restart.fleet import KINDS, Size, fleet
from tests.kit import clients
from tests.kit.diary import ASKED, IDLE, SENT_AWAY, WRONG
from tests.kit.echo_origin import WEBSOCKET_ACCEPT
from tests.kit.instance import eventually
from tests.kit.origin import RecordingOrigin, echo_origin

ROOT = Path(__file__).resolve().parent.parent.parent
SMALL = Size(new_per_s=50, keepalive=2, websocket=2, tcp=2, downloads=1, slow=1, uploads=1, pace_s=0.02, length_s=0.2)
UPGRADED = b"HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: %s\r\n\r\n" % WEBSOCKET_ACCEPT


def test_a_fleet_that_nobody_disturbs_loses_nothing_and_has_answers_of_every_kind() -> None:
    with echo_origin() as ports, fleet(SMALL, ports["http"], ports["tcp"], ports["http"], 0) as running:
        eventually(lambda: asked_for(ports["http"], "/upload") > 1, "an upload to end and the next one to begin")
        seen = running.stop()
    assert seen.losses == []
    assert set(seen.answers) == set(KINDS)
    requests = [after for kind in ("new", "keep-alive") for _, after in seen.answers[kind]]
    # the two upgrades, the downloads and the uploads are requests too, and each of them took some
    assert len(requests) + 2 < seen.answered
    assert min(requests) > 0


def asked_for(port: int, path: str) -> int:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/answered") as answer:
        return int(json.load(answer).get(path, 0))


def test_without_tcp_there_are_no_tcp_clients() -> None:
    with echo_origin() as ports, fleet(SMALL, ports["http"], None, ports["http"], 0) as running:
        seen = running.stop()
    assert "tcp_pairs" not in seen.answers and "websocket" in seen.answers
    assert SMALL.open() - SMALL.open(tcp=False) == SMALL.tcp


def test_a_websocket_that_is_cut_is_counted_and_connects_anew() -> None:
    def cuts_after_the_upgrade(connection: int, received: bytes) -> bytes | None:
        _, blank, rest = received.partition(b"\r\n\r\n")
        return b"" if rest else UPGRADED if blank else None

    with RecordingOrigin(cuts_after_the_upgrade) as origin:
        with living(origin, websocket=1) as run:
            eventually(lambda: len(origin.received) > 2, "three connections")
            counts = run.stop()
    ways = {(kind, how) for _, kind, how, _ in counts["losses"]}
    assert ways == {("websocket", ASKED)}
    assert len(counts["losses"]) == counts["connections"] == counts["answered"] == len(origin.received)


def test_an_upgrade_that_is_answered_with_something_else_is_a_wrong_answer() -> None:
    with RecordingOrigin(lambda number, data: b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n") as origin:
        with living(origin, websocket=1) as run:
            counts = run.stop()
    assert {(kind, how) for _, kind, how, _ in counts["losses"]} == {("websocket", WRONG)}
    assert counts["answered"] == 0


def living(origin: RecordingOrigin, **kinds: int) -> contextlib.AbstractContextManager[clients.LongLived]:
    port = int(origin.address.rpartition(":")[2])
    return clients.long_lived(http=["127.0.0.1", port], origin=port, **kinds, pace_s=0.01, again=True, diary=True)


def test_closed_while_idle_or_while_asked_or_politely_are_three_things() -> None:
    """Connection 1 is closed instead of an answer, 2 after a polite one, 3 after one that said nothing of the kind."""
    served: list[socket.socket] = []

    def serve(listening: socket.socket) -> None:
        for polite in (None, b"Connection: close\r\n", b"", b""):
            sock, _ = listening.accept()
            served.append(sock)
            number = re.findall(rb"X-Number: (\d+)", sock.recv(65536))[0] + b"\n"
            if polite is not None:
                sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n%s\r\n%s" % (len(number), polite, number))
            if len(served) < 4:
                sock.close()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=serve, args=(listening,))
        thread.start()
        with clients.load(listening.getsockname()[1], keepalive=1, pace_s=3600, diary=True) as run:
            thread.join(60)
            counts = run.stop()
        served[3].close()
    assert Counter(how for _, _, how, _ in counts["losses"]) == {ASKED: 1, SENT_AWAY: 1, IDLE: 1}
    assert {kind for _, kind, _, _ in counts["losses"]} == {"keep-alive"}
    assert len(counts["answers"]["keep-alive"]) == counts["ok"] == 3


def test_a_diary_is_handed_in_whole_though_a_signal_interrupts_it() -> None:
    """With PYTHONUNBUFFERED, print() wrote what fitted into the pipe, was interrupted, and called that all.

    The clients ended well, with half a JSON object.
    """
    program = (
        "import signal, sys; signal.signal(signal.SIGUSR1, lambda *_: None)\n"
        "from tests.kit.diary import hand_in\n"
        "hand_in({'answers': 'x' * 1000000})"
    )
    process = subprocess.Popen([sys.executable, "-u", "-c", program], stdout=subprocess.PIPE, cwd=ROOT)
    assert process.stdout is not None
    stdout = process.stdout
    capacity = fcntl.fcntl(stdout, fcntl.F_GETPIPE_SZ)
    eventually(lambda: waiting(stdout.fileno()) == capacity, "a full pipe")
    process.send_signal(signal.SIGUSR1)
    output, _ = process.communicate(timeout=60)
    assert json.loads(output) == {"answers": "x" * 1000000}


def waiting(fd: int) -> int:
    """Bytes that can be read at once."""
    size = array.array("i", [0])
    fcntl.ioctl(fd, termios.FIONREAD, size)
    return size[0]
