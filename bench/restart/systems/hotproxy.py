"""hotproxy: SIGHUP, which is what `hotproxy reload` and `systemctl reload` do."""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path

from bench.peers.proxies import HOTPROXY_COMMAND, INSTANCE
from bench.restart.systems.system import Place, Refused, System, output
from hotproxy.shm.segment import segment_name

CONFIG = """
workers: @workers@
listeners:
  - name: web
    address: 127.0.0.1:@http_port@
    timeout: 0s
    idle_timeout: 1h
    routes:
      - {match: {prefix: /v1/}, cluster: fast}
      - {match: {prefix: /}, cluster: long}
  - {name: db, address: "127.0.0.1:@tcp_port@", tcp: {cluster: tcp, idle_timeout: 1h}}
clusters:
  - {name: long, connect_timeout: 10s, endpoints: ["@origin_http@"]}
  - {name: fast, connect_timeout: 10s, endpoints: ["@origin_fast@"]}
  - {name: tcp, connect_timeout: 10s, endpoints: ["@origin_tcp@"]}
"""
ENDED = re.compile(r"restart: generation .* ok|restart refused: .*")


class Hotproxy(System):
    name = "hotproxy HUP"

    def prepare(self, place: Place) -> list[str]:
        config = place.directory / "hotproxy.yaml"
        config.write_text(place.fill(CONFIG))
        config.chmod(0o640)
        return [*self.hotproxy(), "run", "-c", str(config)]

    def hotproxy(self) -> list[str]:
        return [*HOTPROXY_COMMAND, "--instance", INSTANCE, "--runtime-dir", str(self.place.directory / "run")]

    def said(self) -> list[str]:
        return ENDED.findall(self.log.read_text(errors="replace"))

    def order(self) -> None:
        before = len(self.said())
        os.kill(self.trees[0].process.pid, signal.SIGHUP)
        self.wait_until(lambda: len(self.said()) > before, "the end of the restart")
        if not self.said()[-1].endswith("ok"):
            raise Refused(self.said()[-1])

    def counted(self) -> int | None:
        return int(json.loads(output(*self.hotproxy(), "stats", "--json"))["http.web.downstream_rq_total"])

    def end(self) -> None:
        super().end()
        name = segment_name(INSTANCE, str(self.place.directory / "run")).lstrip("/")
        for path in Path("/dev/shm").glob(f"{name}*"):
            path.unlink()
