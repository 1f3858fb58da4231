"""The playbook as a fixture: whatever a test plays, in the end nothing may be left over."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.kit.playbook import Playbook


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
