"""What may be asked of the admin API without a proxy around it."""

from __future__ import annotations

import asyncio
import json

import pytest

from hotproxy import __version__
from hotproxy.control.admin import PLAIN_PATTERN, Admin
from hotproxy.control.http_server import Request


async def changed_files() -> list[str]:
    return ["/etc/hotproxy/hotproxy.yaml"]


def test_the_config_is_talked_about_over_the_unix_socket_only() -> None:
    admin = Admin("/hotproxy-test.none", 7, lambda: True, lambda: "abc", changed_files)
    told = asyncio.run(admin.answer(Request("GET", "/config_digest", {}, local=True)))
    assert isinstance(told.body, bytes)
    assert json.loads(told.body) == {"digest": "abc", "epoch": 7, "version": __version__}
    told = asyncio.run(admin.answer(Request("GET", "/config_changed", {}, local=True)))
    assert isinstance(told.body, bytes)
    assert json.loads(told.body) == {"changed": ["/etc/hotproxy/hotproxy.yaml"], "epoch": 7, "version": __version__}
    for path in ("/config_digest", "/config_changed"):
        assert asyncio.run(admin.answer(Request("GET", path, {}))).status == 403


@pytest.mark.parametrize(
    "pattern", ["", "rq_total", "^http\\.web", "cluster.*upstream", "a*|b*", "[a-z]_total$", "x" * 200]
)
def test_plain_filters_are_let_in(pattern: str) -> None:
    assert PLAIN_PATTERN.fullmatch(pattern)


@pytest.mark.parametrize("pattern", ["(a*)*", "a+", "a{9}", "a?", "x" * 201, ".*.*.*x", "a\nb"])
def test_filters_that_could_take_minutes_are_not(pattern: str) -> None:
    """Stars were not counted: `.*` thirty times kept the process busy until it was killed for its missing heartbeat."""
    assert not PLAIN_PATTERN.fullmatch(pattern)
