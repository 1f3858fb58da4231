"""`python -I -m hotproxy.restarter`: what `hotproxy run` turns into. Everything it will ever need is imported here."""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from pathlib import Path

from hotproxy.errors import EXIT_INTERNAL, EXIT_OK, HotproxyError
from hotproxy.restarter import rehearsal
from hotproxy.restarter.log import ERROR, for_stderr, log
from hotproxy.restarter.resume import Inherited
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
    add_own_arguments(parser)
    chosen = parser.parse_args()
    options = Options(
        os.path.abspath(chosen.config), chosen.instance, chosen.instance_dir.absolute(), chosen.workers,
        chosen.allow_faults, chosen.last_good, chosen.fallback_last_good,
    )  # fmt: skip
    # By the unresolved path: a virtual environment that is a symlink is followed anew at every restart.
    interpreter = [sys.executable, "-I", "-m"]
    own = [*interpreter, "hotproxy.restarter", *_arguments(options)]
    supervisor = Supervisor(
        options, [*interpreter, "hotproxy.zygote"], own_command=own, inherited=inherited_by(chosen)
    )  # fmt: skip
    return rehearse(supervisor) if chosen.rehearse else run(supervisor)


def add_own_arguments(parser: argparse.ArgumentParser) -> None:
    """What a supervisor says to its own next version (`renewal`, `resume`)."""
    parser.add_argument("--rehearse", action="store_true")
    parser.add_argument("--lock-fd", type=int, default=-1)
    parser.add_argument("--commands-fd", type=int, default=-1)
    parser.add_argument("--resume", type=int, default=-1)


def inherited_by(chosen: argparse.Namespace) -> Inherited:
    return Inherited(chosen.lock_fd, chosen.commands_fd, chosen.resume)


def _arguments(options: Options) -> list[str]:
    arguments = ["--config", options.config, "--instance", options.instance]
    arguments += ["--instance-dir", str(options.instance_dir)]
    if options.workers:
        arguments += ["--workers", str(options.workers)]
    if options.allow_faults:
        arguments.append("--allow-faults")
    if options.last_good is not None:
        arguments += ["--last-good", str(options.last_good)]
    if options.fallback_last_good:
        arguments.append("--fallback-last-good")
    return arguments


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


def rehearse(supervisor: Supervisor) -> int:
    """For the supervisor that runs: the digest of this code on stdout, if it can begin. What is raised is on stderr."""
    print(rehearsal.rehearse(supervisor))
    return EXIT_OK


if __name__ == "__main__":
    sys.exit(main())
