"""Handshakes of the server's side: which certificate, which protocol, and what is said about a client that is wrong."""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest

from hotproxy.config import model
from hotproxy.net.connection import Connection
from hotproxy.net.tls_errors import hush_server_names
from hotproxy.net.tls_handshake import BROKEN, GONE, LATE, NO_PEER_CERTIFICATE, TIMED_OUT, UNVERIFIED
from hotproxy.net.tls_loop import TlsLoop
from hotproxy.net.tls_server import ServerTls
from tests.kit.loop import WatchedLoop
from tests.kit.tls import NAME, Bench, Files, authority, client_context


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tls")


def side(*files: Files, **settings: object) -> ServerTls:
    pairs = tuple(model.CertificateFiles(str(each.cert), str(each.key)) for each in files)
    return ServerTls("web", model.ListenerTls(pairs, **settings))  # type: ignore[arg-type]


def names(bench: Bench) -> set[str]:
    """In the certificate that the client got."""
    found = bench.peer.tls.getpeercert()
    assert found is not None
    return {str(value) for _, value in found["subjectAltName"]}  # type: ignore[misc]


@pytest.mark.parametrize("piece", [1, 3, 50, 1 << 20])
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_handshake_in_pieces(folder: Path, version: ssl.TLSVersion, piece: int) -> None:
    context = client_context()
    context.maximum_version = version
    bench = Bench(side(Files(folder, NAME)), context).shake(piece)
    assert bench.secure is not None
    info = bench.secure.info
    assert info.version == bench.peer.tls.version()
    assert (info.cipher, info.server_name, info.alpn, info.reused, info.peer) == (
        bench.peer.tls.cipher()[0],  # type: ignore[index]
        NAME,
        "",
        False,
        None,
    )
    bench.close()


def fragmented(record: bytes, size: int) -> bytes:
    """One record as several, which RFC 8446 section 5.1 allows for handshake messages."""
    body = record[5:]
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    return b"".join(record[:3] + len(piece).to_bytes(2, "big") + piece for piece in pieces)


@pytest.mark.parametrize("size", [1, 7, 200])
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_client_hello_in_many_records(folder: Path, version: ssl.TLSVersion, size: int) -> None:
    context = client_context()
    context.maximum_version = version
    bench = Bench(side(Files(folder, NAME)), context)
    bench.handshake.start(10.0)
    bench.peer.step()
    bench.send(fragmented(bench.peer.said(), size))
    for _ in range(4):
        bench.peer.step()
        bench.send(bench.peer.said())
    assert bench.secure is not None, bench.failed
    assert bench.secure.info.server_name == NAME
    bench.close()


@pytest.mark.parametrize(
    ("asked", "given"),
    [
        ("one.example", {"one.example", "www.one.example"}),
        ("www.one.example", {"one.example", "www.one.example"}),
        ("WWW.ONE.example", {"one.example", "www.one.example"}),
        ("two.example", {"two.example"}),
        ("a.wild.example", {"*.wild.example"}),
        ("exact.wild.example", {"exact.wild.example"}),  # exact wins, wherever it stands
        ("a.b.wild.example", {"one.example", "www.one.example"}),  # a star is one label: the default
        ("wild.example", {"one.example", "www.one.example"}),
        ("other.example", {"one.example", "www.one.example"}),
        (None, {"one.example", "www.one.example"}),
    ],
)
def test_the_certificate_by_name(folder: Path, asked: str | None, given: set[str]) -> None:
    context = client_context()
    context.check_hostname = False
    certificates = [
        Files(folder, "one.example", "www.one.example"),
        Files(folder, "two.example"),
        Files(folder, "*.wild.example"),
        Files(folder, "exact.wild.example"),
    ]
    bench = Bench(side(*certificates), context, asked).shake()
    assert names(bench) == given
    bench.close()


@pytest.mark.parametrize("asked", ["one.example", "two.example"])
def test_our_own_uri_is_that_of_the_certificate_that_was_shown(folder: Path, asked: str) -> None:
    certificates = [
        Files(folder, name, f"spiffe://{name}/us", stem=f"uri-{name}") for name in ("one.example", "two.example")
    ]
    bench = Bench(side(*certificates), client_context(), asked).shake()
    assert bench.secure is not None
    assert bench.secure.info.local_uri == f"spiffe://{asked}/us"
    bench.close()


@pytest.mark.parametrize(("ciphers", "kind"), [("ECDHE+aRSA", "RSA"), ("ECDHE+aECDSA", "ECDSA")])
def test_rsa_and_ecdsa_stand_side_by_side(folder: Path, ciphers: str, kind: str) -> None:
    context = client_context()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(ciphers)
    both = side(Files(folder, NAME), Files(folder, NAME, stem="rsa", rsa=True))
    bench = Bench(both, context).shake()
    assert kind in bench.peer.tls.cipher()[0]  # type: ignore[index]
    bench.close()


@pytest.mark.parametrize("asked", ["other.example", None])
def test_strict_sni_refuses_names_that_are_not_ours(folder: Path, asked: str | None) -> None:
    context = client_context()
    context.check_hostname = False
    bench = Bench(side(Files(folder, NAME), strict_sni=True), context, asked)
    with pytest.raises(ssl.SSLError, match="unrecognized name"):
        bench.shake()
    assert bench.failed == (BROKEN, "no certificate for the name that the peer asked for")
    bench.close()


def test_a_name_that_is_no_ascii_is_refused(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Python's ssl module can't read it, and says so on stderr each time: anybody could fill a log with that."""
    hush_server_names()
    bench = Bench(side(Files(folder, NAME)), client_context(), "aaaa.example")
    bench.handshake.start(10.0)
    bench.peer.step()
    hello = bench.peer.said()
    assert b"aaaa.example" in hello
    bench.send(hello.replace(b"aaaa.example", b"\xff\xfe\n.example"[:12].ljust(12, b"x")))
    assert bench.failed == (BROKEN, "no certificate for the name that the peer asked for")
    assert capfd.readouterr().err == ""
    bench.close()


def test_a_protocol_is_agreed_upon(folder: Path) -> None:
    context = client_context()
    context.set_alpn_protocols(["h2", "http/1.1"])
    bench = Bench(side(Files(folder, NAME), alpn=("http/1.1",)), context).shake()
    assert bench.secure is not None
    assert bench.secure.info.alpn == bench.peer.tls.selected_alpn_protocol() == "http/1.1"
    bench.close()


def _too_old(context: ssl.SSLContext) -> None:
    context.maximum_version = ssl.TLSVersion.TLSv1_2


def _other_ciphers(context: ssl.SSLContext) -> None:
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("AES128-SHA")


@pytest.mark.parametrize(
    ("change", "settings", "how", "why"),
    [
        (_too_old, {"min_version": "TLSv1.3"}, BROKEN, "the peer offers no TLS version that is allowed here"),
        (_other_ciphers, {}, BROKEN, "the peer offers no cipher that is allowed here"),
    ],
)
def test_what_a_client_lacks_is_said(
    folder: Path, change: Callable[[ssl.SSLContext], None], settings: dict[str, object], how: int, why: str
) -> None:
    context = client_context()
    change(context)
    bench = Bench(side(Files(folder, NAME), **settings), context)
    with pytest.raises(ssl.SSLError, match="alert"):  # and the client is told
        bench.shake()
    assert bench.failed == (how, why)
    bench.close()


def test_a_client_that_does_not_believe_us_says_why(folder: Path) -> None:
    bench = Bench(side(Files(folder, NAME)), client_context(number=1))
    with pytest.raises(ssl.SSLCertVerificationError):
        bench.shake()
    bench.send(bench.peer.said())
    assert bench.failed == (BROKEN, "the peer refused (unknown ca): it does not know the CA of our certificate")
    bench.close()


@pytest.mark.parametrize(
    ("bytes_", "why"),
    [
        (b"GET / HTTP/1.1\r\nhost: a\r\n\r\n", "plain HTTP was sent to a TLS port"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "the peer sent something that is not TLS"),
        (b"\x16\x03\x01\xff\xff" + b"x" * 100, "the peer sent a record longer than TLS allows"),
        (b"\x17\x03\x03\x00\x20" + b"x" * 32, "."),
        (b"\x16\x03\x01\x00\x04\x0b\x00\x00\x00", "."),
    ],
)
def test_what_is_not_tls_is_told_in_words(folder: Path, bytes_: bytes, why: str) -> None:
    bench = Bench(side(Files(folder, NAME)), client_context())
    bench.handshake.start(10.0)
    bench.send(bytes_)
    assert bench.failed is not None
    assert bench.failed[0] == BROKEN
    assert re.match(why, bench.failed[1])
    bench.close()


def test_a_client_that_says_nothing_is_late(folder: Path) -> None:
    bench = Bench(side(Files(folder, NAME)), client_context())
    bench.handshake.start(10.0)
    bench.pass_time(9.5)
    assert bench.failed is None
    bench.pass_time(1.0)
    assert bench.failed == (LATE, TIMED_OUT)
    bench.peer.take_in()
    assert bench.peer.ended
    bench.close()


def test_a_client_that_goes_is_gone(folder: Path) -> None:
    bench = Bench(side(Files(folder, NAME)), client_context())
    bench.handshake.start(10.0)
    bench.peer.step()
    bench.send(bench.peer.said()[:10])
    bench.peer.sock.close()
    bench.loop.run()
    assert bench.failed is not None
    assert bench.failed[0] == GONE
    bench.close()


def test_given_up_nothing_is_told(folder: Path) -> None:
    bench = Bench(side(Files(folder, NAME)), client_context())
    bench.handshake.start(10.0)
    bench.handshake.close()
    bench.loop.run()
    bench.pass_time(20.0)
    assert bench.failed is None
    assert bench.connection is None
    assert not bench.loop.readers
    bench.close()


class CountedSide:
    """As the side that it is given; `asked` counts how often OpenSSL was asked to go on."""

    def __init__(self, side: ServerTls) -> None:
        self.asked = 0
        self.info = side.info
        self._side = side

    def wrap(self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO) -> ssl.SSLObject:
        shaking = self._side.wrap(incoming, outgoing)
        go_on = shaking.do_handshake

        def counted() -> None:
            self.asked += 1
            go_on()

        shaking.do_handshake = counted  # type: ignore[method-assign]
        return shaking


def test_openssl_is_asked_once_for_each_message(folder: Path) -> None:
    """Asked with nothing to read it says so by an exception, and that costs some microseconds."""
    counted = CountedSide(side(Files(folder, NAME)))
    bench = Bench(counted, client_context()).shake()
    assert bench.secure is not None
    assert counted.asked == 2  # the client's hello; its change_cipher_spec and Finished
    bench.close()


class LateBench(Bench):
    """Does not read what it is given before it is told to."""

    def on_secured(self, sock: socket.socket, secure: TlsLoop) -> None:
        self.secure = secure
        self.connection = Connection(sock, self.owner, secure, self.wheel, self.gauge)


def test_whoever_reads_later_is_not_called_before(folder: Path) -> None:
    bench = LateBench(side(Files(folder, NAME)), client_context()).shake(behind=b"early")
    bench.send(bench.peer.sealed(b" and late"))  # fails where the loop spins on a descriptor that nobody reads
    assert not bench.loop.readers
    assert bench.owner.heard == []
    bench.open.start()
    bench.loop.run()
    assert bench.owner.heard == [b"early and late"]
    bench.close()


def test_the_descriptor_stays_watched_from_the_handshake_on(folder: Path) -> None:
    loop = WatchedLoop()
    bench = Bench(side(Files(folder, NAME)), client_context(), loop=loop).shake()
    bench.send(bench.peer.sealed(b"hello"))
    assert bench.owner.heard == [b"hello"]
    assert loop.changes == 1
    bench.close()
    assert loop.changes == 2


# -- certificates of clients


def test_a_clients_certificate_is_read(folder: Path) -> None:
    server = Files(folder, NAME)
    ann = Files(
        folder,
        "ann.example",
        "spiffe://example/ann",
        stem="ann",
        common_name="ann",
        organization="Example, Inc.",
    )
    bench = Bench(side(server, client_ca=str(server.ca)), client_context(files=ann)).shake()
    assert bench.secure is not None
    peer = bench.secure.info.peer
    assert peer is not None
    assert peer.subject == r"CN=ann,O=Example\, Inc."
    assert peer.dns_names == ("ann.example",)
    assert peer.uris == ("spiffe://example/ann",)
    assert peer.sha256 == ann.sha256
    bench.close()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_certificate_may_be_required(folder: Path, version: ssl.TLSVersion) -> None:
    server = Files(folder, NAME)
    context = client_context()
    context.maximum_version = version
    bench = Bench(side(server, client_ca=str(server.ca)), context)
    try:
        bench.shake()
    except ssl.SSLError:  # with TLS 1.2 the client hears it within the handshake
        pass
    assert bench.failed == (NO_PEER_CERTIFICATE, "the peer gave no certificate")
    bench.close()


def test_a_certificate_may_be_optional(folder: Path) -> None:
    server = Files(folder, NAME)
    bench = Bench(side(server, client_ca=str(server.ca), require_client_certificate=False), client_context()).shake()
    assert bench.secure is not None
    assert bench.secure.info.peer is None
    bench.close()


def test_an_intermediate_ca_is_trusted_without_its_root(folder: Path) -> None:
    server = Files(folder, NAME)
    between = authority(1).create_child_ca()
    between.cert_pem.write_to_path(folder / "between.pem")
    context = client_context()
    between.issue_cert("ann.example").configure_cert(context)
    bench = Bench(side(server, client_ca=str(folder / "between.pem")), context).shake()
    assert bench.secure is not None, bench.failed
    assert bench.secure.info.peer is not None
    bench.close()
    stranger = Files(folder, "ann.example", stem="of-the-root", number=1)
    bench = Bench(side(server, client_ca=str(folder / "between.pem")), client_context(files=stranger)).shake()
    assert bench.failed is not None
    assert bench.failed[0] == UNVERIFIED
    bench.close()


@pytest.mark.parametrize("required", [True, False])
def test_a_certificate_of_another_authority_is_never_accepted(folder: Path, required: bool) -> None:
    server = Files(folder, NAME)
    stranger = Files(folder, "ann.example", stem="stranger", number=1)
    settings = {"client_ca": str(server.ca), "require_client_certificate": required}
    bench = Bench(side(server, **settings), client_context(files=stranger)).shake()
    assert bench.failed is not None
    assert bench.failed[0] == UNVERIFIED
    assert bench.failed[1].startswith("the peer's certificate is not accepted: ")
    with pytest.raises(ssl.SSLError, match="unknown ca"):
        bench.peer.read()
    bench.close()


@pytest.mark.parametrize(
    ("wanted", "permitted"),
    [
        ((), True),
        (("ann.example",), True),
        (("ANN.example",), False),  # the config is read in lower case
        (("*.example",), True),
        (("*.ann.example",), False),
        (("bob.example", "spiffe://example/ann"), True),
        (("spiffe://example/*",), True),
        (("spiffe://example/an",), False),
        (("bob.example",), False),
    ],
)
def test_names_of_clients_may_be_restricted(folder: Path, wanted: tuple[str, ...], permitted: bool) -> None:
    server = Files(folder, NAME)
    ann = Files(folder, "Ann.example", "spiffe://example/ann", stem="ann2")
    restricted = side(server, client_ca=str(server.ca), client_san=wanted)
    bench = Bench(restricted, client_context(files=ann)).shake()
    assert bench.secure is not None
    assert restricted.permits(bench.secure.info) is permitted
    bench.close()


def test_a_certificate_that_is_none_is_told_in_words(folder: Path) -> None:
    """With TLS 1.2, where certificates are in plain text."""
    server, ann = Files(folder, NAME), Files(folder, "ann.example", stem="broken")
    context = client_context(files=ann)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    bench = Bench(side(server, client_ca=str(server.ca)), context)
    bench.handshake.start(10.0)
    bench.peer.step()
    bench.send(bench.peer.said())
    bench.peer.step()
    flight, der = bench.peer.said(), ssl.PEM_cert_to_DER_cert(ann.cert.read_text())
    assert der in flight
    bench.send(flight.replace(der, b"\x31" + der[1:]))
    assert bench.failed == (BROKEN, "the peer sent a certificate that is malformed")
    bench.close()


# GeneralNames with one that breaks its own rules: no ASCII where it must be, three bytes of an address, an
# ediPartyName. OpenSSL only looks at those that it compares.
@pytest.mark.parametrize(
    "name", [b"\x82\x03\xff\xff\xff", b"\x81\x03\xff\xff\xff", b"\x86\x03\xff\xff\xff", b"\x87\x03\x01\x02\x03",
             b"\xa5\x05\xa1\x03\x0c\x01x"]
)  # fmt: skip
def test_a_certificate_that_cannot_be_read_lets_nobody_in(folder: Path, name: bytes) -> None:
    """Its handshake ended in an exception, and counted among those under way for ever: a thousand such clients, and
    nobody came in any more."""
    server = Files(folder, NAME)
    ann = Files(folder, "unreadable", san=bytes((0x30, len(name))) + name)
    bench = Bench(side(server, client_ca=str(server.ca)), client_context(files=ann)).shake()
    assert bench.failed == (UNVERIFIED, "the peer's certificate is accepted, but what it says can't be read")
    bench.close()
