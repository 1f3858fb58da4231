"""What counts as a change of the files that a config was read from."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from hotproxy.config import examine
from hotproxy.config.on_disk import Files

MAIN = """
env_files: [settings.env]
include: ["more.d/*.yaml", single.yaml]
listeners: [{name: web, address: "127.0.0.1:80", cluster: "${CLUSTER}"}]
"""
CLUSTER = 'clusters: [{name: %s, endpoints: ["127.0.0.1:81"]}]\n'


@pytest.fixture
def read(tmp_path: Path) -> Files:
    """Those of a config with everything that draws a file in."""
    (tmp_path / "more.d").mkdir()
    texts = {
        "hotproxy.yaml": MAIN, "settings.env": "CLUSTER=a\n", "more.d/a.yaml": CLUSTER % "a",
        "single.yaml": CLUSTER % "single",
    }  # fmt: skip
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o600)
    examined = examine(str(tmp_path / "hotproxy.yaml"), environ={})
    assert examined.config is not None
    return examined.files


def test_nothing_has_changed(read: Files) -> None:
    assert len(read.read) == 4
    assert read.changed() == []


def touch(directory: Path) -> None:
    for path in directory.rglob("*"):
        os.utime(path, (1, 1))


def write_anew(directory: Path) -> None:
    part = directory / "part"
    part.write_bytes((directory / "hotproxy.yaml").read_bytes())
    part.replace(directory / "hotproxy.yaml")


@pytest.mark.parametrize("act", [touch, write_anew])
def test_times_and_inodes_do_not_matter(read: Files, tmp_path: Path, act: Callable[[Path], None]) -> None:
    act(tmp_path)
    assert read.changed() == []


@pytest.mark.parametrize("name", ["hotproxy.yaml", "settings.env", "more.d/a.yaml", "single.yaml"])
def test_contents_do_whatever_the_times_say(read: Files, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    status = path.stat()
    path.write_bytes(path.read_bytes()[:-2] + b"#\n")  # as long as before
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert read.changed() == [str(path)]


@pytest.mark.parametrize("name", ["hotproxy.yaml", "settings.env", "more.d/a.yaml", "single.yaml"])
def test_a_file_that_is_gone_or_none_any_more(read: Files, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.unlink()
    assert read.changed() == [str(path)]
    os.mkfifo(path)  # nobody writes into it, and nobody waits for that
    assert read.changed() == [str(path)]


def test_a_file_that_a_reload_would_include(read: Files, tmp_path: Path) -> None:
    (tmp_path / "more.d" / "b.yaml").write_text("")
    (tmp_path / "more.d" / "b.txt").write_text("")
    (tmp_path / "more.d" / "again.yaml").symlink_to(tmp_path / "single.yaml")  # is read once, by whatever name
    assert read.changed() == [str(tmp_path / "more.d" / "b.yaml")]


def test_what_a_config_is_not_from_is_always_different(tmp_path: Path) -> None:
    path = str(tmp_path / "broken.yaml")
    files = Files(((path, ""),))
    assert files.changed() == [path]
    (tmp_path / "broken.yaml").write_text("")
    assert files.changed() == [path]
