"""The monitor of the machine: it sees a gap, and leaves nothing behind."""

from __future__ import annotations

import os
import signal
import time

from bench.spin import SpinMonitor


def test_a_gap_is_seen() -> None:
    with SpinMonitor() as spin:
        os.kill(spin._process.pid, signal.SIGSTOP)
        began_s = time.perf_counter()
        while time.perf_counter() - began_s < 0.1:  # it can't run for so long
            pass
        os.kill(spin._process.pid, signal.SIGCONT)
    assert spin.worst_ms >= 90.0
    assert spin._process.returncode == 0
