"""What the admin API answers. Read only: whatever changes the proxy goes through `supervisor.sock`.

The paths are Envoy's (envoyproxy.io, operations/admin), so that its probes and scrapers work.
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable
from typing import Final

from hotproxy import __version__
from hotproxy.control.http_server import Reply, Request
from hotproxy.shm.layout import ShmError
from hotproxy.shm.reader import Reading, read
from hotproxy.telemetry import prometheus, text

PATHS: Final = {
    "/ready": "200 LIVE while this proxy wants new connections, else 503 (after `hotproxy drain`, too)",
    "/stats": "every counter; ?filter=REGEX, ?format=text|json|prometheus",
    "/stats/prometheus": "every counter as Prometheus scrapes them",
    "/server_info": "version, state, uptime, epoch",
    "/config_digest": "of the config that this generation runs: digest, epoch, version; over the unix socket only",
    "/config_changed": "which of the files that this generation has read hold something else now; likewise",
}
# Whoever knows all of a config but a weak secret in it could try them out against the digest; and paths are our own.
LOCAL_PATHS: Final = ("/config_digest", "/config_changed")
# A pattern comes from whoever reaches the admin address, and `re` can be made to think for minutes: groups and nested
# repetition are not let in, nor more than two stars (3,000 names of 40 characters: 80 ms with two, 1.5 s with three).
PLAIN_PATTERN: Final = re.compile(r"(?=.{0,200}\Z)[\w.^$|\-\[\]\\ ]*(?:\*[\w.^$|\-\[\]\\ ]*){0,2}")
JSON_TYPE: Final = "application/json"


class Admin:
    """Answers from shared memory, so that it is right for every generation at once; the digest is this one's."""

    def __init__(
        self,
        segment_name: str,
        epoch: int,
        is_ready: Callable[[], bool],
        config_digest: Callable[[], str],
        changed_files: Callable[[], Awaitable[list[str]]],
    ) -> None:
        self._changed_files = changed_files
        self._config_digest = config_digest
        self._segment_name = segment_name
        self._epoch = epoch
        self._is_ready = is_ready

    async def answer(self, request: Request) -> Reply:
        if request.method not in ("GET", "HEAD"):
            return Reply(405, b"the admin API is read only\n", headers=[("allow", "GET, HEAD")])
        if request.path == "/ready":
            return Reply(200, b"LIVE\n") if self._is_ready() else Reply(503, b"DRAINING\n")
        if request.path == "/":
            return Reply(200, "".join(f"{path}  {does}\n" for path, does in PATHS.items()).encode())
        if request.path not in PATHS:
            return Reply(404, f"no such path; there are: {' '.join(PATHS)}\n".encode())
        if request.path in LOCAL_PATHS:
            if not request.local:
                return Reply(403, b"only over the unix socket, admin.sock\n")
            return await self._about_config(request.path)
        try:
            reading = read(self._segment_name)
        except ShmError as error:
            return Reply(500, f"shared memory: {error}\n".encode())
        if request.path == "/server_info":
            return Reply(200, json.dumps(self._server_info(reading)).encode() + b"\n", JSON_TYPE)
        return _stats(request, reading)

    async def _about_config(self, path: str) -> Reply:
        found: dict[str, object] = {"epoch": self._epoch, "version": __version__}
        if path == "/config_digest":
            found["digest"] = self._config_digest()
        else:
            found["changed"] = await self._changed_files()
        return Reply(200, json.dumps(found).encode() + b"\n", JSON_TYPE)

    def _server_info(self, reading: Reading) -> dict[str, object]:
        return {
            "version": __version__,
            "state": "LIVE" if self._is_ready() else "DRAINING",
            "uptime_current_epoch_s": reading.values["server.uptime"],
            "hot_restart_epoch": self._epoch,
            "concurrency": reading.values["server.concurrency"],
        }


def _stats(request: Request, reading: Reading) -> Reply:
    form = "prometheus" if request.path == "/stats/prometheus" else request.query.get("format", "text")
    if form == "prometheus":
        return Reply(200, prometheus.render(reading), "text/plain; version=0.0.4; charset=utf-8")
    pattern = request.query.get("filter", "")
    if not PLAIN_PATTERN.fullmatch(pattern):
        return Reply(400, b"filter: letters, digits and . ^ $ | * - [ ] only, at most 200, and two of *\n")
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        return Reply(400, f"filter: {error}\n".encode())
    if form == "json":
        return Reply(200, json.dumps(text.to_json(reading, compiled)).encode() + b"\n", JSON_TYPE)
    if form == "text":
        return Reply(200, text.render_text(reading, compiled))
    return Reply(400, b"format: text, json or prometheus\n")
