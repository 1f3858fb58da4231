"""The examples load, say what they do, and the reference lists every field."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from hotproxy.config import examine, shapes

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "configs"
EXAMPLES = sorted([*CONFIGS.glob("*.yaml"), CONFIGS / "include" / "hotproxy.yaml"])
EVERY_FILE = sorted(CONFIGS.rglob("*.yaml"))


def _only_ours_to_write(path: Path) -> bool:
    return not path.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: str(path.relative_to(CONFIGS)))
def test_every_example_loads_without_a_warning(path: Path) -> None:
    if not all(map(_only_ours_to_write, path.parent.rglob("*"))) and path.parent != CONFIGS:
        pytest.skip("checked out with a umask that lets others write")
    examined = examine(str(path), environ={}, offline=True)
    assert examined.problems == ()
    assert examined.config is not None
    assert examined.config.listeners


def test_every_example_begins_with_a_comment() -> None:
    for path in EVERY_FILE:
        if "clusters.d" not in path.parts:
            assert path.read_text().startswith("# "), path


def test_the_demo_is_what_the_tour_says() -> None:
    config = examine(str(CONFIGS / "demo.yaml"), environ={}).config
    assert config is not None
    (web,), (demo,) = config.listeners, config.clusters
    assert [str(address) for address in web.addresses] == ["127.0.0.1:8080"]
    assert web.access_log is not None
    assert web.access_log.path == "/dev/stdout"
    assert [str(endpoint.address) for endpoint in demo.endpoints] == ["127.0.0.1:9001", "127.0.0.1:9002"]
    routes = web.virtual_hosts[0].routes
    assert any(route.redirect for route in routes)
    assert any(route.direct_response for route in routes)


def test_the_reference_lists_every_field() -> None:
    reference = (ROOT / "docs" / "configuration.md").read_text()
    for shape in shapes.ALL:
        for name in shape.fields:
            assert f"`{name}`" in reference or f"{name}:" in reference, (shape.noun, name)
