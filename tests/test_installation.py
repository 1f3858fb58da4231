"""What `pip install` makes of the sources: a compiled wheel; without a compiler or mypyc, one that serves as well."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from tests.kit import clients
from tests.kit.instance import instance

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
CONFIG = """
listeners:
  - name: web
    address: 127.0.0.1:0
    routes:
      - match: {prefix: /}
        direct_response: {status: 200, body: hello}
"""
REQUEST = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
NOT_COPIED = shutil.ignore_patterns(
    ".git",
    ".venv*",
    "build",
    "dist",
    "*.egg-info",
    "*.c",
    "*.so",
    "_compiled",
    "__pycache__",
    ".*_cache",
    ".hypothesis",
)


def build_wheel(directory: Path, **environment: str) -> tuple[Path, str]:
    """Of a copy of the sources, with the build requirements that are here; the wheel, and what the build said."""
    sources = directory / "sources"
    shutil.copytree(ROOT, sources, ignore=NOT_COPIED)
    command = [sys.executable, "-m", "pip", "wheel", "-v", "--no-deps", "--no-build-isolation", "-w", "..", "."]
    done = subprocess.run(
        command, cwd=sources, env=os.environ | environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert done.returncode == 0, done.stdout
    (wheel,) = directory.glob("*.whl")
    return wheel, done.stdout


def install(wheel: Path, directory: Path) -> str:
    """Into an environment of its own, beside the dependencies of the one that the tests run in; its interpreter."""
    venv.create(directory, symlinks=True, with_pip=False)
    python = directory / "bin" / "python"
    site = directory / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
    command = [sys.executable, "-m", "pip", "-q", "--python", str(python), "install", "--no-deps", str(wheel)]
    subprocess.run(command, check=True)
    (site / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return str(python)


def version(python: str) -> str:
    command = [python, "-I", "-m", "hotproxy.cli.main", "version"]
    environment = {name: value for name, value in os.environ.items() if name != "HOTPROXY_KERNEL"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout


def assert_it_serves(python: str, directory: Path) -> None:
    with instance(directory, CONFIG, python=python) as proxy:
        assert clients.exchange(proxy.port("web"), REQUEST).startswith(b"HTTP/1.1 200")
        proxy.reload()
        assert clients.exchange(proxy.port("web"), REQUEST).startswith(b"HTTP/1.1 200")


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
def test_a_wheel_is_compiled_and_serves(short_path: Path) -> None:
    wheel, _ = build_wheel(short_path)
    python = install(wheel, short_path / "venv")
    shutil.rmtree(short_path / "sources")
    assert "data path: compiled\n" in version(python)
    assert_it_serves(python, short_path)


def test_without_a_compiler_it_is_plain_and_serves(short_path: Path) -> None:
    wheel, said = build_wheel(short_path, CC="/no/such/compiler")
    assert "/no/such/compiler" in said
    python = install(wheel, short_path / "venv")
    assert "data path: plain Python (it was not built)\n" in version(python)
    assert_it_serves(python, short_path)


def test_without_mypyc_it_is_plain_and_serves(short_path: Path) -> None:
    """A module of that name which can't be imported stands in front of the real one."""
    (short_path / "front").mkdir()
    (short_path / "front" / "mypyc.py").write_text("raise ImportError('not here')\n")
    wheel, said = build_wheel(short_path, PYTHONPATH=str(short_path / "front"))
    assert "no mypyc here, so the data path stays plain Python (not here)" in said
    python = install(wheel, short_path / "venv")
    assert "data path: plain Python (it was not built)\n" in version(python)
    assert_it_serves(python, short_path)
