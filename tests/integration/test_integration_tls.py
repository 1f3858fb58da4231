"""TLS on both sides of a whole proxy, with the clients that people have: curl, openssl, Python, Node."""

from __future__ import annotations

import hashlib
import itertools
import os
import select
import shutil
import socket
import ssl
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.kit import clients, origin
from tests.kit.instance import Instance, eventually, instance
from tests.kit.tls import Files, Peer, client_context

CONFIG = """
workers: 2
listeners:
  - name: web
    address: 127.0.0.1:0
    access_log:
      path: {directory}/access.log
      format: "%DOWNSTREAM_TLS_VERSION% %DOWNSTREAM_PEER_SUBJECT% %DOWNSTREAM_PEER_URI_SAN% %REQ(:PATH)%\
 %RESPONSE_CODE% %RESPONSE_CODE_DETAILS%\\n"
    tls:
      certificates: [{ecdsa}, {rsa}]
      client_ca: {ca}
      require_client_certificate: false
    routes:
      - match: {{prefix: /private, client_san: "spiffe://example/*"}}
        direct_response: {{status: 200, body: "welcome\\n"}}
      - match: {{prefix: /private}}
        direct_response: {{status: 403, body: "who are you?\\n"}}
      - {{match: {{prefix: /stranger}}, cluster: stranger}}
      - {{match: {{prefix: /nobody}}, cluster: nobody}}
      - {{match: {{prefix: /plain}}, cluster: recording}}
      - {{match: {{prefix: /}}, cluster: secure}}
  # what the clusters below reach: TLS that this very proxy ends, before an nginx
  - name: inner
    address: "unix:{directory}/inner.sock"
    tls: {{certificates: [{ecdsa}], client_ca: {ca}, client_san: us.example}}
    cluster: nginx
  - name: bytes
    address: 127.0.0.1:0
    tls: {{certificates: [{ecdsa}]}}
    tcp: {{cluster: recording}}
  - name: behind
    address: 127.0.0.1:0
    proxy_protocol: {{trusted: ["127.0.0.0/8"]}}
    tls: {{certificates: [{ecdsa}]}}
    cluster: recording
clusters:
  - name: secure
    endpoints: ["unix:{directory}/inner.sock"]
    tls: {{ca: {ca}, sni: web.example, certificate: {ours}}}
  - name: stranger
    endpoints: ["unix:{directory}/inner.sock"]
    tls: {{ca: {ca}, sni: stranger.example, certificate: {ours}}}
  - name: nobody
    endpoints: ["unix:{directory}/inner.sock"]
    tls: {{ca: {ca}, sni: web.example}}
  - name: nginx
    endpoints: ["{nginx}"]
  - name: recording
    endpoints: ["{recording}"]
"""
FILE_BYTES = 3_000_000
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok\n"


class Served(NamedTuple):
    proxy: Instance
    port: int
    directory: Path
    recording: origin.RecordingOrigin
    files: Files


def answer(number: int, so_far: bytes) -> bytes | None:
    """To HTTP one `OK`; other bytes are echoed once they end with a full stop."""
    if so_far.endswith(b"\r\n\r\n"):
        return OK
    return so_far if so_far.endswith(b".") else None


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    directory = Path(tempfile.mkdtemp(prefix="hp-"))
    files = Files(directory, "web.example", "localhost", "127.0.0.1", "spiffe://example/web", stem="ecdsa")
    rsa = Files(directory, "web.example", "localhost", "127.0.0.1", stem="rsa", rsa=True)
    ours = Files(directory, "us.example")
    Files(directory, "spiffe://example/ann", stem="ann", common_name="ann")
    (directory / "nginx").mkdir()
    try:
        with origin.nginx(directory / "nginx") as nginx, origin.RecordingOrigin(answer) as recording:
            (directory / "nginx" / "files" / "large").write_bytes(os.urandom(FILE_BYTES))
            text = CONFIG.format(
                directory=directory, ecdsa=files.yaml(), rsa=rsa.yaml(), ours=ours.yaml(), ca=files.ca, nginx=nginx,
                recording=recording.address,
            )  # fmt: skip
            with instance(directory, text) as proxy:
                yield Served(proxy, proxy.port("web"), directory, recording, files)
    finally:
        shutil.rmtree(directory)


def curl(served: Served, path: str, *arguments: object) -> subprocess.CompletedProcess[bytes]:
    program = origin.need("curl")
    command = [program, "-sS", "--cacert", served.files.ca, *arguments, f"https://localhost:{served.port}{path}"]
    return subprocess.run([str(word) for word in command], capture_output=True, timeout=60)


def last_line(served: Served, path: str) -> str:
    log = served.directory / "access.log"
    eventually(lambda: f" {path} " in log.read_text(), f"a line about {path}")
    return [line for line in log.read_text().splitlines() if f" {path} " in line][-1]


@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_curl_through_tls_on_both_sides(served: Served, version: str) -> None:
    path = f"/files/large?{version}"
    got = curl(served, path, f"--tlsv{version}", "--tls-max", version)
    wanted = (served.directory / "nginx" / "files" / "large").read_bytes()
    assert hashlib.sha256(got.stdout).digest() == hashlib.sha256(wanted).digest(), got.stderr
    assert last_line(served, path).startswith(f"TLSv{version} - - ")


def test_a_connection_is_kept_on_both_sides(served: Served) -> None:
    before = served.proxy.stats()
    url = f"https://localhost:{served.port}/n"
    got = curl(
        served, "/n", "-w", "%{num_connects} ", "-o", "/dev/null", url, "-o", "/dev/null", url, "-o", "/dev/null"
    )
    assert got.stdout == b"1 0 0 ", got.stderr
    after = served.proxy.stats()
    assert after["listener.web.ssl.handshake"] - before["listener.web.ssl.handshake"] == 1
    assert after["cluster.secure.ssl.handshake"] - before["cluster.secure.ssl.handshake"] <= 1


def test_a_client_with_a_certificate_takes_another_route_and_is_named(served: Served) -> None:
    certificate = ("--cert", served.directory / "ann.pem", "--key", served.directory / "ann.key")
    assert curl(served, "/private/ann", *certificate).stdout == b"welcome\n"
    assert last_line(served, "/private/ann") == "TLSv1.3 CN=ann spiffe://example/ann /private/ann 200 direct_response"
    assert curl(served, "/private").stdout == b"who are you?\n"
    assert curl(served, "/plain", *certificate, "-H", "X-Forwarded-Client-Cert: Hash=mine").stdout == b"ok\n"
    head = bytes(served.recording.received[-1]).lower()
    assert b"hash=mine" not in head
    assert b"\r\nx-forwarded-proto: https\r\n" in head
    assert b"\r\nx-forwarded-client-cert: by=spiffe://example/web;hash=" in head
    assert b';subject="cn=ann";uri=spiffe://example/ann\r\n' in head


def test_an_endpoint_that_is_somebody_else_is_a_503_with_its_reason(served: Served) -> None:
    got = curl(served, "/stranger", "-w", "%{http_code}", "-o", "/dev/null")
    assert got.stdout == b"503"
    line = last_line(served, "/stranger")
    assert "{connection_failure|TLS_error:the_peer's_certificate_is_not_accepted:_Hostname_mismatch" in line
    stats = served.proxy.stats()
    assert stats["cluster.stranger.ssl.fail_verify_error"] == stats["cluster.stranger.upstream_cx_connect_fail"] > 0


def test_an_endpoint_that_wants_our_certificate_says_so_behind_the_handshake(served: Served) -> None:
    """With TLS 1.3: we are connected by then, and the request is on its way."""
    got = curl(served, "/nobody", "-w", "%{http_code}", "-o", "/dev/null")
    assert got.stdout == b"503"
    why = "the_peer_refused_(certificate_required):_it_wants_a_certificate,_and_got_none"
    line = last_line(served, "/nobody")
    assert line.endswith(f" 503 upstream_reset_before_response_started{{connection_termination|TLS_error:{why}}}")
    assert served.proxy.stats()["cluster.nobody.ssl.connection_error"] == 1


def test_plain_http_is_told_in_the_log(served: Served) -> None:
    with clients.connect(served.port) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        peer = sock.getsockname()[1]
        assert sock.recv(100)[:2] != b"HT"
    line = f"listener 'web': TLS with 127.0.0.1:{peer} failed: plain HTTP was sent to a TLS port"
    eventually(lambda: line in served.proxy.log_text(), line)


# -- openssl


def s_client(served: Served, script: bytes, *arguments: str) -> str:
    """`openssl s_client` whose user types `script`, line by line as it is answered; all that it prints."""
    program = origin.need("openssl")
    command = [program, "s_client", "-connect", f"127.0.0.1:{served.port}", "-CAfile", str(served.files.ca), *arguments]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    out, _ = process.communicate(script, timeout=60)
    return out.decode(errors="replace")


def test_openssl_finds_the_chain_good_and_takes_either_key(served: Served) -> None:
    shown = s_client(served, b"Q\n", "-tls1_3", "-servername", "web.example", "-sigalgs", "ECDSA+SHA256")
    assert "Verify return code: 0 (ok)" in shown
    assert "Peer signature type: ECDSA" in shown
    shown = s_client(served, b"Q\n", "-tls1_3", "-servername", "web.example", "-sigalgs", "RSA-PSS+SHA256")
    assert "Peer signature type: RSA-PSS" in shown


def test_openssl_may_not_renegotiate(served: Served) -> None:
    """RFC 9325 section 3.5: it has been the cause of too many attacks."""
    shown = s_client(served, b"R\nGET / HTTP/1.1\r\n", "-tls1_2")
    assert "Secure Renegotiation IS supported" in shown  # RFC 5746's own protection of the first handshake
    assert "no renegotiation" in shown


@pytest.mark.parametrize("version", ["-tls1", "-tls1_1"])
def test_openssl_gets_no_old_version(served: Served, version: str) -> None:
    assert "alert protocol version" in s_client(served, b"", version, "-cipher", "ALL:@SECLEVEL=0")


@pytest.mark.parametrize("cipher", ["AES128-SHA", "ECDHE-RSA-AES128-SHA", "AES128-GCM-SHA256", "ADH-AES128-SHA"])
def test_openssl_gets_no_weak_cipher(served: Served, cipher: str) -> None:
    shown = s_client(served, b"", "-tls1_2", "-cipher", f"{cipher}:@SECLEVEL=0")
    assert "handshake failure" in shown
    assert "Cipher is (NONE)" in shown


def test_openssl_gets_no_compression(served: Served) -> None:
    assert "Compression: NONE" in s_client(served, b"Q\n", "-tls1_2", "-comp")


# -- Python: what a script can't be told


def python(served: Served, listener: str = "web", version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> ssl.SSLSocket:
    context = client_context()
    context.minimum_version = context.maximum_version = version
    sock = socket.create_connection(("127.0.0.1", served.proxy.port(listener)), timeout=60)
    return context.wrap_socket(sock, server_hostname="web.example", suppress_ragged_eofs=False)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_bytes_both_ways_and_ends_that_are_told(served: Served, version: ssl.TLSVersion) -> None:
    sent = os.urandom(500_000).replace(b".", b"x") + b"."
    with python(served, "bytes", version) as client:
        for start in range(0, len(sent), 10_007):
            client.sendall(sent[start : start + 10_007])
        got = b""
        while len(got) < len(sent):
            got += client.recv(65536)
        assert got == sent
        client.unwrap()  # both say close_notify


def test_a_connection_that_is_cut_is_over(served: Served) -> None:
    """FIN without close_notify: nobody knows what is missing, so nothing more is awaited or answered."""
    number = len(served.recording.received)
    client = python(served, "bytes")
    client.sendall(b"half of a")
    eventually(lambda: served.recording.received[number:] == [b"half of a"], "its bytes")
    raw = socket.socket(fileno=client.detach())
    raw.settimeout(60)
    raw.shutdown(socket.SHUT_WR)
    with raw:
        while raw.recv(65536):  # session tickets, and then the end
            pass
    eventually(lambda: served.proxy.stats()["listener.bytes.downstream_cx_active"] == 0, "its end")


def test_it_is_the_announced_client_that_fails(served: Served) -> None:
    """The log blamed the balancer for whatever its clients did."""
    with clients.connect(served.proxy.port("behind")) as sock:
        sock.sendall(b"PROXY TCP4 192.0.2.8 192.0.2.1 5000 443\r\nGET / HTTP/1.1\r\n\r\n")
        while sock.recv(65536):
            pass
    eventually(lambda: "TLS with 192.0.2.8:5000 failed: plain HTTP" in served.proxy.log_text(), "a line about it")


@pytest.mark.parametrize("cuts", [(41,), (), (7, 30, 60, 200)], ids=["two pieces", "one", "pieces that fit nothing"])
def test_a_proxy_header_comes_before_tls(served: Served, cuts: tuple[int, ...]) -> None:
    """In plain text, and the ClientHello, or some of it, may be in the same segment."""
    header = b"PROXY TCP4 192.0.2.7 192.0.2.1 5000 443\r\n"
    with socket.create_connection(("127.0.0.1", served.proxy.port("behind")), timeout=60) as sock:
        peer = Peer(sock, client_context(), "web.example")
        peer.step()
        hello = peer.said()
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        whole = header + hello
        for start, end in itertools.pairwise((0, *cuts, len(whole))):
            sock.sendall(whole[start:end])
        while not peer.step():
            select.select([sock], [], [], 60)
        sock.sendall(peer.said() + peer.sealed(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"))
        got = b""
        while b"ok\n" not in got:
            select.select([sock], [], [], 60)
            got += peer.read()
    heads = b"".join(served.recording.received).lower()
    assert b"\r\nx-forwarded-for: 192.0.2.7\r\nx-forwarded-proto: https\r\n" in heads


def test_records_of_any_size(served: Served) -> None:
    """Go grows its records from 1 KiB to 16 KiB; some send a byte in each."""
    with python(served) as client:
        for byte in b"GET /private HTTP/1.1\r\nhost: a\r\n\r\n":
            client.sendall(bytes((byte,)))
        assert client.recv(1000).startswith(b"HTTP/1.1 403 ")


def test_pipelined_in_one_record(served: Served) -> None:
    with python(served) as client:
        client.sendall(b"GET /private HTTP/1.1\r\nhost: a\r\n\r\n" * 5)
        got = b""
        while got.count(b"who are you?\n") < 5:
            got += client.recv(65536)


def test_node(served: Served) -> None:
    program = origin.need("node")
    script = """
        const https = require('https'), fs = require('fs'), crypto = require('crypto');
        const agent = new https.Agent({keepAlive: true, maxSockets: 1, ca: fs.readFileSync(process.argv[1])});
        const url = process.argv[2];
        let left = 3, reused = 0;
        function next() {
          const request = https.get(url, {agent}, (response) => {
            const hash = crypto.createHash('sha256');
            response.on('data', (data) => hash.update(data));
            response.on('end', () => {
              reused += request.reusedSocket ? 1 : 0;
              if (--left) setImmediate(next);
              else { console.log(hash.digest('hex'), reused); agent.destroy(); }
            });
          });
        }
        next();
    """
    url = f"https://localhost:{served.port}/files/large"
    got = subprocess.run([program, "-e", script, str(served.files.ca), url], capture_output=True, timeout=60)
    wanted = hashlib.sha256((served.directory / "nginx" / "files" / "large").read_bytes()).hexdigest()
    assert got.stdout.decode().split() == [wanted, "2"], got.stderr


def test_how_long_the_first_certificate_lasts(served: Served) -> None:
    assert served.proxy.stats()["server.days_until_first_cert_expiring"] == 364
