"""The files of a config as one, which loads to the same."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from hotproxy.config import examine, load_text
from hotproxy.config.merged import merged_yaml
from hotproxy.config.secrets import Hidden

CONFIGS = Path(__file__).parents[2] / "configs"

MAIN = """
include: [conf.d/*.yaml]
env_files: [env]
x-anchors: {slow: &slow {timeout: 1m}}
workers: 3
listeners:
  - name: a
    address: ["unix:a.sock", {path: b.sock, mode: "0600"}, "127.0.0.1:1"]
    access_log: {path: log, format: "${F:-json}"}
    routes:
      - match: {prefix: /, headers: {x-api-key: "${API_KEY}", x-b: "$$x"}}
        cluster: c
        <<: *slow
"""
PART = """
listeners: [{name: b, address: ":2", tcp: {cluster: c}}]
clusters: [{name: c, endpoints: ["unix:o.sock", {address: "unix:p.sock", weight: 2}]}]
"""


@pytest.fixture
def main(tmp_path: Path) -> Path:
    (tmp_path / "conf.d").mkdir()
    for name, text in (("main.yaml", MAIN), ("conf.d/part.yaml", PART), ("env", "API_KEY=hunter2\n")):
        file = tmp_path / name
        file.write_text(text)
        file.chmod(0o600)
    return tmp_path / "main.yaml"


def test_includes_variables_and_paths_are_in_their_place(main: Path) -> None:
    examined = examine(str(main), environ={}, offline=True)
    text = merged_yaml(examined.roots)
    assert load_text(text, "/elsewhere/a.yaml", environ={}, offline=True) == examined.config
    tree = yaml.safe_load(text)
    assert list(tree) == ["workers", "listeners", "clusters"]
    assert tree["clusters"][0]["endpoints"][0] == f"unix:{main.parent}/conf.d/o.sock"
    assert tree["workers"] == 3
    assert "lb_policy" not in tree["clusters"][0]
    assert tree["listeners"][0]["routes"][0]["timeout"] == "1m"


def test_secrets_are_masked(main: Path) -> None:
    examined = examine(str(main), environ={}, offline=True)
    text = merged_yaml(examined.roots, Hidden(examined.secrets))
    assert "hunter2" not in text and "x-api-key: '***'" in text
    load_text(text, "/elsewhere/a.yaml", environ={}, offline=True)


@pytest.mark.parametrize("name", ["demo", "routing", "tcp", "unix-sockets"])
def test_every_example_loads_to_the_same(name: str) -> None:
    examined = examine(str(CONFIGS / f"{name}.yaml"), environ={}, offline=True)
    assert load_text(merged_yaml(examined.roots), "/a.yaml", environ={}, offline=True) == examined.config
