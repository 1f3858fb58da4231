"""The request that is asked about, and the listener that would get it."""

from __future__ import annotations

import pytest

from hotproxy.cli.request import find_listener, parse
from hotproxy.config import load_text
from hotproxy.errors import HotproxyError


@pytest.mark.parametrize(
    ("url", "headers", "target", "authority", "port"),
    [
        ("http://a/x?y=1#z", [], "/x?y=1", "a", 0),
        ("http://a", [], "/", "a", 0),
        ("HTTP://a:81?q", [], "/?q", "a:81", 81),
        ("http://[::1]:82/", [], "/", "[::1]:82", 82),
        ("http://[::1]/", [], "/", "[::1]", 0),
        ("/x", ["Host: b:83"], "/x", "b:83", 83),
        ("http://a:81/x", ["hOsT:b"], "/x", "b", 81),
        ("*", ["host: b"], "*", "b", 0),
    ],
)
def test_urls(url: str, headers: list[str], target: str, authority: str, port: int) -> None:
    asked = parse("GET", url, headers)
    assert (asked.target, asked.authority, asked.port, asked.headers) == (target, authority, port, ())


def test_it_is_encoded_as_a_client_sends_it() -> None:
    asked = parse("POST", "http://a/x", ["X-A:  1 ", "x-b: ü", "x-c:"])
    assert asked.encode() == "POST /x HTTP/1.1\r\nhost: a\r\nX-A: 1\r\nx-b: ü\r\nx-c: \r\n\r\n".encode("latin-1")
    assert parse("CONNECT", "http://a:443/", []).encode().startswith(b"CONNECT a:443 HTTP/1.1\r\nhost: a:443\r\n")
    assert "→".encode() in parse("GET", "/", ["host: a", "x: →"]).encode()


@pytest.mark.parametrize(
    ("method", "url", "headers", "message"),
    [
        ("G T", "/", [], "no method"),
        ("GET", "/x", [], r"-H 'Host: …', or write http://host/x"),
        ("GET", "example.com/x", [], "did you mean 'http://example.com/x' or '/example.com/x'"),
        ("GET", "ftp://a/", [], "speak http"),
        ("GET", "http://u:hunter2@a/", [], "no user part here: give -H 'Authorization: …'$"),
        ("GET", "http:///x", [], "has no host"),
        ("GET", "http://a/ä", [], "percent-encode"),
        ("GET", "http://a/\r\nx", [], "percent-encode"),
        ("GET", "", [], "no URL"),
        ("GET", "http://a:0/", [], "'0' is no port"),
        ("GET", "http://a:x/", [], "'x' is no port"),
        ("GET", "http://a/", ["nonsense"], "'name: value'"),
        ("GET", "http://a/", ["a b: c"], "'name: value'"),
        ("GET", "http://a/", ["a: b\r\nc: d"], "line break"),
        ("GET", "/", ["host: a", "Host: b"], "more than once"),
    ],
)
def test_what_cannot_be_asked_is_a_usage_error(method: str, url: str, headers: list[str], message: str) -> None:
    with pytest.raises(HotproxyError, match=message) as refused:
        parse(method, url, headers)
    assert refused.value.exit_code == 2 and "hunter2" not in str(refused.value)


CONFIG = load_text(
    """
listeners:
  - {name: any, address: ":81", cluster: c}
  - {name: one, address: ["10.0.0.1:82", "unix:/a"], cluster: c}
  - {name: two, address: "10.0.0.2:82", cluster: c}
  - {name: four, address: "0.0.0.0:83", cluster: c}
  - {name: chosen, address: "127.0.0.1:0", cluster: c}
clusters: [{name: c, endpoints: ["127.0.0.1:9"]}]
""",
    "/a.yaml",
    offline=True,
)
BOUND = {"chosen": ["127.0.0.1:40001"]}


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("http://a:81/", "any"),
        ("http://[::1]:81/", "any"),
        ("http://10.0.0.2:82/", "two"),
        ("http://10.0.0.9:83/", "four"),
        ("http://a:40001/", "chosen"),
    ],
)
def test_the_port_chooses_and_an_ip_address_too(url: str, name: str) -> None:
    assert find_listener(parse("GET", url, []), CONFIG, BOUND, None)[0].name == name


@pytest.mark.parametrize(
    ("url", "name", "message", "code"),
    [
        ("http://a:82/", None, r"\(one, two\): choose one with --listener", 2),
        ("http://a/", None, "choose one with --listener", 2),
        ("http://10.0.0.3:82/", None, "nothing listens on port 82", 1),
        ("http://[::1]:83/", None, "nothing listens on port 83", 1),
        ("http://a:9/", None, r"nothing listens on port 9; listeners: any \(:81\)", 1),
        ("http://a:81/", "none", "no listener 'none'; there are: any", 2),
    ],
)
def test_none_or_several(url: str, name: str | None, message: str, code: int) -> None:
    with pytest.raises(HotproxyError, match=message) as refused:
        find_listener(parse("GET", url, []), CONFIG, BOUND, name)
    assert refused.value.exit_code == code


def test_a_name_wins_and_the_only_one_needs_no_port() -> None:
    assert find_listener(parse("GET", "http://a:9/", []), CONFIG, {}, "two")[0].name == "two"
    one = load_text(
        "listeners: [{name: a, address: ':8', cluster: c}]\nclusters: [{name: c, endpoints: ['1.1.1.1:1']}]", "/a"
    )
    assert find_listener(parse("GET", "http://a/", []), one, {}, None)[0].name == "a"


def test_https_without_a_port_is_443() -> None:
    text = "listeners: [{name: a, address: ':80', cluster: c}, {name: b, address: ':443', cluster: c}]\n"
    two = load_text(text + "clusters: [{name: c, endpoints: ['1.1.1.1:1']}]", "/a")
    assert find_listener(parse("GET", "https://a/", []), two, {}, None)[0].name == "b"
    assert find_listener(parse("GET", "http://a/", []), two, {}, None)[0].name == "a"
