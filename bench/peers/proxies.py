"""How each proxy is configured and started: routes by host and prefix, two endpoints, least request, X-Forwarded-For,
X-Forwarded-Proto, X-Request-Id, Via in both directions, an access log in a file, its statistics; one worker each. The
same by TLS on a second port, with an ECDSA certificate.

What is not set is as it comes, but for three things. Limits on requests per connection are lifted. nginx logs through
a buffer, as hotproxy and Envoy do, and never spills an answer into a temporary file, as none of the others does.
HAProxy may use any idle connection to an endpoint, as the others do.
"""

from __future__ import annotations

import http.client
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from bench.peers import envoy, native
from bench.peers.origin import ECHO, HOST, SMALL, Origin
from bench.peers.processes import Tree
from bench.startup import free_port
from hotproxy.shm.segment import segment_name
from tests.kit.envoy import NoEnvoy, program
from tests.kit.origin import find
from tests.kit.tls import Files

FLOOR, NGINX, HAPROXY, ENVOY, HOTPROXY = "pass-through", "nginx", "HAProxy", "Envoy", "hotproxy"
INSTANCE = "bench"
HOTPROXY_COMMAND = [sys.executable, "-I", "-m", "hotproxy.cli.main"]

NGINX_CONFIG = """
daemon off; worker_processes 1; error_log {directory}/error.log crit; pid {directory}/nginx.pid;
events {{ worker_connections 8192; }}
http {{
  log_format envoy '[$time_iso8601] "$request" $status $request_length $bytes_sent $request_time '
                   '"$http_x_forwarded_for" "$http_user_agent" "$request_id" "$host" "$upstream_addr"';
  access_log {directory}/access.log envoy buffer=32k flush=1s;
  keepalive_requests 1000000000; client_max_body_size 0; proxy_max_temp_file_size 0;
  client_body_temp_path {directory}; proxy_temp_path {directory}; fastcgi_temp_path {directory};
  uwsgi_temp_path {directory}; scgi_temp_path {directory};
  upstream api {{
    least_conn; server 127.0.0.1:{ports[0]}; server 127.0.0.1:{ports[1]}; keepalive 64; keepalive_requests 1000000000;
  }}
  proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Host $http_host;
  proxy_set_header X-Forwarded-For $remote_addr; proxy_set_header X-Forwarded-Proto $scheme;
  proxy_set_header X-Request-Id $request_id; proxy_set_header Via "1.1 nginx"; add_header Via "1.1 nginx";
  server {{ listen 127.0.0.1:{port} backlog=4096 default_server; location / {{ return 404; }} }}
  server {{
    listen 127.0.0.1:{port}; listen 127.0.0.1:{tls_port} ssl backlog=4096; server_name {host} *.{host};
    ssl_certificate {cert}; ssl_certificate_key {key}; ssl_protocols TLSv1.2 TLSv1.3;
    location /v1/ {{ proxy_pass http://api; }}
    location /files/ {{ proxy_pass http://api; }}
    location /status {{ stub_status; }}
    location / {{ return 404; }}
  }}
}}
"""

HAPROXY_CONFIG = """
global
  nbthread 1
  maxconn 8000
  log stdout format raw local0 info
  stats socket {directory}/stats.sock
defaults
  mode http
  log global
  option httplog
  option forwardfor
  timeout client 1h
  timeout server 1h
  timeout connect 1s
  http-reuse always
frontend web
  bind 127.0.0.1:{port} backlog 4096
  bind 127.0.0.1:{tls_port} backlog 4096 ssl crt {both}
  http-request set-header X-Forwarded-Proto http unless {{ ssl_fc }}
  http-request set-header X-Forwarded-Proto https if {{ ssl_fc }}
  http-request set-header X-Request-Id %[uuid()]
  http-request set-header Via "1.1 haproxy"
  http-response set-header Via "1.1 haproxy"
  acl host_api hdr(host) -i {host}
  acl host_api hdr_end(host) -i .{host}
  use_backend api if host_api {{ path_beg /v1/ }}
  use_backend api if host_api {{ path_beg /files/ }}
  default_backend none
backend api
  balance leastconn
  server a 127.0.0.1:{ports[0]}
  server b 127.0.0.1:{ports[1]}
backend none
  http-request return status 404
"""

HOTPROXY_CONFIG = """
workers: 1
drain_timeout: 1s
listeners:
  - name: web
    address: 127.0.0.1:{port}
    access_log: {{path: {directory}/access.log}}
    virtual_hosts: &hosts
      - domains: [{host}, "*.{host}"]
        routes:
          - {{match: {{prefix: /v1/}}, cluster: api}}
          - {{match: {{prefix: /files/}}, cluster: api}}
      - domains: ["*"]
        routes: [{{match: {{prefix: /}}, direct_response: {{status: 404}}}}]
  - name: secure
    address: 127.0.0.1:{tls_port}
    access_log: {{path: {directory}/access.log}}
    tls: {{certificates: [{{cert: {cert}, key: {key}}}]}}
    virtual_hosts: *hosts
clusters:
  - name: api
    lb_policy: least_request
    endpoints: ["127.0.0.1:{ports[0]}", "127.0.0.1:{ports[1]}"]
"""


class Ports(NamedTuple):
    """Where a proxy listens: HTTP, and the same by TLS."""

    plain: int
    tls: int


class Proxy:
    """One proxy in a directory of its own, running between `start` and `end`; again if asked."""

    def __init__(self, name: str, version: str, command: Callable[[Path, Ports, Origin], list[str]]) -> None:
        self.name = name
        self.version = version
        self.port = self.tls_port = 0
        self.tree: Tree | None = None
        self._command = command

    def start(self, directory: Path, origin: Origin, cpu: int) -> None:
        """Returns when it has answered a request."""
        directory.mkdir(exist_ok=True)
        self._directory = directory
        self.port, self.tls_port = ports = Ports(free_port(), free_port())
        self.tree = Tree(self._command(directory, ports, origin), cpu, directory / "out.log")
        self._logs = [directory / "out.log", directory / "access.log"]
        self.tree.wait_until(lambda: status(self.port, SMALL) == 200)

    def truncate_logs(self) -> None:
        """Every one of them appends; a run would fill the disk."""
        for path in self._logs:
            if path.exists() and path.stat().st_size > 64 * 1024 * 1024:
                with open(path, "r+b") as log:
                    log.truncate()

    def end(self) -> None:
        if self.tree is None:
            return
        self.tree.end()
        self.tree = None
        # hotproxy's counters outlive it, so that they can still be read; these nobody will ask for.
        for path in Path("/dev/shm").glob(segment_name(INSTANCE, str(self._directory / "run")).lstrip("/") + "*"):
            path.unlink()


def available(say: Callable[[str], None]) -> list[Proxy]:
    """All that can be had on this machine; `say` is told of each that cannot. nginx and hotproxy must be there."""
    proxies = []
    floor = native.build("passthrough")
    if floor is None:
        say("no C compiler: no floor, and no latencies in open loop")
    else:
        proxies.append(
            Proxy(FLOOR, "", lambda directory, ports, origin: [str(floor), str(ports.plain), str(origin.ports[0])])
        )
    nginx, haproxy = find("nginx"), find("haproxy")
    if nginx is None:
        raise SystemExit("bench: nginx is needed: it is the origin, and what the others are compared with")
    proxies.append(Proxy(NGINX, version(nginx, "-v"), _writes(NGINX_CONFIG, "nginx.conf", _nginx_arguments(nginx))))
    if haproxy is None:
        say("HAProxy is not installed: left out")
    else:
        command = [haproxy, "-db", "-f"]
        proxies.append(Proxy(HAPROXY, version(haproxy, "-v"), _writes(HAPROXY_CONFIG, "haproxy.cfg", command)))
    try:
        binary = program()
    except NoEnvoy as error:
        say(f"{error}: left out")
    else:
        proxies.append(Proxy(ENVOY, version(binary, "--version"), _envoy_command(binary)))
    proxies.append(hotproxy())
    return proxies


def hotproxy() -> Proxy:
    return Proxy(HOTPROXY, version(*HOTPROXY_COMMAND, "version"), hotproxy_command)


def check(proxy: Proxy) -> None:
    """Does it do what it is to be measured with? SystemExit if not."""
    if proxy.name == FLOOR:
        return
    reply, body = get(proxy.port, ECHO)
    word = r"[^ ]+"
    # Envoy names the machine's own address instead of a loopback one.
    if not re.fullmatch(rf"for=[\d.]+ proto=http id={word} via=1.1 {word}", body) or not reply.getheader("via"):
        raise SystemExit(f"bench: {proxy.name} does not set the headers that it should: {body!r}")
    if status(proxy.port, SMALL, "other.test") != 404 or status(proxy.port, "/elsewhere") != 404:
        raise SystemExit(f"bench: {proxy.name} does not route as it should")


def get(port: int, path: str, host: str = HOST) -> tuple[http.client.HTTPResponse, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path, headers={"Host": host})
        reply = connection.getresponse()
        return reply, reply.read().decode()
    finally:
        connection.close()


def status(port: int, path: str, host: str = HOST) -> int:
    """0: no answer."""
    try:
        return get(port, path, host)[0].status
    except (OSError, http.client.HTTPException):
        return 0


def version(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = re.search(r"(?<![\w.])\d+\.\d+\.\d+", done.stdout + done.stderr)
    return found.group() if found else "unknown"


def _writes(template: str, file: str, command: list[str]) -> Callable[[Path, Ports, Origin], list[str]]:
    def prepare(directory: Path, ports: Ports, origin: Origin) -> list[str]:
        path = directory / file
        files = Files(directory, HOST)
        both = directory / "both.pem"
        both.write_text(files.cert.read_text() + files.key.read_text())
        text = template.format(
            directory=directory, port=ports.plain, tls_port=ports.tls, ports=origin.ports, host=HOST, cert=files.cert,
            key=files.key, both=both,
        )  # fmt: skip
        path.write_text(text)
        path.chmod(0o640)
        return [*(word.format(directory=directory) for word in command), str(path)]

    return prepare


def _nginx_arguments(nginx: str) -> list[str]:
    return [nginx, "-p", "{directory}", "-e", "{directory}/error.log", "-c"]


def hotproxy_command(directory: Path, ports: Ports, origin: Origin) -> list[str]:
    """How it is started; the last word is the path of the config, which is written by then."""
    command = [*HOTPROXY_COMMAND, "--instance", INSTANCE, "--runtime-dir", "{directory}/run", "run", "-c"]
    return _writes(HOTPROXY_CONFIG, "hotproxy.yaml", command)(directory, ports, origin)


def _envoy_command(binary: str) -> Callable[[Path, Ports, Origin], list[str]]:
    def prepare(directory: Path, ports: Ports, origin: Origin) -> list[str]:
        files = Files(directory, HOST)
        config: dict[str, Any] = envoy.config(directory, ports.plain, origin.ports, HOST)
        envoy.add_tls(config, ports.tls, files.cert, files.key)
        path = directory / "envoy.json"
        path.write_text(json.dumps(config))
        # Two Envoys with the same base id believe to be a hot restart of each other, and each leaves its shared memory.
        return [binary, "--concurrency", "1", "--disable-hot-restart", "--log-level", "error", "-c", str(path)]

    return prepare
