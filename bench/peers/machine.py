"""What a report says about the machine that its figures come from."""

from __future__ import annotations

import os
import platform
import time
from typing import Any


def facts(versions: dict[str, str]) -> dict[str, Any]:
    """At the beginning of a run. `versions`: of whatever is measured."""
    with open("/proc/cpuinfo") as file:
        model = next((line.partition(":")[2].strip() for line in file if line.startswith("model name")), "unknown CPU")
    return {
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "cpu": model,
        "cpus": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "versions": versions,
        "load_before": round(os.getloadavg()[0], 1),
    }
