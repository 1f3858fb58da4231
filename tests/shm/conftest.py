"""A name in /dev/shm for each test, and nothing left there after it."""

import itertools
import os

import pytest

from hotproxy.shm.memory import remove_segment

_numbers = itertools.count()


@pytest.fixture
def shm_name():
    name = f"/hotproxy-test.{os.getpid()}.{next(_numbers)}"
    yield name
    remove_segment(name)
