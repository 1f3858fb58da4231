"""A start that may fall back on the last good config: a supervisor over stand-ins."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit.plane import Plane, Refused, plane

ONE = {"a": ["127.0.0.1:0"]}


@pytest.fixture
def it(tmp_path: Path) -> Iterator[Plane]:
    with plane(tmp_path, fallback=True) as made:
        yield made


def test_a_start_falls_back_and_a_reload_does_not(it: Plane) -> None:
    it.start(listeners=ONE, fault="bad config")
    assert it.status()["config_fallback"] == "it is bad"
    assert it.stats()["server.config_fallback"] == 1
    with pytest.raises(Refused, match="it is bad"):
        it.reload(listeners=ONE, fault="bad config")
    assert it.stats()["server.config_fallback"] == 1
    it.reload(listeners=ONE)
    assert it.status()["config_fallback"] == ""
    assert it.stats()["server.config_fallback"] == 0
    with pytest.raises(Refused, match="it is bad"):
        it.reload(listeners=ONE, fault="bad config")
    assert it.status()["epoch"] == 3


def test_a_generation_that_is_started_afresh_falls_back(it: Plane) -> None:
    """The file was being edited when a zygote died: nobody forked its slots again until somebody came."""
    it.start(listeners=ONE)
    it.wish(listeners=ONE, fault="bad config")
    os.kill(it.serving()["pid"], signal.SIGKILL)
    it.eventually(lambda: it.status()["epoch"] == 2)
    assert it.status()["config_fallback"] == "it is bad"
    assert it.dial().echoes()


def test_without_the_option_nothing_falls_back(tmp_path: Path) -> None:
    with plane(tmp_path) as it:
        it.wish(listeners=ONE, fault="bad config")
        it.launch()
        assert it.wait() == 1
        assert "it is bad" in it.log
