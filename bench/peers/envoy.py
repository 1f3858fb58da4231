"""Envoy's config, as Envoy's own tree. The program is tests/kit/envoy.py's business."""

from __future__ import annotations

from pathlib import Path
from typing import Any

TYPE = "type.googleapis.com/envoy.extensions"


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
