"""How many functions of hotproxy one kept GET calls: exact, because a number that only may not grow does grow.

A call in Python costs some 50 ns before it does anything, so this number is the cheapest sign that an exchange has
become dearer.
"""

from __future__ import annotations

from hotproxy.http import kernel as http_kernel
from hotproxy.shm import kernel as shm_kernel
from tests.kit.calls import calls_of_a_kept_get

# Compiled functions are not counted, so there is one budget with the kernel and one without.
COMPILED_CALLS = 134
PURE_CALLS = 190
COMPILED = not http_kernel.WHY_PURE and not shm_kernel.WHY_PLAIN
CALLS = COMPILED_CALLS if COMPILED else PURE_CALLS
NAME = "COMPILED_CALLS" if COMPILED else "PURE_CALLS"


def test_a_kept_get_costs_exactly_so_many_calls() -> None:
    calls = calls_of_a_kept_get()
    assert calls.total() == CALLS, (
        f"one kept GET calls {calls.total()} functions, {calls.total() - CALLS:+} compared with {NAME} in this file. "
        f"`python -m bench.micro --profile` shows each of them, before and after. If this is meant, write "
        f"{NAME} = {calls.total()}, and say in the commit's message what it costs or saves (`make micro`)."
    )


def test_the_count_is_the_same_each_time() -> None:
    assert calls_of_a_kept_get() == calls_of_a_kept_get()
