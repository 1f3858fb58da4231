"""A request through the serving code, with nobody at either end."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from hotproxy.cli.rehearsal import rehearse
from hotproxy.config import load, load_text, model

ROUTING = Path(__file__).parents[2] / "configs" / "routing.yaml"
PEER = "192.0.2.1:1024"


@pytest.fixture(scope="module")
def config() -> model.Config:
    return load(str(ROUTING), environ={}, offline=True)


def get(path: str, host: str = "api.example.com", *lines: str) -> bytes:
    return "\r\n".join([f"GET {path} HTTP/1.1", f"host: {host}", *lines, "", ""]).encode()


def test_what_is_forwarded_is_what_an_endpoint_would_read(config: model.Config) -> None:
    seen = rehearse(config, "web", get("/a/../v1/x?q", "api.example.com", "x-envoy-a: 1"), PEER, True)
    head, end = seen.forwarded.split(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    assert lines[0] == b"GET /x?q HTTP/1.1" and b"host: api.internal" in lines and end == b""
    assert b"x-forwarded-for: 192.0.2.1" in lines and b"x-envoy" not in head
    assert seen.virtual_host is not None and seen.virtual_host.name == "api.example.com"
    assert (seen.path, seen.number, seen.route) == ("/v1/x", 1, seen.virtual_host.routes[1])
    assert [(each.number, each.misfit.part, each.misfit.name) for each in seen.passed_over] == [
        (0, "header", "x-canary")
    ]
    assert seen.answered == b"" and len(seen.endpoints) == 1


def test_without_a_connection_every_endpoint_is_tried(config: model.Config) -> None:
    seen = rehearse(config, "web", get("/v1/x"), PEER, False)
    assert sorted(seen.endpoints) == ["127.0.0.1:9001", "127.0.0.1:9002"]
    assert seen.answered.startswith(b"HTTP/1.1 503 ") and seen.info is not None and seen.info.flags == ("UF",)


def test_what_is_answered_here(config: model.Config) -> None:
    seen = rehearse(config, "web", get("/x", "old.example.com"), PEER, True)
    assert seen.answered.startswith(b"HTTP/1.1 308 ") and b"location: https://www.example.com/x" in seen.answered
    assert seen.endpoints == [] and seen.forwarded == b""


@pytest.mark.parametrize(
    ("request_", "details"), [(get("/.."), "path_normalization_failed"), (get("/", "a b"), "http1.invalid_host")]
)
def test_what_is_refused_before_the_routes(config: model.Config, request_: bytes, details: str) -> None:
    seen = rehearse(config, "web", request_, PEER, True)
    assert seen.info is not None and seen.info.details == details
    assert seen.virtual_host is None and seen.path == ""


def test_a_head_larger_than_any_buffer_is_refused(config: model.Config) -> None:
    seen = rehearse(config, "web", get("/", "a", *(f"x-{number}: {'a' * 60_000}" for number in range(40))), PEER, True)
    assert seen.info is not None and seen.info.status == 431


def test_nothing_leaves_this_process() -> None:
    """A tcp listener connected for real: it made its connects itself, past the seam."""
    with socket.create_server(("127.0.0.1", 0)) as origin:
        origin.setblocking(False)
        endpoint = f"127.0.0.1:{origin.getsockname()[1]}"
        text = f"""
listeners:
  - {{name: t, address: ":1", tcp: {{cluster: c}}, access_log: {{path: /nowhere/at/all}}}}
  - {{name: h, address: ":2", cluster: c, access_log: {{path: /nowhere/at/all}}}}
clusters: [{{name: c, endpoints: ["{endpoint}", "127.0.0.1:1"]}}]
"""
        config = load_text(text, "/a.yaml", offline=True)
        for listener in ("t", "h"):
            seen = rehearse(config, listener, get("/"), PEER, True)
            assert len(seen.endpoints) == 1 and seen.forwarded.startswith(b"GET / HTTP/1.1\r\n")
            unreached = rehearse(config, listener, get("/"), PEER, False)
            assert len(unreached.endpoints) == 2 and unreached.info is not None and "UF" in unreached.info.flags
        with pytest.raises(BlockingIOError):
            origin.accept()
