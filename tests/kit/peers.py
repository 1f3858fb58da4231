"""nginx, HAProxy and Envoy as proxies for tests, each with several listeners before an origin of its own."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import socket
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.kit import envoy
from tests.kit.envoy_config import cluster, document, http_listener, route, virtual_host
from tests.kit.instance import eventually
from tests.kit.origin import need

PEERS = ("nginx", "haproxy", "envoy")


def envoy_program() -> str:
    """Envoy's path; without it the test is skipped, and fails where all peers must be there (CI)."""
    try:
        return envoy.program()
    except envoy.NoEnvoy as error:
        if os.environ.get("HOTPROXY_TEST_REQUIRE_PEERS"):
            pytest.fail(f"{error}, and HOTPROXY_TEST_REQUIRE_PEERS is set")
        pytest.skip(str(error))


def nginx_config(directory: Path, ports: Sequence[int], origins: Sequence[str]) -> str:
    temporary = "".join(
        f"{name}_temp_path {directory}/{name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    servers = ""
    for number, (port, origin) in enumerate(zip(ports, origins, strict=True)):
        servers += f"""
          upstream o{number} {{ server {origin}; keepalive 4; }}
          server {{ listen 127.0.0.1:{port}; location / {{
            proxy_pass http://o{number}; proxy_http_version 1.1; proxy_request_buffering off;
            proxy_set_header Host $http_host; proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection $connection_upgrade; }} }}"""
    return (
        f"daemon off; master_process off; pid {directory}/nginx.pid; error_log {directory}/error.log;"
        # As nginx's manual has it for WebSocket: upgrades are forwarded, which hotproxy does by default.
        "events {} http { map $http_upgrade $connection_upgrade { default upgrade; '' ''; }"
        f"access_log off; {temporary} {servers} }}"
    )


def haproxy_config(ports: Sequence[int], origins: Sequence[str]) -> str:
    listeners = "".join(
        f"listen l{port}\n bind 127.0.0.1:{port}\n server s {origin}\n"
        for port, origin in zip(ports, origins, strict=True)
    )
    return f"defaults\n mode http\n timeout client 9s\n timeout server 9s\n timeout connect 9s\n{listeners}"


def envoy_config(ports: Sequence[int], origins: Sequence[str]) -> str:
    """Envoy's defaults, nearly. HTTP1, as AUTO would answer an HTTP/2 preface in HTTP/2."""
    listeners = [
        http_listener(
            f"l{number}",
            f"127.0.0.1:{port}",
            [virtual_host("any", ["*"], [route("/", origin)])],
            reuse_port=False,
            codec_type="HTTP1",
            upgrade_configs=[{"upgrade_type": "websocket"}],  # as hotproxy has by default
        )
        for number, (port, origin) in enumerate(zip(ports, origins, strict=True))
    ]
    return json.dumps(document(listeners, [cluster(origin, [origin]) for origin in origins]))


def _listening(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


@contextlib.contextmanager
def peers(directory: Path, origins: Sequence[str]) -> Iterator[dict[str, list[int]]]:
    """All three of them; yields for each the ports by which it leads to each of the origins."""
    programs = [need("nginx"), need("haproxy"), envoy_program()]
    reserved = [socket.create_server(("127.0.0.1", 0)) for _ in range(len(PEERS) * len(origins))]
    free = [sock.getsockname()[1] for sock in reserved]
    for sock in reserved:
        sock.close()
    ports = {peer: free[number :: len(PEERS)] for number, peer in enumerate(PEERS)}
    files = [directory / name for name in ("nginx.conf", "haproxy.cfg", "envoy.json")]
    files[0].write_text(nginx_config(directory, ports["nginx"], origins))
    files[1].write_text(haproxy_config(ports["haproxy"], origins))
    files[2].write_text(envoy_config(ports["envoy"], origins))
    processes = [
        subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for command in (
            [programs[0], "-c", str(files[0]), "-p", str(directory), "-e", str(directory / "error.log")],
            [programs[1], "-db", "-f", str(files[1])],
            [programs[2], "-c", str(files[2]), "--concurrency", "1", "--disable-hot-restart", "-l", "critical"],
        )
    ]
    try:
        for port in free:
            eventually(functools.partial(_listening, port), f"somebody to listen on {port}")
        yield ports
    finally:
        for process in processes:
            process.kill()
            process.wait()
