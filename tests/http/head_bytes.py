"""Heads for two parsers to agree on: those of the corpus, what becomes of them, and a parser's answer to compare."""

from __future__ import annotations

from collections.abc import Callable

from http_corpus import raw_files
from hypothesis import strategies as st

from hotproxy.http.codec import RequestHead, ResponseHead, Violation

# Each file's first head, as a codec would cut it out; what never ends gets an end.
HEADS = sorted({path.read_bytes()[:70_000].partition(b"\r\n\r\n")[0] + b"\r\n\r\n" for path in raw_files()})

# Pieces that decide about something somewhere.
PIECES = [
    b"\r\n", b"\n", b"\r", b"\0", b" ", b"\t", b":", b",", b";", b"/", b"#", b"\x7f", b"\x80", b"\xff", b"0", b"9",
    b"Host: a\r\n", b"host:b:80\r\n", b"Host: [::1]\r\n", b"Host: a:65536\r\n",
    b"Content-Length: 5\r\n", b"content-length:0\r\n", b"Content-Length: 5 \r\n",
    b"Content-Length: 00000000000000000005\r\n",
    b"Transfer-Encoding: chunked\r\n", b"TRANSFER-ENCODING: Chunked\t\r\n", b"Transfer-Encoding: gzip, chunked\r\n",
    b"Connection: close\r\n", b"Connection: Keep-Alive\r\n", b"Connection: x, close\r\n", b"Connection:\r\n",
    b"Close: 1\r\n", b"Keep-Alive: 5\r\n", b"TE: trailers\r\n", b"Proxy-Connection: x\r\n", b"Upgrade: h2c\r\n",
    b"Expect: 100-continue\r\n", b"X: \r\n", b"X:\r\n", b"X: y \t \r\n", b" folded\r\n", b"X : y\r\n", b": y\r\n",
    b"HTTP/1.1", b"HTTP/1.0", b"HTTP/2.0", b"GET", b"CONNECT", b"OPTIONS", b"http://h/", b"*", b"204", b"304", b"101",
]  # fmt: skip


BOTH = ("version", "framing", "content_length", "keep_alive", "upgrade")
REQUEST = ("method", "target", "expect_continue", *BOTH)
RESPONSE = ("status", "phrase", *BOTH)


def described(answer: RequestHead | ResponseHead | Violation) -> list[object]:
    """Everything that an answer says, its types included; headers by their fields, whichever class they are of."""
    if isinstance(answer, Violation):
        return [answer.details, answer.status]
    values = [getattr(answer, name) for name in (REQUEST if isinstance(answer, RequestHead) else RESPONSE)]
    fields = answer.headers.dump()
    found = [answer.headers.get_all(name.lower()) for name, _ in fields]
    return [type(answer), *values, [type(value) for value in values], fields, found]


def mutate(head: bytes, draw: Callable[[int], int]) -> bytes:
    """A few changes to a head; `draw(n)` is a number below n."""
    for _ in range(1 + draw(4)):
        at, end = sorted((draw(len(head) + 1), draw(len(head) + 1)))
        piece = PIECES[draw(len(PIECES))]
        kind = draw(5)
        if kind == 0:  # a line of another head, or a piece, where a line begins
            begins = head.find(b"\r\n", at) + 2
            head = head[:begins] + piece + head[begins:]
        elif kind == 1:
            head = head[:at] + piece + head[at:]
        elif kind == 2:
            head = head[:at] + piece + head[at + len(piece) :]
        elif kind == 3:
            head = head[:at] + head[at + 1 + draw(8) :]
        else:
            head = head[:end] + head[at:end][:200] + head[end:]
    return head


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A head of the corpus with a few changes."""
    head: bytes = draw(st.sampled_from(HEADS))
    return mutate(head, lambda below: draw(st.integers(0, below - 1)))
