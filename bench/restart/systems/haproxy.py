"""HAProxy in master-worker mode: SIGUSR2 makes the master execute itself and fork a new worker.

The old worker closes idle connections at once and waits for all others, for ever unless `hard-stop-after` says
otherwise. `option idle-close-on-response` lets an idle connection have one more answer instead.
"""

from __future__ import annotations

import csv
import os
import signal
import socket

from bench.restart.systems.system import Place, System
from tests.kit.origin import need

CONFIG = """
global
  nbthread @workers@
  maxconn 8000
  stats socket @directory@/stats.sock expose-fd listeners
  @hard_stop@
defaults
  timeout client 1h
  timeout server 1h
  timeout tunnel 1h
  timeout connect 10s
  http-reuse always
  @idle@
frontend web
  mode http
  bind 127.0.0.1:@http_port@ backlog 4096
  use_backend fast if { path_beg /v1/ }
  default_backend long
frontend db
  mode tcp
  bind 127.0.0.1:@tcp_port@ backlog 4096
  default_backend tcp
backend long
  mode http
  server a @origin_http@
backend fast
  mode http
  server a @origin_fast@
backend tcp
  mode tcp
  server a @origin_tcp@
"""


class Haproxy(System):
    name = "HAProxy USR2"

    def prepare(self, place: Place) -> list[str]:
        tuned = self.drain_s is not None
        config = place.directory / "haproxy.cfg"
        text = place.fill(
            CONFIG,
            hard_stop=f"hard-stop-after {self.drain_s:g}s" if tuned else "",
            idle="option idle-close-on-response" if tuned else "",
        )
        config.write_text(text)
        return [need("haproxy"), "-W", "-f", str(config)]

    def order(self) -> None:
        before = {process.pid for process in self.processes()}
        os.kill(self.trees[0].process.pid, signal.SIGUSR2)
        self.wait_until(lambda: {process.pid for process in self.processes()} - before, "a new worker")

    def counted(self) -> int | None:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(5)
            sock.connect(str(self.place.directory / "stats.sock"))
            sock.sendall(b"show stat\n")
            text = b"".join(iter(lambda: sock.recv(65536), b"")).decode()
        for row in csv.DictReader(text.lstrip("# ").splitlines()):
            if (row["pxname"], row["svname"]) == ("web", "FRONTEND"):
                return int(row["req_tot"])
        return None
