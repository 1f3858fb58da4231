"""`python -I -m hotproxy.zygote`: the first lines of a new generation, which must not fail without saying why.

Nothing but the standard library is imported before the supervisor can be told; what goes wrong after that, a syntax
error in any module included, becomes FAILED and so the reason of a refused reload.
"""

from __future__ import annotations

import argparse
import os
import socket
import sys
import traceback
from pathlib import Path


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m hotproxy.zygote")
    parser.add_argument("--fd", required=True, type=int)
    parser.add_argument("--stderr-fd", type=int, default=-1)
    parser.add_argument("--epoch", required=True, type=int)
    parser.add_argument("--config", required=True)
    parser.add_argument("--segment", required=True)
    parser.add_argument("--instance-dir", required=True, type=Path)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--allow-faults", action="store_true")
    parser.add_argument("--last-good", default="")
    parser.add_argument("--fallback-last-good", action="store_true")
    parser.add_argument("--pure", default="")
    chosen = parser.parse_args()
    if chosen.pure:
        os.environ["HOTPROXY_KERNEL"] = "pure"  # before anything that is compiled could be imported

    from hotproxy.restarter import faults
    from hotproxy.restarter.frames import KINDS, Channel

    channel = Channel(socket.socket(fileno=chosen.fd))
    os.set_inheritable(chosen.fd, False)
    if chosen.stderr_fd >= 0:  # from here on, what we write does not depend on the supervisor
        os.dup2(chosen.stderr_fd, 2)
        os.close(chosen.stderr_fd)
    try:
        if chosen.allow_faults:
            faults.FAULTS_HERE.arm(faults.chosen(KINDS), chosen.epoch, "zygote")
        from hotproxy.zygote.begin import begin
        from hotproxy.zygote.program import Orders

        orders = Orders(
            chosen.config, chosen.epoch, chosen.segment, chosen.instance_dir, chosen.workers, chosen.last_good,
            chosen.fallback_last_good, chosen.pure,
        )  # fmt: skip
        return begin(channel, orders)
    except BaseException as error:  # SystemExit of an imported module too
        last = "".join(traceback.format_exception_only(error)).strip()
        try:
            channel.send("FAILED", {"why": last[-4000:]})
        finally:  # in this order: a stderr that is gone or full must not cost the reason
            traceback.print_exc()
        return 1


if __name__ == "__main__":
    sys.exit(main())
