"""The config that is kept: it means the same wherever it lies, nobody else can read it, and it is whole or absent."""

from __future__ import annotations

import os
import resource
import shutil
from pathlib import Path

import pytest

from hotproxy.config import load, model
from hotproxy.config.last_good import check_owner, keep
from hotproxy.config.sources import SourceError

CONFIG = """
env_files: [settings.env]
include: ["more.d/*.yaml"]
listeners:
  - name: web
    address: unix:web.sock
    access_log: {path: access.log, format: '%START_TIME% $$'}
    routes:
      - match: {prefix: /, headers: {authorization: "Bearer ${TOKEN}"}}
        cluster: api
      - match: {path: /}
        direct_response: {status: 200, body: "$${TOKEN} # é"}
"""
CLUSTER = 'clusters: [{name: api, endpoints: ["unix:api.sock", "127.0.0.1:1"]}]\n'


@pytest.fixture
def config(tmp_path: Path) -> model.Config:
    """From files that are gone."""
    directory = tmp_path / "etc"
    (directory / "more.d").mkdir(parents=True)
    texts = {"hotproxy.yaml": CONFIG, "settings.env": "TOKEN=a$b${c}", "more.d/a.yaml": CLUSTER}
    for name, text in texts.items():
        (directory / name).write_text(text)
        (directory / name).chmod(0o600)
    loaded = load(str(directory / "hotproxy.yaml"), environ={}, offline=True)
    shutil.rmtree(directory)
    return loaded


@pytest.fixture
def path(tmp_path: Path) -> str:
    (tmp_path / "state").mkdir()
    return str(tmp_path / "state" / "a.last-good.yaml")


def names(path: str) -> list[str]:
    return os.listdir(os.path.dirname(path))


def test_it_needs_no_other_file_and_no_variable(config: model.Config, path: str) -> None:
    keep(path, config, 3, lambda: True)
    assert load(path, environ={}, offline=True) == config
    assert "Bearer a$$b$${c}" in Path(path).read_text()


def test_only_its_owner_can_read_it(config: model.Config, path: str) -> None:
    """Whatever the umask is, and whatever lay there before."""
    Path(path).write_text("old")
    Path(path).chmod(0o644)
    before = os.umask(0)
    try:
        keep(path, config, 3, lambda: True)
    finally:
        os.umask(before)
    assert os.stat(path).st_mode & 0o777 == 0o600
    assert names(path) == [os.path.basename(path)]


def test_a_generation_that_is_superseded_keeps_nothing(config: model.Config, path: str) -> None:
    """It was slow to write, and its successor had kept another config meanwhile."""
    Path(path).write_text("of the successor")
    keep(path, config, 3, lambda: False)
    assert Path(path).read_text() == "of the successor"
    assert names(path) == [os.path.basename(path)]


def test_the_same_config_is_not_written_again(config: model.Config, path: str) -> None:
    keep(path, config, 3, lambda: True)
    inode = os.stat(path).st_ino
    keep(path, config, 4, lambda: True)
    assert os.stat(path).st_ino == inode
    Path(path).chmod(0o640)  # somebody else could read it meanwhile
    keep(path, config, 4, lambda: True)
    assert os.stat(path).st_mode & 0o777 == 0o600


def test_what_a_killed_one_left_half_written_is_replaced(config: model.Config, path: str) -> None:
    elsewhere = Path(path).with_name("victim")
    elsewhere.write_text("precious")
    os.symlink(elsewhere, f"{path}.new")
    keep(path, config, 3, lambda: True)
    assert elsewhere.read_text() == "precious"
    assert load(path, environ={}, offline=True) == config


def test_a_directory_that_is_gone_is_an_error_and_nothing_else(config: model.Config, path: str) -> None:
    os.rmdir(os.path.dirname(path))
    with pytest.raises(FileNotFoundError):
        keep(path, config, 3, lambda: True)


def test_a_disk_that_is_full_leaves_the_old_one(config: model.Config, path: str) -> None:
    before = "workers: 2\n"
    Path(path).write_text(before)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))  # Python ignores SIGXFSZ
    try:
        with pytest.raises(OSError, match="File too large"):
            keep(path, config, 4, lambda: True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert Path(path).read_text() == before


def test_a_file_that_is_not_there(path: str) -> None:
    with pytest.raises(SourceError, match="no such file"):
        check_owner(path)
    Path(path).write_text("")
    check_owner(path)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a file away")
def test_a_file_of_another_user_is_not_run(path: str) -> None:
    Path(path).write_text("")
    os.chown(path, 4711, 4711)
    with pytest.raises(SourceError, match="belongs to another user"):
        check_owner(path)
