"""nginx: HUP (new workers, the same master) and USR2 (a new binary), as its manual has them.

A worker that is to leave closes idle connections at once and waits for all others, for ever unless
`worker_shutdown_timeout` says otherwise. stub_status counts its own requests too; they are taken off.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import urllib.request
from pathlib import Path

import psutil

from bench.peers.processes import descendants
from bench.restart.systems.system import Place, Refused, System
from tests.kit.origin import need

# Where Debian's libnginx-mod-stream puts it. Without it nginx forwards no TCP.
STREAM = Path("/usr/lib/nginx/modules/ngx_stream_module.so")

CONFIG = """
@modules@
daemon @daemon@; worker_processes @workers@; @shutdown@
error_log @directory@/out.log warn; pid @directory@/nginx.pid;
events { worker_connections 8192; }
http {
  map $http_upgrade $connection_upgrade { default upgrade; '' ''; }
  access_log off; keepalive_timeout 1h; keepalive_requests 1000000000; client_max_body_size 0;
  client_body_temp_path @directory@; proxy_temp_path @directory@; fastcgi_temp_path @directory@;
  uwsgi_temp_path @directory@; scgi_temp_path @directory@; proxy_max_temp_file_size 0;
  proxy_http_version 1.1; proxy_request_buffering off; proxy_connect_timeout 10s; proxy_read_timeout 1h;
  proxy_send_timeout 1h;
  proxy_set_header Host $http_host; proxy_set_header Upgrade $http_upgrade;
  proxy_set_header Connection $connection_upgrade;
  upstream long { server @origin_http@; keepalive 64; keepalive_requests 1000000000; }
  upstream fast { server @origin_fast@; keepalive 64; keepalive_requests 1000000000; }
  server {
    listen 127.0.0.1:@http_port@ backlog=4096;
    location / { proxy_pass http://long; }
    location /v1/ { proxy_pass http://fast; }
  }
  server { listen 127.0.0.1:@admin_port@; location / { stub_status; } }
}
@stream@
"""
TCP = """stream {
  server {
    listen 127.0.0.1:@tcp_port@ backlog=4096; proxy_pass @origin_tcp@; proxy_connect_timeout 10s; proxy_timeout 1h;
  }
}"""


class Hup(System):
    name = "nginx HUP"
    daemon = "off"

    def prepare(self, place: Place) -> list[str]:
        self.has_tcp = STREAM.exists()
        self.asked = 0
        shutdown = f"worker_shutdown_timeout {self.drain_s:g}s;" if self.drain_s is not None else ""
        modules = f"load_module {STREAM};" if self.has_tcp else ""
        config = place.directory / "nginx.conf"
        config.write_text(
            place.fill(
                CONFIG.replace("@stream@", TCP if self.has_tcp else ""),
                shutdown=shutdown,
                modules=modules,
                daemon=self.daemon,
            )
        )
        return [need("nginx"), "-p", str(place.directory), "-e", str(place.directory / "out.log"), "-c", str(config)]

    def master(self) -> int:
        """0 as long as there is none: the file is made a moment before the number is in it."""
        pid_file = self.place.directory / "nginx.pid"
        return int((pid_file.read_text() if pid_file.exists() else "") or 0)

    def order(self) -> None:
        before = set(descendants([self.master()]))
        os.kill(self.master(), signal.SIGHUP)
        self.wait_until(lambda: set(descendants([self.master()])) - before, "new workers")

    def counted(self) -> int | None:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.place.admin_port}/", timeout=5) as answer:
            text = answer.read().decode()
        self.asked += 1
        found = re.search(r"requests\s+(?:\d+\s+){2}(\d+)", text)
        return int(found.group(1)) - self.asked if found else None


class Upgrade(Hup):
    """USR2, then QUIT for the old master. While that one waits for its last worker, the next upgrade is ignored.

    A master whose parent is still the one that started it takes USR2 for a mistake: only a daemon can be upgraded.
    """

    name = "nginx USR2"
    daemon = "on"

    def start(self, place: Place) -> None:
        super().start(place)
        self.trees[0].wait_until(self.master)
        self.adopt()

    def end(self) -> None:
        if self.trees:
            self.adopt()
        super().end()

    def adopt(self) -> None:
        with contextlib.suppress(psutil.NoSuchProcess):
            master = psutil.Process(self.master())
            if any(str(self.place.directory) in word for word in master.cmdline()):
                self.trees[0].adopt(master.pid)

    def order(self) -> None:
        old = self.master()
        if (self.place.directory / "nginx.pid.oldbin").exists():
            raise Refused("the master of the upgrade before is still there, and nginx ignores USR2 meanwhile")
        os.kill(old, signal.SIGUSR2)

        def replaced() -> bool:
            return self.master() not in (0, old) and bool(descendants([self.master()]))

        self.wait_until(replaced, "a new master with workers")
        self.processes()  # the new master is known as a child of the old one from now on
        self.asked = 0
        os.kill(old, signal.SIGQUIT)

    def stays(self, process: psutil.Process) -> bool:
        return False
