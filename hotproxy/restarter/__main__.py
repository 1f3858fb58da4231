"""`python -I -m hotproxy.restarter`: what `hotproxy run` turns into. Everything it will ever need is imported here."""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from pathlib import Path

from hotproxy.errors import EXIT_INTERNAL, HotproxyError
from hotproxy.restarter.log import ERROR, for_stderr, log
from hotproxy.restarter.supervisor import Options, Supervisor


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m hotproxy.restarter")
    parser.add_argument("--config", required=True)
    parser.add_argument("--instance", required=True)
    parser.add_argument("--instance-dir", required=True, type=Path)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--allow-faults", action="store_true")
    parser.add_argument("--last-good", type=Path)
    parser.add_argument("--fallback-last-good", action="store_true")
    chosen = parser.parse_args()
    options = Options(
        os.path.abspath(chosen.config), chosen.instance, chosen.instance_dir.absolute(), chosen.workers,
        chosen.allow_faults, chosen.last_good, chosen.fallback_last_good,
    )  # fmt: skip
    # By the unresolved path: a virtual environment that is a symlink is followed anew at every restart.
    return run(Supervisor(options, [sys.executable, "-I", "-m", "hotproxy.zygote"]))


def run(supervisor: Supervisor) -> int:
    """The supervisor's life as an exit code; never a bare traceback."""
    try:
        return supervisor.run()
    except HotproxyError as error:
        print(for_stderr(ERROR, str(error)), file=sys.stderr)
        return error.exit_code
    except Exception:
        log(ERROR, "internal error: " + traceback.format_exc())
        return EXIT_INTERNAL


if __name__ == "__main__":
    sys.exit(main())
