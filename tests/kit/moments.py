"""Moments in the life of a connection, one for each kind of state that moves: what is said before, and after."""

from __future__ import annotations

from typing import Final, NamedTuple

from tests.kit.phrases import CHUNKED, CHUNKED_POST, GET, HI, POST, SWITCH, WARM, WEBSOCKET
from tests.kit.playbook import EOF, HANGS, RESET, Playbook, Step
from tests.kit.tcp_bench import TcpBench


class Moment(NamedTuple):
    before: tuple[Step, ...]
    after: tuple[Step, ...]
    outcomes: tuple[str, ...] = ()

    def play(self) -> Playbook:
        """A conversation that has come as far."""
        play = Playbook(outcomes=self.outcomes)
        play(*self.before)
        return play

    def play_on(self, play: Playbook) -> None:
        """The rest of it, as far as the sides are still there."""
        for step in self.after:
            side = play.find(step[1] if step[0] == "window" else step[0])
            if side is not None and not side.closed:
                play(step)


BULK: Final = b"HTTP/1.1 200 OK\r\nContent-Length: 512000\r\n\r\n"
BULK_POST: Final = b"POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 512000\r\n\r\n"
PUT: Final = POST.replace(b"POST", b"PUT")
HEAD: Final = GET.replace(b"GET", b"HEAD")
OLD: Final = b"GET /a HTTP/1.0\r\nHost: h\r\n\r\n"
NO_LENGTH: Final = b"HTTP/1.1 200 OK\r\n\r\nhello"
TRAILERS: Final = b"0\r\nX: y\r\n\r\n"
ANSWERED: Final = (("origin", HI), ("down", GET), ("origin", HI))
ASKED: Final = (("down", GET), *ANSWERED)

MOMENTS: Final[dict[str, Moment]] = {
    "first": Moment((), ASKED),
    "idle": Moment(WARM, ASKED),
    "head": Moment((("down", GET[:20]),), (("down", GET[20:]), *ANSWERED)),
    "waiting": Moment((("down", GET),), ANSWERED),
    "body to send, length": Moment((("down", POST[:-2]),), (("down", POST[-2:]), *ANSWERED)),
    "body to send, chunked": Moment(
        (("down", CHUNKED_POST + b"5\r\nab"),), (("down", b"cde\r\n" + TRAILERS), *ANSWERED)
    ),
    "body to send, trailers": Moment(
        (("down", CHUNKED_POST + b"1\r\na\r\n" + TRAILERS[:8]),), (("down", TRAILERS[8:]), *ANSWERED)
    ),
    "body was sent": Moment((("down", POST),), ANSWERED),
    "interim": Moment((("down", GET), ("origin", b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n")), ANSWERED),
    "response head": Moment((("down", GET), ("origin", HI[:15])), (("origin", HI[15:]), ("down", GET), ("origin", HI))),
    "response to HEAD": Moment((("down", HEAD),), (("origin", HI[:-2]), ("down", GET), ("origin", HI))),
    "response, length": Moment((("down", GET), ("origin", HI[:-1])), (("origin", HI[-1:]), *ASKED)),
    "response, chunked": Moment(
        (("down", GET), ("origin", CHUNKED + b"5\r\nhe")), (("origin", b"llo\r\n" + TRAILERS), *ASKED)
    ),
    "response, until close": Moment((("down", GET), ("origin", NO_LENGTH)), (("origin", b"x"), ("origin", EOF))),
    "response to HTTP/1.0": Moment((("down", OLD), ("origin", NO_LENGTH)), (("origin", b"x"), ("origin", EOF))),
    "response before the request": Moment((("down", POST[:-2]), ("origin", HI[:-1])), (("origin", HI[-1:]),)),
    "pipelined": Moment((("down", GET + POST + GET[:20]),), (("origin", HI), ("origin", HI), ("down", GET[20:]))),
    "half-closed": Moment((("down", GET), ("down", EOF)), (("origin", HI),)),
    "flush": Moment((("window", "down", 10), ("down", GET), ("origin", HI)), (("window", "down", None), *ASKED)),
    "slow client": Moment(
        (("window", "down", 0), ("down", GET), ("up", BULK + bytes(300_000))),
        (("window", "down", None), ("up", bytes(212_000)), *ASKED),
    ),
    "slow endpoint": Moment(
        (("down", BULK_POST), ("window", "up", 0), ("down", bytes(300_000))),
        (("window", "up", None), ("down", bytes(212_000)), *ANSWERED),
    ),
    "connecting": Moment((("down", POST[:-1]),), (("down", POST[-1:]), *ANSWERED), (HANGS,)),
    "could be sent again": Moment((*WARM, ("down", PUT)), (("up", RESET), ("up2", HI))),
    "tunnel": Moment(
        (("down", WEBSOCKET), ("origin", SWITCH + b"hello"), ("window", "up", 0), ("down", b"x")),
        (("window", "up", None), ("down", b"ping"), ("origin", b"pong"), ("down", EOF), ("origin", EOF)),
    ),
    "half a tunnel": Moment(
        (("down", WEBSOCKET), ("origin", SWITCH), ("down", EOF)), (("origin", b"bye"), ("origin", EOF))
    ),
}  # fmt: skip

TCP_MOMENTS: Final = ("connecting", "piping", "half-closed")


def play_tcp(name: str) -> TcpBench:
    """One of TCP_MOMENTS, or a "slow reader", of which the kernel decides what is in our buffer."""
    bench = TcpBench("unix")
    bench.client.setblocking(False)
    bench.client.sendall(b"early")
    if name == "connecting":
        bench.process.loop.add_writer = lambda fd, callback: None  # type: ignore[method-assign]
    bench.start()
    bench.turn()
    if name == "connecting":
        del bench.process.loop.add_writer
        return bench
    upstream = bench.connect()
    upstream.sendall(b"answer")
    if name == "slow reader":
        upstream.setblocking(False)
        for _ in range(20):
            try:
                upstream.send(bytes(100_000))
            except BlockingIOError:
                pass
            bench.turn()
    elif name == "half-closed":
        bench.client.shutdown(1)
    bench.turn()
    return bench
