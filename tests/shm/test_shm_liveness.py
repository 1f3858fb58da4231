"""A pid that was used again is another process."""

import os
import signal
import subprocess
import sys

from hotproxy.shm.liveness import boot_id, is_alive, start_time


def test_this_process_lives_and_only_with_its_own_start():
    start = start_time(os.getpid())
    assert is_alive(os.getpid(), start)
    assert not is_alive(os.getpid(), start + 1)
    assert not is_alive(os.getpid(), 0)


def test_garbage_is_not_alive():
    for pid in (0, -1, 1 << 22, 1 << 62, -(1 << 63)):
        assert not is_alive(pid, 1)


def test_a_process_is_gone_as_soon_as_it_only_waits_to_be_reaped():
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    start = start_time(process.pid)
    assert is_alive(process.pid, start)
    process.send_signal(signal.SIGKILL)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert start_time(process.pid) is None
    assert not is_alive(process.pid, start)
    process.communicate()
    assert not is_alive(process.pid, start)


def test_a_name_with_parentheses_does_not_confuse(tmp_path):
    program = tmp_path / "a) R 1"
    program.symlink_to("/bin/cat")
    process = subprocess.Popen([program], stdin=subprocess.PIPE)
    assert is_alive(process.pid, start_time(process.pid))
    assert start_time(process.pid) >= start_time(os.getpid())
    process.communicate()


def test_boot_id():
    assert len(boot_id()) == 16
    assert boot_id() == boot_id()
