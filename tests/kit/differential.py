"""The corpus of raw requests through hotproxy, nginx, HAProxy and Envoy: what does each let through to an origin?

`run()` gives what arrived, as messages. The test compares them; `docs/http1_differential.py` writes them down.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tests.kit import clients
from tests.kit.instance import instance
from tests.kit.origin import RecordingOrigin
from tests.kit.peers import PEERS, peers

CORPUS = Path(__file__).parent.parent / "corpus" / "http1"
CASES = sorted(f"{path.parent.name}/{path.stem}" for path in CORPUS.glob("*/*.request"))
LANES = 8  # so many cases at a time, each with an origin of its own
SILENCE_S = 0.4  # nothing has come for so long: the proxy waits for the rest of a request, or for the next one
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

# What is forwarded although two of the three refuse it: docs/decisions/0005-http1-is-strict.md says why.
EXPLAINED = frozenset(
    {
        "valid/fields-own-uncounted",
        "valid/method-lower-case",
        "valid/method-odd-token",
        "valid/pipelined-behind-a-length-lie",
        "valid/target-absolute-query-only",
        "valid/upgrade-in-http10",
    }
)
# Larger requests are sent whole only.
MAX_BYTE_BY_BYTE = 3000


@dataclasses.dataclass(frozen=True)
class Message:
    """A request as an origin reads it that is strict about framing and nothing else."""

    method: bytes
    framing: str
    body: bytes


def read_message(data: bytes) -> tuple[Message | None, bytes]:
    """The first complete message, and what is behind it; (None, data) for an incomplete one."""
    head, blank, rest = data.partition(b"\r\n\r\n")
    if not blank:
        return None, data
    lines = head.split(b"\r\n")
    fields = [(name.lower(), value.strip()) for name, _, value in (line.partition(b":") for line in lines[1:])]
    lengths = [value for name, value in fields if name == b"content-length"]
    codings = [value for name, value in fields if name == b"transfer-encoding"]
    method = lines[0].partition(b" ")[0]
    if len(lengths) + len(codings) > 1:
        return Message(method, "ambiguous", b""), b""
    if lengths:
        length = int(lengths[0])
        return (Message(method, "body", rest[:length]), rest[length:]) if len(rest) >= length else (None, data)
    if not codings:
        return Message(method, "none", b""), rest
    body = b""
    while True:
        line, ended, rest = rest.partition(b"\r\n")
        size = int(line.partition(b";")[0] or b"0", 16)
        if not ended or len(rest) < size + 2:
            return None, data
        if not size:
            break
        body += rest[:size]
        rest = rest[size + 2 :]
    while rest and not rest.startswith(b"\r\n"):
        rest = rest.partition(b"\r\n")[2]
    return (Message(method, "body", body), rest[2:]) if rest else (None, data)


class Lane:
    """One origin, and the ports by which each proxy reaches it."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.ports: dict[str, int] = {}
        self._answered: dict[int, int] = {}
        self.origin = RecordingOrigin(self._answer)

    def _answer(self, connection: int, received: bytes) -> bytes | None:
        found: list[Message] = []
        message, rest = read_message(received)
        while message is not None:
            found.append(message)
            message, rest = read_message(rest)
        before, self._answered[connection] = self._answered.get(connection, 0), len(found)
        self.messages += found[before:]
        return OK * (len(found) - before) or None

    def ask(self, proxy: str, request: bytes, pieces: int) -> list[Message]:
        """What the origin receives for these bytes of a client."""
        self.messages.clear()
        with clients.connect(self.ports[proxy]) as sock, contextlib.suppress(OSError):
            for start in range(0, len(request), pieces or len(request)):
                sock.sendall(request[start : start + (pieces or len(request))])
            sock.settimeout(SILENCE_S)
            while sock.recv(65536):
                pass
        return list(self.messages)


Results = dict[tuple[str, str, int], list[Message]]


@contextlib.contextmanager
def side_by_side(origins: Sequence[str]) -> Iterator[list[dict[str, int]]]:
    """hotproxy and all its peers before these origins: for each of them, the port by which a proxy leads there."""
    directory = Path(tempfile.mkdtemp(prefix="hp-"))
    numbers = range(len(origins))
    listeners = "".join(f"\n  - {{name: l{n}, address: '127.0.0.1:0', cluster: c{n}}}" for n in numbers)
    clusters = "".join(f"\n  - {{name: c{n}, endpoints: ['{origins[n]}']}}" for n in numbers)
    try:
        with (
            peers(directory, origins) as ports,
            instance(directory, f"workers: 1\nlisteners:{listeners}\nclusters:{clusters}\n") as proxy,
        ):
            yield [{name: each[n] for name, each in ports.items()} | {"hotproxy": proxy.port(f"l{n}")} for n in numbers]
            assert proxy.stats()["server.internal_errors"] == 0
    finally:
        shutil.rmtree(directory)


def in_threads(work: Callable[[int], None], lanes: int = LANES) -> None:
    """Do `work(number)` for each lane, all at the same time; the first exception is raised when all have ended."""
    with concurrent.futures.ThreadPoolExecutor(lanes) as pool:
        for done in [pool.submit(work, number) for number in range(lanes)]:
            done.result()


def run() -> Results:
    """What arrived, by proxy, case and size of pieces (0: whole). Needs all the peers."""
    lanes = [Lane() for _ in range(LANES)]
    found: Results = {}

    def run_lane(number: int) -> None:
        lane = lanes[number]
        for case in CASES[number::LANES]:
            request = (CORPUS / f"{case}.request").read_bytes()
            for proxy in ("hotproxy", *PEERS):
                found[proxy, case, 0] = lane.ask(proxy, request, 0)
            if len(request) < MAX_BYTE_BY_BYTE:
                found["hotproxy", case, 1] = lane.ask("hotproxy", request, 1)

    try:
        with side_by_side([lane.origin.address for lane in lanes]) as ports:
            for lane, each in zip(lanes, ports, strict=True):
                lane.ports = each
            in_threads(run_lane)
        return found
    finally:
        for lane in lanes:
            lane.origin.close()
