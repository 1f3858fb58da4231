"""The origin behind every proxy: one nginx with two ports, so that there are two endpoints to choose from."""

from __future__ import annotations

from pathlib import Path

from bench.peers.processes import Tree
from bench.startup import answered, free_port
from tests.kit.origin import need

HOST = "api.bench.test"
SMALL = "/v1/items/7"
ECHO = "/v1/echo"
MIB = 1024 * 1024
FILES = {"/files/1m": MIB, "/files/100m": 100 * MIB}

# With Date, Server, Content-Type, Content-Length and Connection: ten fields.
CONFIG = """
daemon off; master_process off; worker_processes 1; error_log {directory}/error.log crit; pid {directory}/nginx.pid;
events {{ worker_connections 8192; }}
http {{
  access_log off; keepalive_requests 1000000000; keepalive_timeout 1h; sendfile on; tcp_nopush on;
  client_body_temp_path {directory}; proxy_temp_path {directory}; fastcgi_temp_path {directory};
  uwsgi_temp_path {directory}; scgi_temp_path {directory}; client_max_body_size 0;
  default_type application/json;
  server {{
    listen 127.0.0.1:{ports[0]} backlog=4096; listen 127.0.0.1:{ports[1]} backlog=4096;
    location / {{
      add_header Cache-Control "max-age=60, private"; add_header ETag '"5d8c72a5edda8d6a"';
      add_header Vary "Accept-Encoding"; add_header X-Content-Type-Options nosniff;
      add_header Strict-Transport-Security "max-age=31536000";
      return 200 '{{"id": 7, "name": "a thing of some length", "tags": ["a", "b"], "price": 12.5, "stock": 1234}}';
    }}
    location {echo} {{
      return 200 "for=$http_x_forwarded_for proto=$http_x_forwarded_proto id=$http_x_request_id via=$http_via";
    }}
    location /files/ {{ alias {directory}/files/; }}
  }}
}}
"""


class Origin:
    def __init__(self, directory: Path, cpu: int) -> None:
        (directory / "files").mkdir(parents=True)
        for path, size in FILES.items():
            (directory / path.lstrip("/")).write_bytes(bytes(size))
        self.ports = (free_port(), free_port())
        config = directory / "nginx.conf"
        config.write_text(CONFIG.format(directory=directory, ports=self.ports, echo=ECHO))
        log = directory / "error.log"
        command = [need("nginx"), "-c", str(config), "-p", str(directory), "-e", str(log)]
        self.tree = Tree(command, cpu, log)
        try:
            self.tree.wait_until(lambda: answered(self.ports[1]))
        except BaseException:
            self.tree.end()
            raise

    def end(self) -> None:
        self.tree.end()
