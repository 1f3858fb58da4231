"""The corpus of raw messages: finding it, running it through the codecs, and writing events down as text."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from hotproxy.http.codec import (
    CHUNKED,
    END,
    HTTP_1_1,
    LENGTH,
    UNTIL_CLOSE,
    Data,
    End,
    Event,
    RequestHead,
    ResponseHead,
    Trailers,
    Violation,
)
from hotproxy.http.head_parser import HeadParser
from hotproxy.http.headers import Headers
from hotproxy.http.http1_client import Http1ClientCodec
from hotproxy.http.http1_server import Http1ServerCodec
from hotproxy.http.kernel import PARSER

CORPUS = Path(__file__).parent.parent / "corpus" / "http1"


def raw_files(folder: str = "") -> list[Path]:
    return sorted(path for path in (CORPUS / folder).rglob("*") if path.suffix in (".request", ".response"))


def case_name(path: Path) -> str:
    return str(path.relative_to(CORPUS))


# Running


def whole(raw: bytes) -> list[bytes]:
    return [raw]


def byte_by_byte(raw: bytes) -> list[bytes]:
    return [raw[i : i + 1] for i in range(len(raw))]


def run_request(
    parser: HeadParser, pieces: Iterable[bytes], moved_after: int = -1
) -> tuple[list[Event], Http1ServerCodec]:
    """All events of a client's bytes. After piece number `moved_after` the codec is dumped and loaded."""
    codec = Http1ServerCodec(parser)
    events: list[Event] = []
    for number, piece in enumerate(pieces):
        new = codec.receive(piece)
        events += new
        while new and new[-1] is END:
            codec.next_message()
            new = codec.receive(b"")
            events += new
        if number == moved_after:
            state = codec.dump()
            codec = Http1ServerCodec.load(state, parser)
            assert codec.dump() == state
    return merged(events), codec


def run_response(
    parser: HeadParser, answers: str, pieces: Iterable[bytes], moved_after: int = -1
) -> tuple[list[Event], Http1ClientCodec]:
    """All events of an origin's bytes; see README.md of the corpus for `answers`."""
    codec = Http1ClientCodec(parser)
    words = answers.split()[1:]
    if words[0] != "nothing":
        codec.encode_head(question(words))
        codec.encode_end()
    events: list[Event] = []
    for number, piece in enumerate(pieces):
        events += codec.receive(piece)
        if number == moved_after:
            state = codec.dump()
            codec = Http1ClientCodec.load(state, parser)
            assert codec.dump() == state
    if "eof" in words:
        events += codec.receive_eof()
    return merged(events), codec


def question(words: list[str]) -> RequestHead:
    upgrade = b"websocket" if "upgrade" in words else b""
    return RequestHead(words[0].encode(), b"/", HTTP_1_1, Headers([(b"Host", b"a")]), upgrade=upgrade)


def forwarded_requests(parser: HeadParser, events: list[Event]) -> bytes:
    """What an origin receives: each request on a connection of its own, one after the other."""
    sent = b""
    codec = Http1ClientCodec(parser)
    trailers: Headers | None = None
    for event in events:
        if isinstance(event, RequestHead):
            codec, trailers = Http1ClientCodec(parser), None
            sent += codec.encode_head(event)
        elif isinstance(event, Data):
            sent += codec.encode_data(event.data)
        elif isinstance(event, Trailers):
            trailers = event.headers
        elif isinstance(event, End):
            sent += codec.encode_end(trailers)
    return sent


def forwarded_response(parser: HeadParser, answers: str, events: list[Event], version: bytes = b"1.1") -> bytes:
    """What the client receives that sent the question."""
    head = question(answers.split()[1:])
    codec = Http1ServerCodec(parser)
    upgrade = b"Connection: upgrade\r\nUpgrade: %b\r\n" % head.upgrade if head.upgrade else b""
    codec.receive(b"%b / HTTP/%b\r\nHost: a\r\n%b\r\n" % (head.method, version, upgrade))
    sent = b""
    trailers: Headers | None = None
    for event in events:
        if isinstance(event, ResponseHead):
            sent += codec.encode_head(event, close=False)
        elif isinstance(event, Data):
            sent += codec.encode_data(event.data)
        elif isinstance(event, Trailers):
            trailers = event.headers
        elif isinstance(event, End):
            sent += codec.encode_end(trailers)
    return sent


def merged(events: list[Event]) -> list[Event]:
    """Neighbouring pieces of body as one: where they are cut depends on how the bytes arrived."""
    result: list[Event] = []
    for event in events:
        if isinstance(event, Data) and result and isinstance(result[-1], Data):
            result[-1] = Data(result[-1].data + event.data)
        else:
            result.append(event)
    return result


# Writing down


def text(events: list[Event]) -> list[str]:
    return [line for event in events for line in _lines(event)]


def _lines(event: Event) -> Iterator[str]:
    if isinstance(event, RequestHead):
        expects = " expects-continue" if event.expect_continue else ""
        yield f"request {escaped(event.method)} {escaped(event.target)} {_head(event)}{expects}"
        yield from _fields(event.headers)
    elif isinstance(event, ResponseHead):
        yield f"response {event.status} '{escaped(event.phrase)}' {_head(event)}"
        yield from _fields(event.headers)
    elif isinstance(event, Data):
        yield f"data {escaped(event.data)}"
    elif isinstance(event, Trailers):
        yield "trailers"
        yield from _fields(event.headers)
    elif isinstance(event, Violation):
        yield f"violation {event.details} {event.status}"
    else:
        yield "end"


def _head(head: RequestHead | ResponseHead) -> str:
    framing = {LENGTH: f" length={head.content_length}", CHUNKED: " chunked", UNTIL_CLOSE: " until-close"}
    keep = "keep-alive" if head.keep_alive else "close"
    upgrade = f" upgrade={escaped(head.upgrade)}" if head.upgrade else ""
    return f"HTTP/{head.version // 10}.{head.version % 10} {keep}{framing.get(head.framing, '')}{upgrade}"


def _fields(headers: Headers) -> Iterator[str]:
    for name, value in headers:
        yield f"  {escaped(name)}: {escaped(value)}"


def escaped(raw: bytes) -> str:
    if len(raw) > 200:
        return f"{escaped(raw[:20])}…{len(raw)} bytes"
    return repr(raw)[2:-1]


# Expectations


def expectation(path: Path) -> list[str]:
    lines = path.with_suffix(".events").read_text("utf-8").splitlines()
    return [line for line in lines if not line.startswith("#")]


def outcome(
    parser: HeadParser, path: Path, split: Callable[[bytes], list[bytes]], answers: str, moved_after: int = -1
) -> list[str]:
    """The lines of an `.events` file, as they come out."""
    pieces = split(path.read_bytes())
    if path.suffix == ".request":
        events, server = run_request(parser, pieces, moved_after)
        waiting = f"connection {'idle' if server.between_messages else 'waits' if server.buffered_bytes else 'busy'}"
        return [*text(events), "connection broken" if isinstance((events or [None])[-1], Violation) else waiting]
    events, client = run_response(parser, answers, pieces, moved_after)
    raw = [f"raw {escaped(client.take_buffered())}"] if any(_switches(event) for event in events) else []
    return [answers, *text(events), *raw, f"connection {'reusable' if client.reusable else 'not reusable'}"]


def forwarded(parser: HeadParser, path: Path, split: Callable[[bytes], list[bytes]], answers: str) -> bytes:
    pieces = split(path.read_bytes())
    if path.suffix == ".request":
        return forwarded_requests(parser, run_request(parser, pieces)[0])
    return forwarded_response(parser, answers, run_response(parser, answers, pieces)[0])


def answers_of(path: Path) -> str:
    return expectation(path)[0] if path.suffix == ".response" else ""


def _switches(event: Event) -> bool:
    return isinstance(event, ResponseHead) and event.status == 101


def write_missing() -> None:
    for path in raw_files():
        events = path.with_suffix(".events")
        answers = "answers GET"
        why: list[str] = []
        if events.exists():
            lines = events.read_text("utf-8").splitlines()
            why = [line for line in lines if line.startswith("#")]
            rest = [line for line in lines if not line.startswith("#")]
            if len(rest) > 1 or (path.suffix == ".request" and rest):
                continue
            answers = rest[0] if rest else answers
        events.write_text("\n".join([*why, *outcome(PARSER, path, whole, answers)]) + "\n", "utf-8")
        if path.parent.name == "valid":
            path.with_suffix(".forwarded").write_bytes(forwarded(PARSER, path, whole, answers))
        sys.stdout.write(f"wrote {case_name(events)}\n")


if __name__ == "__main__":
    write_missing()
