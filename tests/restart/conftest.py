"""What the restart tests share: an nginx origin, and the config of a proxy in front of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit import origin


@pytest.fixture
def nginx_address(short_path: Path) -> Iterator[str]:
    directory = short_path / "nginx"
    directory.mkdir()
    with origin.nginx(directory) as address:
        yield address
