"""Heads made by the grammar of RFC 9112, and the same with one defect: nearly valid, which is where parsers part."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import strategies as st

TOKEN = "!#$%&'*+-.^_`|~0123456789abcXYZ"
VISIBLE = [bytes((code,)) for code in (*range(33, 127), 128, 160, 255)]

methods = st.one_of(
    st.sampled_from([b"GET", b"POST", b"HEAD", b"OPTIONS", b"PUT", b"DELETE", b"TRACE", b"get", b"M-SEARCH"]),
    st.text(TOKEN, min_size=1, max_size=5).map(str.encode),
)
paths = st.text([chr(code) for code in range(33, 127) if chr(code) != "#"], max_size=8).map(lambda s: b"/" + s.encode())
hosts = st.sampled_from([b"a", b"a.example:80", b"127.0.0.1:8080", b"[::1]", b"[::1]:65535", b"x_y~z"])
values = st.one_of(
    st.just(b""),
    st.lists(st.sampled_from([*VISIBLE, b"a", b" ", b"\t", b",", b";", b":"]), max_size=10).map(
        lambda pieces: b"".join(pieces).strip(b" \t")
    ),
)
spaces = st.sampled_from([b" "] * 8 + [b"", b"\t", b"  ", b" \t "])
endings = st.sampled_from([b"", b"", b" ", b"\t"])
names = st.text(TOKEN, min_size=1, max_size=6).map(lambda text: b"x" + text.encode())
plain_fields = st.tuples(names, values)
# What decides about framing, persistence and neighbours: at most one of each group, so that a head stays valid.
framings = st.sampled_from(
    [
        None, None,
        (b"Content-Length", b"0"), (b"content-length", b"5"), (b"CONTENT-LENGTH", b"0005"),
        (b"Content-Length", b"9223372036854775807"),
        (b"Transfer-Encoding", b"chunked"), (b"transfer-encoding", b"Chunked"),
    ]
)  # fmt: skip
connections = st.sampled_from(
    [
        (), (),
        ((b"Connection", b"close"),),
        ((b"Connection", b"Keep-Alive"),),
        ((b"Connection", b"keep-alive, X-A"), (b"x-a", b"1")),
        ((b"connection", b"close"), (b"Connection", b", te ,"), (b"TE", b"trailers")),
        ((b"Connection", b"te"), (b"TE", b"gzip, Trailers")),
        ((b"Connection", b"upgrade"), (b"Upgrade", b"websocket")),
        ((b"Keep-Alive", b"timeout=5"), (b"Proxy-Connection", b"close"), (b"TE", b"gzip")),
    ]
)  # fmt: skip
others = st.sampled_from([(), (), ((b"Expect", b"100-continue"),), ((b"Cookie", b"a=b"), (b"Cookie", b"c=d"))])


@st.composite
def _fields(draw: st.DrawFn, host: bytes | None, chunked: bool) -> list[bytes]:
    fields = [(b"Host", host)] if host is not None else []
    framing = draw(framings)
    if framing is not None and (chunked or framing[0].lower() != b"transfer-encoding"):
        fields.append(framing)
    fields += [*draw(connections), *draw(others), *draw(st.lists(plain_fields, max_size=3))]
    lines = []
    for name, value in draw(st.permutations(fields)):
        # llhttp, our second opinion, wants nothing behind a length or a coding.
        behind = b"" if name.lower() in (b"content-length", b"transfer-encoding") else draw(endings)
        lines.append(name + b":" + draw(spaces) + value + behind)
    return lines


@st.composite
def request_lines(draw: st.DrawFn) -> list[bytes]:
    """The lines of a request head that nobody has a reason to refuse."""
    method = draw(methods)
    minor = draw(st.sampled_from([b"1", b"1", b"1", b"0"]))
    kind = draw(st.integers(0, 9))
    if kind == 0:
        method, target = b"OPTIONS", b"*"
    elif kind == 1:
        target = draw(st.sampled_from([b"http://", b"https://", b"HTTP://"])) + draw(hosts) + draw(paths)
    else:
        target = draw(paths)
    with_host = minor == b"1" or draw(st.booleans())
    fields = draw(_fields(draw(hosts) if with_host else None, minor == b"1"))
    return [b"%b %b HTTP/1.%b" % (method, target, minor), *fields]


@st.composite
def response_lines(draw: st.DrawFn) -> list[bytes]:
    """The same for a response; those without a body have no framing."""
    minor = draw(st.sampled_from([b"1", b"1", b"0"]))
    status = draw(st.one_of(st.sampled_from([200, 204, 304, 404, 101, 103, 599]), st.integers(100, 599)))
    phrase = draw(st.one_of(st.just(None), values))
    line = b"HTTP/1.%b %d" % (minor, status) + (b"" if phrase is None else b" " + phrase)
    fields: list[bytes] = draw(_fields(None, minor == b"1"))
    if status < 200 or status == 204:
        fields = [field for field in fields if not field.lower().startswith((b"content-length", b"transfer-encoding"))]
    return [line, *fields]


def whole(lines: list[bytes]) -> bytes:
    return b"".join(line + b"\r\n" for line in lines) + b"\r\n"


# Lines that contradict one that may be there, or are wrong by themselves.
WRONG_LINES = [
    b"Content-Length: 6", b"Content-Length: 5", b"Content-Length: 5, 5", b"Content-Length: +5", b"Content-Length: 0x5",
    b"Content-Length: 5 5", b"Content-Length:", b"Content-Length: \x0b5", b"Content-Length: 5;",
    b"Content-Length: 9223372036854775808", b"Content-Length: 99999999999999999999", b"Content-Length: \xb2",
    b"Content-Length: 00000000000000000000",
    b"Transfer-Encoding: chunked", b"Transfer-Encoding: gzip, chunked", b"Transfer-Encoding: chunked, identity",
    b"Transfer-Encoding: \x0bchunked", b"Transfer-Encoding: xchunked", b"Transfer-Encoding: \"chunked\"",
    b"Transfer-Encoding: chunked;q=1", b"Transfer-Encoding:",
    b"Host: b", b"Host:", b"Host: a b", b"Host: a,b", b"Host: u@a", b"Host: a:99999", b"Host: [::1", b"Host: %61",
    b"Connection: host", b"Connection: content-length", b"Connection: a b", b"Connection: close;x",
    b"Connection: x-forwarded-for",
    b" folded", b"\tfolded", b": value", b"no colon", b"a b: c", b"X : y", b"X\t: y", b"\xff: y", b"X(: y", b"",
]  # fmt: skip
ENDINGS = [b"\n", b"\r", b"\r\r\n", b" \r\n", b"\n\r\n", b"\r\n ", b"\0\r\n", b"\x0b\r\n", b"\x85\r\n", b"\r\n\r\n"]
PIECES = [bytes((code,)) for code in (*range(33), 35, 44, 58, 59, 127, 128, 133, 160, 255)] + [
    b"\r\n",
    b"  ",
    b"HTTP/1.1",
]


@st.composite
def with_one_defect(draw: st.DrawFn, lines_of: Callable[[], st.SearchStrategy[list[bytes]]]) -> bytes:
    """A head of the grammar in which one thing is not as it was; now and then that is valid again."""
    lines = draw(lines_of())
    kind = draw(st.integers(0, 7))
    at = draw(st.integers(0, len(lines) - 1))
    if kind == 0:  # a line that is wrong, or contradicts another one
        return whole([*lines[: at + 1], draw(st.sampled_from(WRONG_LINES)), *lines[at + 1 :]])
    if kind == 1:  # another end of a line
        ending = draw(st.sampled_from(ENDINGS))
        return whole(lines[:at])[:-2] + lines[at] + ending + whole(lines[at + 1 :])
    if kind == 2:
        return whole([*lines[: at + 1], *lines[at:]])  # twice
    if kind == 3:
        return whole([*lines[:at], *lines[at + 1 :]])  # missing
    head = whole(lines)
    where = draw(st.integers(0, len(head)))
    if kind == 4:
        return head[:where] + draw(st.sampled_from(PIECES)) + head[where:]
    if kind == 5:
        return head[:where] + draw(st.sampled_from(PIECES)) + head[where + 1 :]
    if kind == 6:
        return head[:where] + head[where + 1 :]
    return head[:where]  # cut off
