"""What systemd passes to the process that it starts: sd_listen_fds(3)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from hotproxy.restarter.systemd import passed_descriptors

ASK = """
import json, os, sys
from hotproxy.errors import HotproxyError
from hotproxy.restarter.systemd import passed_descriptors
for number in range(int(sys.argv[1])):
    os.dup2(0, 3 + number, inheritable=True)
os.environ["LISTEN_PID"] = str(os.getpid())
try:
    passed = passed_descriptors()
except HotproxyError as error:
    sys.exit(json.dumps(str(error)))
print(json.dumps({
    "passed": passed, "again": passed_descriptors(), "inheritable": [os.get_inheritable(fd) for _, fd in passed],
    "left": sorted(name for name in os.environ if name.startswith("LISTEN_")),
}))
"""


def passed_to_a_process(number: int, **variables: str) -> Any:
    """A process with so many descriptors from 3 on: what it found, or why it refuses."""
    done = subprocess.run(
        [sys.executable, "-c", ASK, str(number)],
        env=os.environ | variables,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    return json.loads(done.stdout or done.stderr)


def test_descriptors_come_with_their_names_once_and_nobody_inherits_them() -> None:
    assert passed_to_a_process(2, LISTEN_FDS="2", LISTEN_FDNAMES="web:hotproxy.socket", LISTEN_PIDFDID="7") == {
        "passed": [["web", 3], ["hotproxy.socket", 4]],
        "again": [],
        "inheritable": [False, False],
        "left": [],
    }


def test_without_names_they_are_unknown_as_to_systemd() -> None:
    assert passed_to_a_process(1, LISTEN_FDS="1")["passed"] == [["unknown", 3]]


def test_what_was_meant_for_another_process_is_not_ours() -> None:
    environment = {"LISTEN_PID": "1", "LISTEN_FDS": "1", "LISTEN_FDNAMES": "web", "PATH": "/bin"}
    assert passed_descriptors(environment) == []
    assert environment == {"PATH": "/bin"}


def test_nothing_passed_is_nothing() -> None:
    assert passed_descriptors({}) == []


@pytest.mark.parametrize(
    ("variables", "why"),
    [
        ({"LISTEN_FDS": "two"}, "LISTEN_FDS is 'two', not a number"),
        ({"LISTEN_FDS": "²"}, "LISTEN_FDS is '²', not a number"),
        ({"LISTEN_FDS": "1", "LISTEN_FDNAMES": "a:b"}, "LISTEN_FDS is 1, and LISTEN_FDNAMES has 2 names"),
        ({"LISTEN_FDS": "100"}, "LISTEN_FDS is 100, and descriptor 4 is not open: Bad file descriptor"),
    ],
)
def test_variables_that_contradict_each_other_or_the_process_are_refused(variables: dict[str, str], why: str) -> None:
    assert passed_to_a_process(1, **variables) == why
