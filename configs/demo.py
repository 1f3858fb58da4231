"""What `make run` does: two demo origins, and a proxy in front of them from configs/demo.yaml. Ctrl-C ends it all."""

from __future__ import annotations

import contextlib
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from hotproxy.cli import place
from hotproxy.shm.segment import segment_name

HOTPROXY = [sys.executable, "-m", "hotproxy.cli.main"]
INSTANCE = "demo"
CONFIG = Path(__file__).with_name("demo.yaml")
ORIGINS = ("127.0.0.1:9001", "127.0.0.1:9002")
URL = "http://127.0.0.1:8080"
WELCOME = f"""
  hotproxy is serving {URL}   (config: configs/demo.yaml)

  Three things to try from another terminal:

    1. curl {URL}/
       Again and again: two endpoints take turns, see "origin" and "pid".

    2. Edit configs/demo.yaml, then: .venv/bin/hotproxy --instance {INSTANCE} reload
       New config, new code, no connection lost. `kill -HUP {{pid}}` does the same.

    3. .venv/bin/hotproxy --instance {INSTANCE} stats
       Counters, exact across workers and restarts. `status` shows who is running.

  Ctrl-C ends it.
"""


def main() -> int:
    # Ctrl-C reaches the whole group: the supervisor drains on it, and this script waits for that.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: proxy.terminate())
    origins = [
        subprocess.Popen([*HOTPROXY, "respond", "--listen", address], stdout=subprocess.DEVNULL) for address in ORIGINS
    ]
    proxy = subprocess.Popen([*HOTPROXY, "--instance", INSTANCE, "run", "-c", str(CONFIG)])
    try:
        if wait_until_live(proxy):
            print(WELCOME.format(pid=proxy.pid), flush=True)
        return proxy.wait()
    finally:
        for process in [proxy, *origins]:
            process.terminate()
            process.wait()
        remove_remains()


def wait_until_live(proxy: subprocess.Popen[bytes]) -> bool:
    """False when the proxy ended instead (it has said why)."""
    while proxy.poll() is None:
        answer = subprocess.run([*HOTPROXY, "--instance", INSTANCE, "status", "--json"], capture_output=True)
        if answer.returncode == 0 and b'"LIVE"' in answer.stdout:
            return True
        with contextlib.suppress(subprocess.TimeoutExpired):
            proxy.wait(0.1)
    return False


def remove_remains() -> None:
    """A stopped proxy leaves its counters for `hotproxy stats`, and its directory; a demo leaves nothing."""
    demo = place.find(INSTANCE, None)
    for segment in Path("/dev/shm").glob(segment_name(INSTANCE, str(demo.runtime_dir)).lstrip("/") + "*"):
        segment.unlink()
    shutil.rmtree(demo.directory)


if __name__ == "__main__":
    sys.exit(main())
