"""HTTP/2 with the clients that people have, over clear text and TLS: curl, httpx, h2load, and Python's own ssl."""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import ssl
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest

from hotproxy.http import http2_frames as h2
from tests.kit import origin
from tests.kit.http2 import data, frames, headers, preface
from tests.kit.instance import PATIENCE_S, Instance, eventually, instance
from tests.kit.tls import Files

EXAMPLE = Path(__file__).parents[2] / "configs" / "http2.yaml"
FILE_BYTES = 3_000_000


class Served(NamedTuple):
    proxy: Instance
    directory: Path
    files: Files
    digest: str

    def url(self, listener: str) -> str:
        return f"http{'s' if listener == 'secure' else ''}://localhost:{self.proxy.port(listener)}"


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    """The example, with files, ports and an origin of the test."""
    directory = Path(tempfile.mkdtemp(prefix="hp-"))
    files = Files(directory, "localhost", stem="web")
    (directory / "nginx").mkdir()
    try:
        with origin.nginx(directory / "nginx") as nginx:
            content = os.urandom(FILE_BYTES)
            (directory / "nginx" / "files" / "large").write_bytes(content)
            text = EXAMPLE.read_text()
            for old, new in (
                ("0.0.0.0:8443", "127.0.0.1:0"), ("127.0.0.1:8080", "127.0.0.1:0"), ("127.0.0.1:8081", "127.0.0.1:0"),
                ("{cert: /etc/hotproxy/tls/fullchain.pem, key: /etc/hotproxy/tls/key.pem}", files.yaml()),
                ("127.0.0.1:9000", nginx),
                ("name: internal\n", f"name: internal\n    access_log: {{path: {directory}/log}}\n"),
            ):  # fmt: skip
                assert old in text
                text = text.replace(old, new)
            with instance(directory, text) as proxy:
                yield Served(proxy, directory, files, hashlib.sha256(content).hexdigest())
    finally:
        shutil.rmtree(directory)


def curl(served: Served, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    command = ["curl", "-sS", "--cacert", str(served.files.ca), *arguments]
    return subprocess.run(command, capture_output=True, timeout=PATIENCE_S)


VERSION = ("-o", "/dev/null", "-w", "%{http_version} %{http_code}")


@pytest.mark.parametrize(
    ("listener", "arguments", "version"),
    [
        ("secure", ("--http2",), b"2 200"), ("secure", ("--http1.1",), b"1.1 200"),
        ("internal", ("--http2-prior-knowledge",), b"2 200"), ("internal", (), b"1.1 200"),
        ("legacy", (), b"1.1 200"),
    ],
)  # fmt: skip
def test_curl_speaks_what_was_agreed_upon(
    served: Served, listener: str, arguments: tuple[str, ...], version: bytes
) -> None:
    origin.need("curl")
    assert curl(served, *VERSION, *arguments, f"{served.url(listener)}/").stdout == version


def test_a_listener_of_http1_refuses_the_preface(served: Served) -> None:
    origin.need("curl")
    assert curl(served, "--http2-prior-knowledge", f"{served.url('legacy')}/").returncode != 0


def test_large_answers_side_by_side(served: Served) -> None:
    """Over TLS: curl 7.88 makes a framing error of its own where streams share a connection of prior knowledge."""
    origin.need("curl")
    paths = [str(served.directory / f"out-{number}") for number in range(6)]
    many = [word for path in paths for word in ("-o", path, f"{served.url('secure')}/files/large")]
    assert curl(served, "--http2", "--parallel", *many).returncode == 0
    assert {hashlib.sha256(Path(path).read_bytes()).hexdigest() for path in paths} == {served.digest}


def test_a_large_answer_over_clear_text(served: Served) -> None:
    origin.need("curl")
    done = curl(served, "--http2-prior-knowledge", f"{served.url('internal')}/files/large")
    assert hashlib.sha256(done.stdout).hexdigest() == served.digest


def test_httpx(served: Served) -> None:
    context = ssl.create_default_context(cafile=str(served.files.ca))
    with httpx.Client(http2=True, http1=False, verify=context) as client:
        answers = [client.get(f"{served.url('secure')}/", headers={"x-number": str(number)}) for number in range(20)]
        assert [answer.text for answer in answers] == [f"{number}\n" for number in range(20)]
        assert {answer.http_version for answer in answers} == {"HTTP/2"}
        # No more than a window: the origin answers without reading, and httpx would wait for a window for ever.
        posted = client.post(f"{served.url('secure')}/", content=(b"x" * 10_000 for _ in range(5)))
        assert posted.status_code == 200


def test_h2load(served: Served) -> None:
    program = origin.need("h2load")
    for listener in ("secure", "internal"):
        command = [program, "-n", "500", "-c", "5", "-m", "20", f"{served.url(listener)}/"]
        said = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S).stdout
        assert "500 succeeded, 0 failed, 0 errored, 0 timeout" in said, said


def test_the_log_and_the_counters_know_the_version(served: Served) -> None:
    origin.need("curl")
    before = served.proxy.stats()["http.internal.downstream_rq_http2_total"]
    curl(served, "--http2-prior-knowledge", f"{served.url('internal')}/in-the-log")
    log = served.directory / "log"
    eventually(lambda: b"/in-the-log" in log.read_bytes(), "a line in the log")
    assert b'"GET /in-the-log HTTP/2" 200' in log.read_bytes()
    stats = served.proxy.stats()
    assert stats["http.internal.downstream_rq_http2_total"] == before + 1
    eventually(lambda: served.proxy.stats()["http.internal.downstream_cx_http2_active"] == 0, "the gauge at 0")


# -- those who mean no good; somebody else is served meanwhile, by the same worker

FLOODS = {
    "rapid resets": lambda at: headers(at) + h2.frame(h2.RST_STREAM, 0, at, h2.number(h2.CANCEL)),
    "pings": lambda at: h2.frame(h2.PING, 0, 0, bytes(8)) * 10,
    "settings": lambda at: h2.frame(h2.SETTINGS, 0, 0) * 10,
    "empty data": lambda at: headers(at, end=False) * (at == 1) + data(1, b"") * 10,
    "continuations": lambda at: h2.frame(h2.HEADERS, 0, 1) * (at == 1) + h2.frame(h2.CONTINUATION, 0, 1) * 10,
    "window updates": lambda at: h2.frame(h2.WINDOW_UPDATE, 0, 0, h2.number(1)) * 10,
}


@pytest.mark.parametrize("name", FLOODS)
def test_a_flood_is_told_to_calm_down_and_harms_nobody(served: Served, name: str) -> None:
    said = b"".join(FLOODS[name](at) for at in range(1, 1601, 2))
    with (
        httpx.Client() as other,
        socket.create_connection(("127.0.0.1", served.proxy.port("internal")), PATIENCE_S) as sock,
    ):
        sock.sendall(preface())
        received = b""
        try:
            for start in range(0, len(said), 1000):
                sock.sendall(said[start : start + 1000])
                if start % 20_000 == 0:
                    assert other.get(f"{served.url('internal')}/").status_code == 200
            while more := sock.recv(65536):
                received += more
        except ConnectionError:
            pass
        goaway = [payload for kind, _, _, payload in _whole(received) if kind == h2.GOAWAY]
        assert not goaway or goaway[0][4:8] == h2.number(h2.ENHANCE_YOUR_CALM)
        assert other.get(f"{served.url('internal')}/").status_code == 200
    stats = served.proxy.stats()
    counter = "inbound_resets_flood" if name == "rapid resets" else "inbound_glitches_flood"
    assert stats[f"http.internal.http2.{counter}"] > 0


def _whole(received: bytes) -> list[tuple[int, int, int, bytes]]:
    at = 0
    while len(received) - at >= 9 and len(received) - at >= 9 + int.from_bytes(received[at : at + 3], "big"):
        at += 9 + int.from_bytes(received[at : at + 3], "big")
    return frames(received[:at])
