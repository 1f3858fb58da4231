"""Envoy's config for `make bench`. The program is tests/kit/envoy.py's business."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.kit.envoy_config import TYPE, address, cluster, document, http_listener, route, virtual_host


def config(directory: Path, port: int, ports: tuple[int, int], host: str) -> dict[str, Any]:
    log = {
        "name": "file",
        "typed_config": {
            "@type": f"{TYPE}.access_loggers.file.v3.FileAccessLog",
            "path": f"{directory}/access.log",
        },
    }
    not_found = {"match": {"prefix": "/"}, "direct_response": {"status": 404}}
    virtual_hosts = [
        virtual_host("api", [host, f"*.{host}"], [route("/v1/", "api"), route("/files/", "api")]),
        virtual_host("any", ["*"], [not_found]),
    ]
    web = http_listener(
        "web", f"127.0.0.1:{port}", virtual_hosts, use_remote_address=True, via="1.1 envoy", access_log=[log]
    )
    endpoints = [f"127.0.0.1:{each}" for each in ports]
    api = cluster("api", endpoints, lb_policy="LEAST_REQUEST", connect_timeout="1s")
    return document([web], [api], f"{directory}/admin.sock")


def add_tls(tree: dict[str, Any], port: int, cert: Path, key: Path) -> None:
    """The same listener once more, by TLS."""
    (web,) = tree["static_resources"]["listeners"]
    (chain,) = web["filter_chains"]
    files = {"certificate_chain": {"filename": str(cert)}, "private_key": {"filename": str(key)}}
    socket = {
        "name": "tls",
        "typed_config": {
            "@type": f"{TYPE}.transport_sockets.tls.v3.DownstreamTlsContext",
            "common_tls_context": {"tls_certificates": [files]},
        },
    }
    chains = [chain | {"transport_socket": socket}]
    secure = {"name": "secure", "address": address(f"127.0.0.1:{port}"), "filter_chains": chains}
    tree["static_resources"]["listeners"].append(secure)
