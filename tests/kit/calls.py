"""Counts the functions of hotproxy that an exchange calls: the same on every machine and in every run.

    HOTPROXY_KERNEL=pure python -m tests.kit.calls      JSON: the same of two exchanges, counted one after the other

Compiled functions can't be seen, so it is the plain data path that is counted.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import FrameType

import hotproxy
from tests.kit.phrases import GET, GET_UP, HI, HI_DOWN, WARM
from tests.kit.playbook import Playbook

PACKAGE = str(Path(hotproxy.__file__).parent) + "/"
# Python 3.12 runs them inside the function that they stand in, and earlier ones call them.
COMPREHENSIONS = ("<listcomp>", "<setcomp>", "<dictcomp>")


def calls_of_a_kept_get() -> Counter[str]:
    """{"file:function": calls} of a GET and its response, on a connection and with a pool that are warm.

    Functions of the fakes are not counted, nor those of libraries, and the interpreter's own.
    """
    calls: Counter[str] = Counter()

    def count(frame: FrameType, event: str, argument: object) -> None:
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(PACKAGE) and code.co_name not in COMPREHENSIONS:
            calls[f"{code.co_filename.removeprefix(PACKAGE)}:{code.co_qualname}"] += 1

    play = Playbook()
    play(*WARM, *WARM)  # the second one also meets what is remembered, such as the date
    before = sys.getprofile()
    sys.setprofile(count)
    try:
        received = play(("down", GET), ("up", HI))
    finally:
        sys.setprofile(before)
    assert received == [("up", GET_UP), ("down", HI_DOWN)]
    play.end()
    return calls


def counted_plain() -> tuple[Counter[str], Counter[str]]:
    """`calls_of_a_kept_get()`, twice, of an interpreter of its own in which nothing is compiled."""
    command = [sys.executable, "-m", "tests.kit.calls"]
    environment = os.environ | {"HOTPROXY_KERNEL": "pure"}
    root = Path(__file__).parents[2]
    done = subprocess.run(command, env=environment, cwd=root, capture_output=True, text=True, check=True)
    first, second = json.loads(done.stdout)
    return Counter(first), Counter(second)


if __name__ == "__main__":
    json.dump([calls_of_a_kept_get(), calls_of_a_kept_get()], sys.stdout)
