"""The corpus of raw requests through hotproxy, nginx and HAProxy, side by side: what does each of them let through?

A request that two parties read differently is how smuggling begins. So whatever hotproxy forwards must be something
that others forward as well, as the same messages; and it must not matter in which pieces the bytes have arrived.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import shutil
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit import clients
from tests.kit.instance import eventually, instance
from tests.kit.origin import RecordingOrigin, need

pytestmark = pytest.mark.slow

CORPUS = Path(__file__).parent.parent / "corpus" / "http1"
CASES = sorted(f"{path.parent.name}/{path.stem}" for path in CORPUS.glob("*/*.request"))
PROXIES = ("hotproxy", "nginx", "haproxy")
LANES = 8  # so many cases at a time, each with an origin of its own
SILENCE_S = 0.4  # nothing has come for so long: the proxy waits for the rest of a request, or for the next one
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

# Larger requests are sent whole only.
MAX_BYTE_BY_BYTE = 3000


@dataclasses.dataclass(frozen=True)
class Message:
    """A request as an origin reads it that is strict about framing and nothing else."""

    method: bytes
    framing: str
    body: bytes


def read_message(data: bytes) -> tuple[Message | None, bytes]:
    """The first complete message, and what is behind it; (None, data) for an incomplete one."""
    head, blank, rest = data.partition(b"\r\n\r\n")
    if not blank:
        return None, data
    lines = head.split(b"\r\n")
    fields = [(name.lower(), value.strip()) for name, _, value in (line.partition(b":") for line in lines[1:])]
    lengths = [value for name, value in fields if name == b"content-length"]
    codings = [value for name, value in fields if name == b"transfer-encoding"]
    method = lines[0].partition(b" ")[0]
    if len(lengths) + len(codings) > 1:
        return Message(method, "ambiguous", b""), b""
    if lengths:
        length = int(lengths[0])
        return (Message(method, "body", rest[:length]), rest[length:]) if len(rest) >= length else (None, data)
    if not codings:
        return Message(method, "none", b""), rest
    body = b""
    while True:
        line, ended, rest = rest.partition(b"\r\n")
        size = int(line.partition(b";")[0] or b"0", 16)
        if not ended or len(rest) < size + 2:
            return None, data
        if not size:
            break
        body += rest[:size]
        rest = rest[size + 2 :]
    while rest and not rest.startswith(b"\r\n"):
        rest = rest.partition(b"\r\n")[2]
    return (Message(method, "body", body), rest[2:]) if rest else (None, data)


class Lane:
    """One origin, and the ports by which each proxy reaches it."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.ports: dict[str, int] = {}
        self._answered: dict[int, int] = {}
        self.origin = RecordingOrigin(self._answer)

    def _answer(self, connection: int, received: bytes) -> bytes | None:
        found: list[Message] = []
        message, rest = read_message(received)
        while message is not None:
            found.append(message)
            message, rest = read_message(rest)
        before, self._answered[connection] = self._answered.get(connection, 0), len(found)
        self.messages += found[before:]
        return OK * (len(found) - before) or None

    def ask(self, proxy: str, request: bytes, pieces: int) -> list[Message]:
        """What the origin receives for these bytes of a client."""
        self.messages.clear()
        with clients.connect(self.ports[proxy]) as sock, contextlib.suppress(OSError):
            for start in range(0, len(request), pieces or len(request)):
                sock.sendall(request[start : start + (pieces or len(request))])
            sock.settimeout(SILENCE_S)
            while sock.recv(65536):
                pass
        return list(self.messages)


def listening(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


@contextlib.contextmanager
def peers(directory: Path, lanes: list[Lane]) -> Iterator[None]:
    """nginx and HAProxy before the same origins."""
    reserved = [socket.create_server(("127.0.0.1", 0)) for _ in range(2 * len(lanes))]
    ports = [sock.getsockname()[1] for sock in reserved]
    for sock in reserved:
        sock.close()
    temporary = "".join(
        f"{name}_temp_path {directory}/{name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    servers, frontends = "", ""
    for number, lane in enumerate(lanes):
        lane.ports |= {"nginx": ports[2 * number], "haproxy": ports[2 * number + 1]}
        servers += f"""
          upstream o{number} {{ server {lane.origin.address}; keepalive 4; }}
          server {{ listen 127.0.0.1:{lane.ports["nginx"]}; location / {{
            proxy_pass http://o{number}; proxy_http_version 1.1; proxy_request_buffering off;
            proxy_set_header Host $http_host; proxy_set_header Connection ""; }} }}"""
        frontends += f"listen l{number}\n bind 127.0.0.1:{lane.ports['haproxy']}\n server s {lane.origin.address}\n"
    nginx_config, haproxy_config = directory / "nginx.conf", directory / "haproxy.cfg"
    nginx_config.write_text(
        f"daemon off; master_process off; pid {directory}/nginx.pid; error_log {directory}/error.log;"
        f"events {{}} http {{ access_log off; {temporary} {servers} }}"
    )
    haproxy_config.write_text(
        f"defaults\n mode http\n timeout client 9s\n timeout server 9s\n timeout connect 9s\n{frontends}"
    )
    processes = [
        subprocess.Popen(command, stderr=subprocess.DEVNULL)
        for command in (
            [need("nginx"), "-c", str(nginx_config), "-p", str(directory), "-e", str(directory / "error.log")],
            [need("haproxy"), "-db", "-f", str(haproxy_config)],
        )
    ]
    try:
        for port in ports:
            eventually(functools.partial(listening, port), f"somebody to listen on {port}")
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


Results = dict[tuple[str, str, int], list[Message]]


@pytest.fixture(scope="module")
def results() -> Iterator[Results]:
    """What arrived, by proxy, case and size of pieces (0: whole)."""
    need("nginx")
    need("haproxy")
    directory = Path(tempfile.mkdtemp(prefix="hp-"))
    lanes = [Lane() for _ in range(LANES)]
    listeners = "".join(f"\n  - {{name: l{n}, address: '127.0.0.1:0', cluster: c{n}}}" for n in range(LANES))
    clusters = "".join(f"\n  - {{name: c{n}, endpoints: ['{lane.origin.address}']}}" for n, lane in enumerate(lanes))
    found: Results = {}

    def run(number: int, lane: Lane) -> None:
        for case in CASES[number::LANES]:
            request = (CORPUS / f"{case}.request").read_bytes()
            for proxy in PROXIES:
                found[proxy, case, 0] = lane.ask(proxy, request, 0)
            if len(request) < MAX_BYTE_BY_BYTE:
                found["hotproxy", case, 1] = lane.ask("hotproxy", request, 1)

    try:
        with (
            peers(directory, lanes),
            instance(directory, f"workers: 1\nlisteners:{listeners}\nclusters:{clusters}\n") as proxy,
        ):
            for number, lane in enumerate(lanes):
                lane.ports["hotproxy"] = proxy.port(f"l{number}")
            threads = [threading.Thread(target=run, args=each) for each in enumerate(lanes)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert proxy.stats()["server.internal_errors"] == 0
        yield found
    finally:
        for lane in lanes:
            lane.origin.close()
        shutil.rmtree(directory)


@pytest.mark.parametrize("case", CASES)
def test_what_is_forwarded_is_what_others_forward(results: Results, case: str) -> None:
    ours = results["hotproxy", case, 0]
    assert all(message.framing != "ambiguous" for message in ours)
    assert results.get(("hotproxy", case, 1), ours) == ours, "whatever the pieces"
    others = [results[proxy, case, 0] for proxy in PROXIES[1:]]
    assert not ours or ours in others, f"others forward {others}"


def test_the_peers_were_there(results: Results) -> None:
    """Without them the test above would say nothing."""
    for proxy in PROXIES:
        assert results[proxy, "valid/get-minimal", 0] == [Message(b"GET", "none", b"")]
        assert results[proxy, "invalid/coding-unknown", 0] == []
