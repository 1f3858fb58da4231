"""What arrives on the other side of the proxy, as lines: the words of the conformance tests."""

from __future__ import annotations

from tests.kit.phrases import GET, HI
from tests.kit.playbook import EOF, Playbook

OUR_REQUEST_FIELDS = ("x-forwarded-for", "x-forwarded-proto", "x-request-id", "via")


def request(*fields: str, line: str = "GET /a HTTP/1.1", host: str = "Host: h", body: str = "") -> bytes:
    lines = [line, *([host] if host else []), *fields]
    return ("".join(f"{each}\r\n" for each in lines) + f"\r\n{body}").encode("latin-1")


def response(*fields: str, line: str = "HTTP/1.1 200 OK", body: str = "") -> bytes:
    return ("".join(f"{each}\r\n" for each in (line, *fields)) + f"\r\n{body}").encode("latin-1")


def received(book: Playbook, side: str) -> bytes:
    """Everything that this side has received in the last play, without the ends."""
    return b"".join(what for name, what in book.received if name == side and isinstance(what, bytes))


def ended(book: Playbook, side: str) -> bool:
    return (side, EOF) in book.received


def upstream(book: Playbook, asked: bytes) -> list[str]:
    """The lines of the head that the origin receives for this request, without those that the proxy adds itself."""
    book(("down", asked))
    lines = received(book, "up").partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")
    return [line for line in lines if line.partition(":")[0] not in OUR_REQUEST_FIELDS]


def downstream(book: Playbook, answer: bytes, asked: bytes = GET, end: bool = False) -> list[str]:
    """The lines of the head that the client receives for this answer, without Via and Date of ours."""
    book(("down", asked), ("up", answer), *([("up", EOF)] if end else []))
    lines = received(book, "down").partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")
    return [line for line in lines if line != "via: 1.1 hotproxy" and not line.startswith("date:")]


def status(book: Playbook, asked: bytes, answer: bytes = HI) -> int:
    """The status that the client gets; the origin, if it is asked at all, answers `answer`."""
    book(("down", asked))
    got = received(book, "down")
    if not got and book.find("up") is not None:
        book(("up", answer))
        got = received(book, "down")
    return int(got.split(b" ")[1])
