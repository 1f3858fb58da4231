"""Conversations with one flight that is not what the peer has said: they end in data, in words, or wait; never in an
exception, and nothing of them stays in the loop."""

from __future__ import annotations

import random
import ssl
from pathlib import Path

import pytest

from hotproxy.config import model
from hotproxy.net.tls_client import ClientTls
from hotproxy.net.tls_errors import hush_server_names
from hotproxy.net.tls_server import ServerTls
from tests.kit.tls import NAME, Bench, Files, client_context

VERSIONS = (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3)
# change_cipher_spec, a warning, an empty message and empty data: what OpenSSL has rules of its own for.
RECORDS = (b"\x14\x03\x03\0\1\1", b"\x15\x03\x03\0\2\1\0", b"\x16\x03\x03\0\0", b"\x17\x03\x03\0\0")
FLIGHTS = 7
REQUEST = b"GET / HTTP/1.1\r\n\r\n"


def mutated(flight: bytes, rng: random.Random) -> bytes:
    data = bytearray(flight)
    for _ in range(rng.choice((1, 1, 2, 8))):
        at = rng.randrange(len(data) + 1)
        match rng.randrange(5):
            case 0 if at < len(data):
                data[at] ^= 1 << rng.randrange(8)
            case 1:
                del data[at : at + rng.randrange(1, 20)]
            case 2:
                data[at:at] = rng.randbytes(rng.randrange(1, 20))
            case 3:
                data += data[at:]
            case _:
                data[at:at] = rng.choice(RECORDS)
    return bytes(data)


class Sides:
    """Benches of either side, with whatever the other one may be."""

    def __init__(self, directory: Path) -> None:
        self._files, self._ann = Files(directory, NAME), Files(directory, "ann.example")
        pair = model.CertificateFiles(str(self._files.cert), str(self._files.key))
        ca = str(self._files.ca)
        self._server = ServerTls("web", model.ListenerTls((pair,), client_ca=ca, require_client_certificate=False))
        self._client = ClientTls(model.ClusterTls(ca=ca, sni=NAME))

    def bench(self, rng: random.Random) -> Bench:
        if rng.random() < 0.6:
            context = client_context(files=rng.choice((None, self._ann)))
            context.maximum_version = rng.choice(VERSIONS)
            return Bench(self._server, context)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self._files.cert, self._files.key)
        context.maximum_version = rng.choice(VERSIONS)
        return Bench(self._client.to("10.0.0.1:443", "10.0.0.1"), context)


def said(bench: Bench, rng: random.Random) -> bytes:
    """The peer's next flight; b"" when it has nothing to say, or enough."""
    try:
        if bench.peer.step() and bench.connection is not None:
            return bench.peer.sealed(REQUEST * rng.randrange(1, 50))
    except ssl.SSLError:
        pass
    return bench.peer.said()


def converse(bench: Bench, rng: random.Random) -> None:
    bench.handshake.start(10.0)
    bench.loop.run()
    wrong = rng.randrange(4)
    piece = rng.choice((1 << 20, 1 << 20, 97, 5))
    for number in range(FLIGHTS):
        flight = said(bench, rng)
        if number == wrong:
            flight = mutated(flight, rng)
        try:
            bench.send(flight, piece)
        except (BrokenPipeError, ConnectionResetError):  # we have closed it, with what it had sent unread
            return


@pytest.mark.parametrize("rounds", [100, pytest.param(3000, marks=pytest.mark.slow)])
def test_no_conversation_ends_in_an_exception(tmp_path: Path, rounds: int) -> None:
    hush_server_names()
    sides = Sides(tmp_path)
    ended: set[str] = set()
    for seed in range(rounds):
        rng = random.Random(seed)
        bench = sides.bench(rng)
        converse(bench, rng)
        if bench.failed is not None:
            ended.add("in words")
            assert bench.failed[1], seed
        elif bench.connection is not None:
            ended.add("lost" if any(isinstance(each, tuple) for each in bench.owner.heard) else "open")
        bench.close()
        bench.pass_time(2.0)  # whoever lingers
        assert not bench.loop.readers and not bench.loop.writers, seed
        assert bench.gauge.value == 0, seed
    assert ended >= {"in words", "lost"}
