"""Fixtures of the whole suite."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A directory with a short name: a unix socket's path has at most 107 bytes, which pytest's `tmp_path` eats up."""
    directory = Path(tempfile.mkdtemp(prefix="hp-"))
    yield directory
    shutil.rmtree(directory)
