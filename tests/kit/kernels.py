"""The compiled modules, whatever HOTPROXY_KERNEL says: tests skip where they were not built."""

from __future__ import annotations

import importlib
import os
from typing import Any

import pytest


def compiled(module: str) -> Any:
    """`hotproxy.http._kernel` or `hotproxy.shm._cells`."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        if os.environ.get("HOTPROXY_TEST_REQUIRE_PEERS"):
            pytest.fail(f"{module} was not built ({error}), and HOTPROXY_TEST_REQUIRE_PEERS is set")
        pytest.skip(f"{module} was not built: {error}")
