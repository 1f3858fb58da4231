"""Scalars: good values and bad ones, with the hints that are promised."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hotproxy.config import scalars
from hotproxy.config.scalars import ScalarError


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0s", 0.0), ("250ms", 0.25), ("5s", 5.0), ("1.5s", 1.5), ("1m30s", 90.0), ("1h", 3600.0), ("1d", 86400.0)],
)
def test_durations(text: str, seconds: float) -> None:
    assert scalars.duration_s(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("5", "'5s'"), ("5.5", "'5.5s'"), ("5 s", "'5s'"), ("5sec", "'5s'"), ("2 Minutes", "'2m'"), ("1M", "'1m'"),
        ("-5s", "'0s'"), ("", "'250ms'"), ("s", "'250ms'"), ("1e3s", "'250ms'"), ("٥s", "'250ms'"), ("400d", "'0s'"),
        ("9" * 5000 + "s", "'0s'"),
    ],
)  # fmt: skip
def test_durations_that_are_none(text: str, hint: str) -> None:
    with pytest.raises(ScalarError) as caught:
        scalars.duration_s(text)
    assert hint in caught.value.hint


def test_numbers() -> None:
    assert scalars.whole_number("10", 1, 10) == 10
    for text in ("0", "11", "1.0", "010", "1_0", "0x1", "+1", "", " 1", "1e1", "٣", "9" * 5000):
        with pytest.raises(ScalarError):
            scalars.whole_number(text, 1, 10)


def test_booleans_of_yaml_1_2_only() -> None:
    assert scalars.boolean("true") is True
    assert scalars.boolean("false") is False
    for text in ("yes", "no", "on", "off", "1", "0", "y", "tRue", ""):
        with pytest.raises(ScalarError):
            scalars.boolean(text)


def test_file_modes() -> None:
    assert scalars.file_mode("0660") == scalars.file_mode("660") == scalars.file_mode("0o660") == 0o660
    for text in ("0999", "66", "1777", "rw", ""):
        with pytest.raises(ScalarError):
            scalars.file_mode(text)


@pytest.mark.parametrize(
    ("text", "domain"),
    [
        ("*", "*"), ("*.Example.com", "*.example.com"), ("API.example.com", "api.example.com"), ("[::1]", "[::1]"),
        ("127.0.0.1", "127.0.0.1"), ("localhost", "localhost"), ("example.com.", "example.com"),
    ],
)  # fmt: skip
def test_domains(text: str, domain: str) -> None:
    assert scalars.domain(text) == domain


@pytest.mark.parametrize(
    "text", ["", "*.", "**", "*a.com", "a.*", "*.*.com", "a:80", "::1", "a b", "http://a", "ü.de", "-a"]
)
def test_domains_that_are_none(text: str) -> None:
    with pytest.raises(ScalarError):
        scalars.domain(text)


@pytest.mark.parametrize("path", ["/", "/a/b.c", "/%2F", "/a//b", "/.well-known", "/..a", "/@:=,;"])
def test_paths(path: str) -> None:
    assert scalars.path_prefix(path) == scalars.whole_path(path) == path


@pytest.mark.parametrize("path", ["", "a", "/a?b", "/a#b", "/a b", "/ä", "/%7E", "/%4", "/a/../b", "/./", "/\\"])
def test_paths_that_are_none(path: str) -> None:
    for read in (scalars.path_prefix, scalars.whole_path):
        with pytest.raises(ScalarError):
            read(path)


def test_a_prefix_may_end_in_the_middle_of_a_segment() -> None:
    assert scalars.path_prefix("/a/.") == "/a/."
    with pytest.raises(ScalarError):
        scalars.whole_path("/a/.")


def test_headers() -> None:
    assert scalars.header_name("X-Canary") == "x-canary"
    assert scalars.header_value("a\tb ü") == "a\tb ü"
    for name in ("", "a b", "a:", "ü", "a\r"):
        with pytest.raises(ScalarError):
            scalars.header_name(name)
    for value in ("a\r", "a\nb", "\0", "\x1b", " a", "a "):
        with pytest.raises(ScalarError):
            scalars.header_value(value)


def test_a_secret_header_value_is_not_repeated() -> None:
    with pytest.raises(ScalarError) as caught:
        scalars.header_value("Bearer hunter2\n")
    assert "hunter2" not in str(caught.value) + caught.value.hint


READERS: list[Callable[[str], object]] = [
    scalars.duration_s, scalars.boolean, scalars.file_mode, scalars.stat_name, scalars.free_name, scalars.plain_text,
    scalars.method, scalars.header_name, scalars.header_value, scalars.url_path, scalars.url_path_and_query,
    scalars.path_prefix, scalars.whole_path, scalars.host_without_port, scalars.host_and_port, scalars.domain,
    scalars.upgrade,
]  # fmt: skip


@given(st.text(max_size=40))
def test_any_text_gives_a_value_or_a_scalar_error(text: str) -> None:
    for read in READERS:
        try:
            read(text)
        except ScalarError:
            pass
