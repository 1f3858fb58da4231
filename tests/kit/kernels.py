"""The compiled modules, whatever HOTPROXY_KERNEL says: tests skip where they were not built."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
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


def compiled_data_path() -> None:
    """Skip where `hotproxy.data_path` was not built, or not of the sources that are there."""
    environment = {name: value for name, value in os.environ.items() if name != "HOTPROXY_KERNEL"}
    code = "from hotproxy.data_path import why_plain; print(why_plain())"
    done = subprocess.run(
        [sys.executable, "-I", "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    why = done.stdout.strip()
    if why and os.environ.get("HOTPROXY_TEST_REQUIRE_PEERS"):
        pytest.fail(f"the data path is plain Python ({why}), and HOTPROXY_TEST_REQUIRE_PEERS is set")
    if why:
        pytest.skip(f"the data path is plain Python: {why}")
