"""The proxies that are restarted, one file each; `system` says what each of them must know.

    hotproxy   nginx (HUP, and USR2 for a new binary)   haproxy   envoy   own: described in a file, for any other

Each peer runs as it is by default, and once more with a limit for the life of its old processes: by default they stay
as long as anybody is connected, or for a quarter of an hour, and so they cut nobody whom we would see.
"""

from __future__ import annotations

from collections.abc import Callable

from bench.peers.proxies import HOTPROXY_COMMAND, version
from bench.restart.systems import nginx
from bench.restart.systems.envoy import Envoy
from bench.restart.systems.haproxy import Haproxy
from bench.restart.systems.hotproxy import Hotproxy
from bench.restart.systems.system import System
from tests.kit.envoy import NoEnvoy, program
from tests.kit.origin import find

# Long enough for whoever is in the middle of a request, short enough for a deployment to wait for.
DRAIN_S = 5.0


def available(say: Callable[[str], None]) -> list[System]:
    """All that can be had on this machine; `say` is told of each that cannot."""
    found: list[System] = [Hotproxy(version(*HOTPROXY_COMMAND, "version"))]
    kinds: list[tuple[type[System], str]] = []
    if path := find("nginx"):
        if not nginx.STREAM.exists():
            say("libnginx-mod-stream is not installed: nginx does without TCP connections")
        kinds += [(nginx.Hup, version(path, "-v")), (nginx.Upgrade, version(path, "-v"))]
    if path := find("haproxy"):
        kinds.append((Haproxy, version(path, "-v")))
    try:
        kinds.append((Envoy, version(program(), "--version")))
    except NoEnvoy as error:
        say(f"{error}: left out")
    for name in {"nginx", "haproxy"} - {name for name in ("nginx", "haproxy") if find(name)}:
        say(f"{name} is not installed: left out")
    for kind, said in kinds:
        found += [kind(said), kind(said, DRAIN_S)]
    return found
