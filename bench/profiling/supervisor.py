"""hotproxy's supervisor, whose zygotes tell perf the names of Python functions (Python 3.12 and later)."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from hotproxy.restarter.__main__ import run
from hotproxy.restarter.supervisor import Options, Supervisor

if __name__ == "__main__":
    config, name, directory = sys.argv[1:]
    options = Options(config, name, Path(directory), 0)
    sys.exit(run(Supervisor(options, [sys.executable, "-X", "perf", "-I", "-m", "hotproxy.zygote"])))
