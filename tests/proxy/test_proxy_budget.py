"""How many functions of hotproxy one kept GET calls: exact, because a number that only may not grow does grow.

A call in Python costs some 50 ns before it does anything, so this number is the cheapest sign that an exchange has
become dearer. It is counted where nothing is compiled; what is saved there, mypyc saves too.
"""

from __future__ import annotations

from collections import Counter

import pytest

from tests.kit.calls import counted_plain

CALLS = 192


@pytest.fixture(scope="module")
def counts() -> tuple[Counter[str], Counter[str]]:
    return counted_plain()


def test_a_kept_get_costs_exactly_so_many_calls(counts: tuple[Counter[str], Counter[str]]) -> None:
    calls = counts[0].total()
    assert calls == CALLS, (
        f"one kept GET calls {calls} functions, {calls - CALLS:+} compared with CALLS in this file. "
        f"`python -m bench.micro --profile` shows each of them, before and after. If this is meant, write "
        f"CALLS = {calls}, and say in the commit's message what it costs or saves (`make micro`)."
    )


def test_the_count_is_the_same_each_time(counts: tuple[Counter[str], Counter[str]]) -> None:
    assert counts[0] == counts[1]
