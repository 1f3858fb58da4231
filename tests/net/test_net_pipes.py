"""Pipes that are borrowed: a few, reused while they are empty, none where the kernel has no room."""

from __future__ import annotations

import fcntl
import os
import resource

import pytest

from hotproxy.net.pipes import MAX_PIPES, Pipe, Pipes


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_an_empty_one_is_used_again_and_there_are_only_so_many() -> None:
    before = descriptors()
    pipes = Pipes()
    first = pipes.take()
    assert first is not None and first.size >= 64 * 1024
    pipes.give_back(first)
    assert pipes.take() is first
    rest = [pipes.take() for _ in range(MAX_PIPES - 1)]
    assert None not in rest and pipes.take() is None
    pipes.throw_away(first)
    again = pipes.take()
    assert again is not None
    for pipe in (again, *rest):
        assert isinstance(pipe, Pipe)
        pipes.give_back(pipe)
    assert descriptors() == before + 2 * MAX_PIPES
    pipes.close()
    assert descriptors() == before


def test_without_a_descriptor_there_is_none_now() -> None:
    pipes = Pipes()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        assert pipes.take() is None
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    pipe = pipes.take()
    assert pipe is not None
    pipes.give_back(pipe)
    pipes.close()


def test_a_kernel_that_gives_small_ones_is_not_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """As for a user who has his share of pipes already (fs.pipe-user-pages-soft)."""
    before = descriptors()
    asked = []

    def small(fd: int, command: int, size: int = 0) -> int:
        asked.append(command)
        if size:
            raise PermissionError
        return 8192

    monkeypatch.setattr(fcntl, "fcntl", small)
    pipes = Pipes()
    assert pipes.take() is None and pipes.take() is None
    assert len(asked) == 2 and descriptors() == before
