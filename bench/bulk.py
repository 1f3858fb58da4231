"""What a gigabyte through a TCP listener costs: CPU seconds of hotproxy's workers beside HAProxy's, in turns.

    python bench/bulk.py            a minute; --gigabytes 1 for a quick look

One endpoint sends as fast as it can from memory, clients throw away what they get, so that nearly all of the machine's
time is the proxy's. HAProxy runs as its manual has it for TCP, and once more with `option splice-auto`.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.kit.instance import eventually, instance
from tests.kit.origin import find

GB = 1_000_000_000
CHUNK = 1 << 20

CONFIG = """
workers: 1
listeners: [{{name: bulk, address: "127.0.0.1:0", tcp: {{cluster: source}}}}]
clusters: [{{name: source, endpoints: ["127.0.0.1:{source}"]}}]
"""
HAPROXY = """
global
  nbthread 1
defaults
  mode tcp
  timeout client 30s
  timeout server 30s
  timeout connect 5s
  {options}
listen bulk
  bind 127.0.0.1:{port}
  server s 127.0.0.1:{source}
"""


def serve(listening: socket.socket) -> None:
    """A child process: every connection gets zeros until it closes."""
    memory = os.memfd_create("zeros")
    os.truncate(memory, CHUNK)
    while True:
        sock, _ = listening.accept()
        threading.Thread(target=_send, args=(sock, memory), daemon=True).start()


def _send(sock: socket.socket, memory: int) -> None:
    with contextlib.suppress(OSError), sock:
        while True:
            os.sendfile(sock.fileno(), memory, 0, CHUNK)


@contextlib.contextmanager
def source() -> Iterator[int]:
    """An endpoint in a process of its own; its port."""
    listening = socket.create_server(("127.0.0.1", 0))
    pid = os.fork()
    if pid == 0:
        try:
            serve(listening)
        finally:
            os._exit(0)
    port = listening.getsockname()[1]
    listening.close()
    try:
        yield port
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)


def take(port: int, size: int) -> None:
    """Have so many bytes from there, without looking at them: MSG_TRUNC copies nothing (tcp(7))."""
    with socket.create_connection(("127.0.0.1", port)) as sock:
        nothing = bytearray(CHUNK)
        while size > 0:
            got = sock.recv_into(nothing, min(CHUNK, size), socket.MSG_TRUNC)
            assert got, "the proxy hung up"
            size -= got


def cpu_s(pids: list[int]) -> float:
    times = [psutil.Process(pid).cpu_times() for pid in pids]
    return sum(time.user + time.system for time in times)


def cost(port: int, pids: list[int], gigabytes: float, streams: int) -> float:
    """CPU seconds for a gigabyte."""
    before = cpu_s(pids)
    share = int(gigabytes * GB / streams)
    threads = [threading.Thread(target=take, args=(port, share)) for _ in range(streams)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return (cpu_s(pids) - before) / gigabytes


@contextlib.contextmanager
def haproxy(program: str, directory: Path, from_port: int, options: str) -> Iterator[tuple[int, list[int]]]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    file = directory / f"haproxy{len(options)}.cfg"
    file.write_text(HAPROXY.format(port=port, source=from_port, options=options))
    process = subprocess.Popen([program, "-db", "-f", str(file)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        eventually(lambda: _listening(port), "HAProxy to listen")
        yield port, [process.pid]
    finally:
        process.kill()
        process.wait()


def _listening(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--gigabytes", type=float, default=4.0, help="in each turn")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--streams", type=int, nargs="*", default=[1, 16])
    chosen = parser.parse_args()
    program = find("haproxy")
    with tempfile.TemporaryDirectory(prefix="hp-") as name, source() as port, contextlib.ExitStack() as stack:
        directory = Path(name)
        proxy = stack.enter_context(instance(directory, CONFIG.format(source=port)))
        rivals = {"hotproxy": (proxy.port("bulk"), proxy.workers())}
        if program is not None:
            rivals["HAProxy"] = stack.enter_context(haproxy(program, directory, port, ""))
            rivals["HAProxy, splice"] = stack.enter_context(haproxy(program, directory, port, "option splice-auto"))
        for streams in chosen.streams:
            costs: dict[str, list[float]] = {rival: [] for rival in rivals}
            for _ in range(chosen.turns):
                for rival, (at, pids) in rivals.items():
                    costs[rival].append(cost(at, pids, chosen.gigabytes, streams))
            print(f"{streams} streams, {chosen.turns} turns of {chosen.gigabytes:g} GB: CPU seconds for each GB")
            for rival, found in costs.items():
                print(f"  {rival:16} {statistics.median(found):6.3f} median, {min(found):.3f} to {max(found):.3f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
