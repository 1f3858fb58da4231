"""Envoy's hot restart: each epoch is a process of its own, started by a wrapper, here by us (--restart-epoch).

The old epoch asks clients to go for `--drain-time-s` (600) and is ended by the new one after `--parent-shutdown-time-s`
(900), with whatever is open. Counters reach the new epoch as deltas every five seconds.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import socket
from pathlib import Path

import psutil

from bench.restart.systems.system import Place, Refused, System, last_line
from tests.kit import envoy_config as tree
from tests.kit.envoy import program

# As fast as clients can be asked to go before the end, which comes a second later.
PARENT_LATER_S = 1


class Envoy(System):
    name = "Envoy epochs"
    # Two Envoys with one base id believe to be a hot restart of each other.
    base_id = os.getpid()

    def prepare(self, place: Place) -> list[str]:
        self.epoch = 0
        return self.command()

    def admin(self) -> Path:
        return self.place.directory / f"admin-{self.epoch}.sock"

    def command(self) -> list[str]:
        place = self.place
        long = [tree.route("/v1/", "fast", timeout="0s"), tree.route("/", "long", timeout="0s")]
        web = tree.http_listener(
            "web",
            f"127.0.0.1:{place.http_port}",
            [tree.virtual_host("any", ["*"], long)],
            codec_type="HTTP1",
            upgrade_configs=[{"upgrade_type": "websocket"}],
        )
        db = tree.tcp_listener("db", f"127.0.0.1:{place.tcp_port}", "tcp")
        origins = {"long": place.origin_http, "fast": place.origin_fast, "tcp": place.origin_tcp}
        clusters = [tree.cluster(name, [origin], connect_timeout="10s") for name, origin in origins.items()]
        config = place.directory / f"envoy-{self.epoch}.json"
        config.write_text(json.dumps(tree.document([web, db], clusters, str(self.admin()))))
        command = [program(), "-c", str(config), "-l", "warn", "--concurrency", str(place.workers)]
        command += ["--base-id", str(self.base_id), "--restart-epoch", str(self.epoch)]
        if self.drain_s is not None:
            command += ["--drain-time-s", f"{self.drain_s:.0f}"]
            command += ["--parent-shutdown-time-s", f"{self.drain_s + PARENT_LATER_S:.0f}"]
        return command

    def order(self) -> None:
        self.epoch += 1
        new = self.launch(self.command())

        def live() -> bool:
            if new.process.poll() is not None:
                raise Refused(f"epoch {self.epoch} ended: {last_line(self.log)}")
            return self.ask("/ready").strip() == "LIVE"

        self.wait_until(live, f"epoch {self.epoch}")

    def stays(self, process: psutil.Process) -> bool:
        return process.pid == self.trees[-1].process.pid

    def counted(self) -> int | None:
        found = re.search(
            r"^http\.web\.downstream_rq_total: (\d+)", self.ask("/stats?filter=downstream_rq_total"), re.M
        )
        return int(found.group(1)) if found else None

    def ask(self, path: str) -> str:
        """The body of an answer of the admin API; nothing as long as nobody listens."""
        try:
            with socket.socket(socket.AF_UNIX) as sock:
                sock.settimeout(5)
                sock.connect(str(self.admin()))
                sock.sendall(b"GET %s HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n" % path.encode())
                answer = http.client.HTTPResponse(sock)
                answer.begin()
                return answer.read().decode()
        except (OSError, http.client.HTTPException):
            return ""

    def end(self) -> None:
        super().end()
        # Its shared memory is called after the base id times ten, and outlives every epoch.
        for path in Path("/dev/shm").glob(f"envoy_shared_memory_{self.base_id * 10}"):
            path.unlink()
