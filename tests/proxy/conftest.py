"""Playbooks and TCP benches as fixtures: whatever a test plays, in the end nothing may be left over."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.kit.playbook import Playbook
from tests.kit.tcp_bench import TcpBench


@pytest.fixture
def book() -> Iterator[Callable[..., Playbook]]:
    """Makes playbooks, and checks each of them when the test is over."""
    made: list[Playbook] = []

    def make(*args: object, **kwargs: object) -> Playbook:
        made.append(Playbook(*args, **kwargs))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for playbook in made:
        playbook.end()


@pytest.fixture
def make() -> Iterator[Callable[..., TcpBench]]:
    """Makes TCP benches, and checks each of them when the test is over."""
    made: list[TcpBench] = []

    def build(*args: Any, **kwargs: Any) -> TcpBench:
        made.append(TcpBench(*args, **kwargs))
        return made[-1]

    yield build
    for bench in made:
        bench.close()
