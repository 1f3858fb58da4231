"""The corpus of raw responses through hotproxy, nginx, HAProxy and Envoy: what does each let through to a client?

The origin answers one request with the bytes of a case; then comes a second request, which it answers well. What the
client reads for the first, and whether the second gets its own answer, is what `run_responses()` gives.
"""

from __future__ import annotations

import contextlib
import dataclasses
import socket
import threading

from tests.kit import clients
from tests.kit.differential import CORPUS, LANES, in_threads, side_by_side
from tests.kit.peers import PEERS

CASES = sorted(f"{path.parent.name}/{path.stem}" for path in CORPUS.glob("*/*.response"))
# Nothing has come for so long: the proxy waits for more, or holds back what it has. Then the origin closes, and what it
# has said is all there will be; so nothing depends on how long this is, but the time that it takes.
SILENCE_S = 0.5
PATIENCE_S = 5.0
REFUSALS = frozenset((0, 500, 502, 503, 504))  # no origin of the corpus says one of these
NEXT = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nnext"
WARM = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nwarm"
UPGRADE = (
    b"Connection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
)

# What is forwarded although two of the three refuse it, and what is passed on and then broken off, in the middle of its
# body: docs/decisions/0005-http1-is-strict.md says why.
EXPLAINED = frozenset({"valid/response-fields-own-uncounted"})
BROKEN_OFF = frozenset(
    {
        "invalid/response-chunk-end",
        "invalid/response-chunk-size",
        "invalid/response-eof-in-chunked-body",
        "invalid/response-eof-in-length-body",
    }
)


@dataclasses.dataclass(frozen=True)
class Answer:
    """A response as a client reads it that is strict about framing and nothing else."""

    status: int  # 0: no complete head
    body: bytes = b""
    complete: bool = False
    interim: tuple[int, ...] = ()
    extra: bytes = b""  # behind it, where the client would look for its next answer; or what is no response at all

    @property
    def refused(self) -> bool:
        return self.status in REFUSALS and not self.extra

    @property
    def whole(self) -> tuple[int, bytes] | None:
        """Status and body of an answer that the client takes for complete, and that is the origin's."""
        return (self.status, self.body) if self.complete and not self.refused else None


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What came of a case."""

    answer: Answer
    next_is_own: bool  # the request behind it got its own answer, and nothing else


Results = dict[tuple[str, str, int], Outcome]


def read_answer(data: bytes, method: bytes, ended: bool) -> Answer:
    """What a client has read so far; `ended`: the proxy has closed, and has not reset."""
    interim: tuple[int, ...] = ()
    while True:
        head, blank, rest = data.partition(b"\r\n\r\n")
        words = head.split(b"\r\n")[0].split(b" ")
        if not blank or len(words) < 2 or not words[1].isdigit():
            return Answer(0, b"", False, interim, data)
        status = int(words[1])
        if not 100 <= status < 200 or status == 101:
            break
        interim, data = (*interim, status), rest
    fields = [
        (name.lower(), value.strip()) for name, _, value in (line.partition(b":") for line in head.split(b"\r\n")[1:])
    ]
    lengths = [int(value) for name, value in fields if name == b"content-length"]
    chunked = any(name == b"transfer-encoding" for name, _ in fields)
    if status == 101:
        return Answer(status, b"", True, interim)  # what the new protocol says may come later, and is not looked at
    if method == b"HEAD" or status in (204, 304):
        return Answer(status, b"", True, interim, rest)
    if chunked:
        body, done, rest = _chunks(rest)
        return Answer(status, body, done, interim, rest if done else b"")
    if lengths:
        body, rest = rest[: lengths[0]], rest[lengths[0] :]
        return Answer(status, body, len(body) == lengths[0], interim, rest)
    return Answer(status, rest, ended, interim)


def _chunks(data: bytes) -> tuple[bytes, bool, bytes]:
    """(body, is it complete, what is behind it)."""
    body = b""
    while True:
        line, ended, rest = data.partition(b"\r\n")
        if not ended:
            return body, False, b""
        size = int(line.partition(b";")[0], 16)
        if not size:
            break
        body += rest[:size]
        if len(rest) < size + 2:
            return body, False, b""
        data = rest[size + 2 :]
    while rest and not rest.startswith(b"\r\n"):
        rest = rest.partition(b"\r\n")[2]
    return body, rest.startswith(b"\r\n"), rest[2:]


class CaseOrigin:
    """Answers "/case" with `raw` (in pieces of so many bytes), and closes behind it if `closes`; other targets well.

    `say_unasked` speaks on all its connections; `hang_up` ends those that have said `raw`.
    """

    def __init__(self) -> None:
        self.raw, self.pieces, self.closes = b"", 0, False
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listening.getsockname()[1]}"
        self._open: list[socket.socket] = []
        self._said: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listening.accept()
            except OSError:
                return
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._open.append(sock)
            thread = threading.Thread(target=self._serve, args=(sock,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, sock: socket.socket) -> None:
        received = b""
        with contextlib.suppress(OSError), sock:
            while data := sock.recv(65536):
                received += data
                while b"\r\n\r\n" in received:
                    head, _, received = received.partition(b"\r\n\r\n")
                    target = head.split(b" ")[1]
                    if target == b"/case":
                        self._say_case(sock)
                    else:
                        sock.sendall(WARM if target == b"/warm" else NEXT)

    def _say_case(self, sock: socket.socket) -> None:
        step = self.pieces or len(self.raw) or 1
        for start in range(0, len(self.raw), step):
            sock.sendall(self.raw[start : start + step])
        self._said.append(sock)
        if self.closes:
            sock.shutdown(socket.SHUT_WR)

    def hang_up(self) -> None:
        said, self._said = self._said, []
        for sock in said:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_WR)

    def say_unasked(self) -> None:
        for sock in list(self._open):
            with contextlib.suppress(OSError):
                sock.sendall(self.raw)

    def close(self) -> None:
        for sock in [self._listening, *self._open]:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()
        for thread in self._threads:
            thread.join(10)


class _Client:
    """One connection to a proxy, and a new one when that has ended."""

    def __init__(self, port: int, origin: CaseOrigin) -> None:
        self._port = port
        self._origin = origin
        self._sock: socket.socket | None = None

    def ask(self, method: bytes, target: bytes, fields: bytes = b"") -> Answer:
        reused = self._sock is not None
        received, ended, over = self._exchange(
            b"%b %b HTTP/1.1\r\nHost: a\r\n%b\r\n" % (method, target, fields), method
        )
        if reused and over and not received:  # it had been closed meanwhile; any client tries again
            self.close()
            return self.ask(method, target, fields)
        answer = read_answer(received, method, ended)
        if over or answer.status == 101 or b"connection: close" in received.lower():
            self.close()
        return answer

    def _exchange(self, request: bytes, method: bytes) -> tuple[bytes, bool, bool]:
        """(what came, was it ended by a close, is the connection over)."""
        sock = self._sock = self._sock or clients.connect(self._port)
        received, ended = b"", False
        sock.settimeout(SILENCE_S)
        with contextlib.suppress(OSError):
            sock.sendall(request)
            while not ended and not read_answer(received, method, False).complete:
                try:
                    data = sock.recv(65536)
                except TimeoutError:
                    if sock.gettimeout() == PATIENCE_S:
                        break
                    sock.settimeout(PATIENCE_S)
                    self._origin.hang_up()
                    continue
                received += data
                ended = not data
            else:
                return received, ended, ended
        return received, False, True

    def close(self) -> None:
        if self._sock is not None:
            self._sock.close()
            self._sock = None


class _Lane:
    """One origin, and the ports by which each proxy reaches it."""

    def __init__(self) -> None:
        self.origin = CaseOrigin()
        self.ports: dict[str, int] = {}

    def play(self, proxy: str, case: str, pieces: int) -> Outcome:
        words = _answers(case)
        self.origin.raw = (CORPUS / f"{case}.response").read_bytes()
        self.origin.pieces = pieces
        self.origin.closes = "eof" in words
        client = _Client(self.ports[proxy], self.origin)
        try:
            if words[0] == "nothing":
                answer = client.ask(b"GET", b"/warm")
                self.origin.say_unasked()
            else:
                answer = client.ask(words[0].encode(), b"/case", UPGRADE if "upgrade" in words else b"")
            following = client.ask(b"GET", b"/next")
        finally:
            client.close()
        return Outcome(answer, following == Answer(200, b"next", True))


def _answers(case: str) -> list[str]:
    lines = (CORPUS / f"{case}.events").read_text("utf-8").splitlines()
    return next(line for line in lines if not line.startswith("#")).split()[1:]


def run_responses() -> Results:
    """What came of each case, by proxy, case and size of pieces (0: whole). Needs all the peers."""
    lanes = [_Lane() for _ in range(LANES)]
    found: Results = {}

    def run_lane(number: int) -> None:
        for case in CASES[number::LANES]:
            for proxy in ("hotproxy", *PEERS):
                found[proxy, case, 0] = lanes[number].play(proxy, case, 0)
            found["hotproxy", case, 1] = lanes[number].play("hotproxy", case, 1)

    try:
        with side_by_side([lane.origin.address for lane in lanes]) as ports:
            for lane, each in zip(lanes, ports, strict=True):
                lane.ports = each
            in_threads(run_lane)
        return found
    finally:
        for lane in lanes:
            lane.origin.close()
