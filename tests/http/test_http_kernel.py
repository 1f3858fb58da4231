"""The compiled head parser against the one with httptools, on the same bytes; and which of the two is chosen."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from head_bytes import HEADS, described, mutated
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hotproxy.http.head_parser import HeadParser, HttptoolsHeadParser
from hotproxy.shm.kernel import NOT_BUILT, why_failed
from tests.kit.kernels import compiled

PURE = HttptoolsHeadParser()


@pytest.fixture(scope="module")
def kernel() -> HeadParser:
    made: HeadParser = compiled("hotproxy.http._kernel").CompiledHeadParser()
    return made


def same(kernel: HeadParser, head: bytes) -> None:
    assert described(kernel.parse_request(head)) == described(PURE.parse_request(head))
    for to_head in (False, True):
        assert described(kernel.parse_response(head, to_head)) == described(PURE.parse_response(head, to_head))


@pytest.mark.parametrize("head", HEADS)
def test_every_head_of_the_corpus(kernel: HeadParser, head: bytes):
    same(kernel, head)


@pytest.mark.parametrize("head", [head for head in HEADS if len(head) <= 120])
def test_every_byte_of_the_corpus_in_the_place_of_every_other(kernel: HeadParser, head: bytes):
    """Deleted, doubled, replaced by what matters somewhere, cut off, and followed by something."""
    for at in range(len(head)):
        for byte in (b"", head[at : at + 1] * 2, b"\0", b"\r", b"\n", b" ", b"\t", b":", b",", b"#", b"\x7f", b"\xff"):
            same(kernel, head[:at] + byte + head[at + 1 :])
        same(kernel, head[:at])
    same(kernel, head + b"x")


@settings(max_examples=3000, deadline=None)
@given(mutated())
def test_mutated_heads(kernel: HeadParser, head: bytes):
    same(kernel, head)


@settings(max_examples=1000, deadline=None)
@given(st.binary(max_size=80))
@example(b"")
@example(b"\r\n\r\n")
@example(b"HTTP/1.1 200\r\n\r\n")
@example(b"GET / HTTP/1.")
def test_any_bytes(kernel: HeadParser, garbage: bytes):
    for head in (
        garbage,
        b"GET / HTTP/1.1\r\n" + garbage + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + garbage + b"\r\n\r\n",
    ):
        same(kernel, head)


hosts = st.one_of(
    st.text("aZ09.-_~:[]%@,", max_size=9),
    st.integers(0, 100_001).map(lambda port: f"a:{port}"),
    st.integers(0, 100_001).map(lambda port: f"a:0{port}"),
)


@settings(max_examples=1000, deadline=None)
@given(hosts)
def test_hosts(kernel: HeadParser, host: str):
    same(kernel, b"GET / HTTP/1.1\r\nHost: %b\r\n\r\n" % host.encode())


lengths = st.one_of(st.integers(0, 2**70).map(str), st.text("0123456789 \t,+-x", max_size=22))


@settings(max_examples=1000, deadline=None)
@given(lengths, st.sampled_from([b"", b" ", b"\t "]))
def test_lengths(kernel: HeadParser, length: str, space: bytes):
    fields = b"Host: a\r\nContent-Length:" + space + length.encode() + space
    same(kernel, b"POST / HTTP/1.1\r\n" + fields + b"\r\n\r\n")
    same(kernel, b"HTTP/1.1 204 No\r\n" + fields + b"\r\n\r\n")
    same(kernel, b"HTTP/1.1 200 OK\r\n" + fields + b"\r\n\r\n")


@pytest.mark.parametrize("count", [98, 99, 100, 101, 500])
def test_the_number_of_fields(kernel: HeadParser, count: int):
    fields = b"".join(b"X-%d: y\r\n" % number for number in range(count))
    same(kernel, b"GET / HTTP/1.1\r\nHost: a\r\n" + fields + b"\r\n")
    same(kernel, b"HTTP/1.1 200 OK\r\n" + fields + b"\r\n")


@pytest.mark.parametrize("size", [65_535, 65_536, 65_537, 200_000])
def test_the_size_of_a_head(kernel: HeadParser, size: int):
    start = b"GET / HTTP/1.1\r\nHost: a\r\nX: "
    same(kernel, start + b"x" * (size - len(start) - 4) + b"\r\n\r\n")


@pytest.mark.parametrize("wrong", [None, "GET / HTTP/1.1\r\n\r\n", bytearray(b"GET / HTTP/1.1\r\n\r\n"), 1])
def test_anything_but_bytes_is_a_type_error(kernel: HeadParser, wrong: object):
    with pytest.raises(TypeError):
        kernel.parse_request(wrong)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        kernel.parse_response(wrong, False)  # type: ignore[arg-type]


def chosen(**environment: str) -> list[str]:
    """The head parser, the counter, and why they are not compiled, of a new interpreter that ignores PYTHON*."""
    code = (
        "from hotproxy.http import kernel; from hotproxy.shm.kernel import Counter, WHY_PLAIN\n"
        "print(type(kernel.PARSER).__name__, Counter.__module__, kernel.WHY_PURE, WHY_PLAIN, sep='\\n')"
    )
    inherited = {name: value for name, value in os.environ.items() if name != "HOTPROXY_KERNEL"}
    done = subprocess.run(
        [sys.executable, "-I", "-c", code], env=inherited | environment, capture_output=True, text=True, check=True
    )
    return done.stdout.splitlines()


def test_what_was_built_is_used(kernel: HeadParser):
    assert chosen()[:2] == ["CompiledHeadParser", "hotproxy.shm._cells"]


def test_compiled_code_can_be_switched_off():
    why = "switched off by HOTPROXY_KERNEL=pure"
    assert chosen(HOTPROXY_KERNEL="pure") == ["HttptoolsHeadParser", "hotproxy.shm.plain_cells", why, why]


def test_why_there_is_no_compiled_code():
    with pytest.raises(ImportError) as missing:
        import hotproxy.http._kernel_of_another_age  # noqa: F401
    assert why_failed(missing.value) == NOT_BUILT
    assert why_failed(ImportError("undefined symbol: x")) == "undefined symbol: x"
