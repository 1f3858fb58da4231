"""Certificates made at run time, and a TLS peer whose bytes pass through the test's hands."""

from __future__ import annotations

import contextlib
import ctypes
import datetime
import functools
import ipaddress
import socket
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol, TypeVar

import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric import rsa as rsa_module
from cryptography.x509.oid import NameOID

from hotproxy.clock import TimerWheel
from hotproxy.net.connection import Connection
from hotproxy.net.tls_handshake import TlsHandshake
from hotproxy.net.tls_loop import TlsLoop
from tests.kit.clock import FakeClock, pass_time
from tests.kit.connection import FakeGauge
from tests.kit.loop import FakeLoop

NAME = "web.example"


@functools.cache
def authority(number: int) -> trustme.CA:
    """Another number, another CA that does not know the first one. Keys are ECDSA: quick to make."""
    return trustme.CA()


class Files:
    """A certificate for these names (hosts, addresses, URIs) with its key, as files; `ca` is what verifies it."""

    def __init__(
        self,
        directory: Path,
        *names: str,
        stem: str = "",
        number: int = 0,
        rsa: bool = False,
        common_name: str = "",
        organization: str = "",
        days: float = 365.0,
        self_signed: bool = False,
        san: bytes = b"",
    ) -> None:
        """`san`: the DER of the alternative names, as nobody else would write it."""
        stem = stem or names[0].replace("*", "any")
        self.cert = directory / f"{stem}.pem"
        self.key = directory / f"{stem}.key"
        self.ca = directory / f"ca{number}.pem"
        key = rsa_module.generate_private_key(65537, 2048) if rsa else ec.generate_private_key(ec.SECP256R1())
        subject = [
            x509.NameAttribute(oid, text)
            for oid, text in ((NameOID.ORGANIZATION_NAME, organization), (NameOID.COMMON_NAME, common_name))
            if text
        ]
        issuer = authority(number)
        ca = x509.load_pem_x509_certificate(issuer.cert_pem.bytes())
        ca_name = ca.subject
        ca_key = serialization.load_pem_private_key(issuer.private_key_pem.bytes(), None)
        if self_signed:
            ca_name, ca_key = x509.Name(subject), key
        now = datetime.datetime.now(datetime.UTC)
        names_given: x509.ExtensionType = x509.SubjectAlternativeName([_san(name) for name in names])
        if san:
            names_given = x509.UnrecognizedExtension(x509.ExtensionOID.SUBJECT_ALTERNATIVE_NAME, san)
        made = (
            x509.CertificateBuilder()
            .subject_name(x509.Name(subject))
            .issuer_name(ca_name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=400))
            .not_valid_after(now + datetime.timedelta(days=days))
            .add_extension(names_given, critical=not subject)
            .sign(ca_key, hashes.SHA256())  # type: ignore[arg-type]
        )
        self.sha256 = made.fingerprint(hashes.SHA256()).hex()
        self.cert.write_bytes(made.public_bytes(serialization.Encoding.PEM))
        self.key.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        self.key.chmod(0o600)
        issuer.cert_pem.write_to_path(self.ca)

    def yaml(self) -> str:
        """As an item of `certificates`."""
        return f"{{cert: {self.cert}, key: {self.key}}}"


def _san(name: str) -> x509.GeneralName:
    """By what it looks like; "dns:" in front where it looks like something else, "mailto:" for a mailbox."""
    if name.startswith("mailto:"):
        return x509.RFC822Name(name.removeprefix("mailto:"))
    if name.startswith("dns:"):
        return x509.DNSName(name.removeprefix("dns:"))
    if "://" in name or name.startswith("urn:"):
        return x509.UniformResourceIdentifier(name)
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def client_context(number: int = 0, files: Files | None = None) -> ssl.SSLContext:
    """Of a client that believes one authority; `files`: its own certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority(number).configure_trust(context)
    if files is not None:
        context.load_cert_chain(files.cert, files.key)
    return context


def server_context(*names: str, number: int = 0) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority(number).issue_cert(*names or (NAME,)).configure_cert(context)
    return context


class Peer:
    """The other end: OpenSSL with its bytes in our hands. `sock` is blocking."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, name: str | None = NAME, session: object = None):
        self.sock = sock
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        server_side = context.protocol == ssl.PROTOCOL_TLS_SERVER
        self.tls = context.wrap_bio(
            self.incoming,
            self.outgoing,
            server_side,
            None if server_side else name,
            session,  # type: ignore[arg-type]
        )
        self.raw = b""  # received and not fed
        self.ended = False  # EOF of TCP

    def step(self) -> bool:
        """One step of the handshake; True when it is done."""
        self.take_in()
        try:
            self.tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        return True

    def said(self) -> bytes:
        """What it wants sent."""
        return self.outgoing.read()

    def take_in(self) -> None:
        """What has come, for OpenSSL."""
        self.sock.setblocking(False)
        try:
            while True:
                data = self.sock.recv(1 << 20)
                if not data:
                    self.ended = True
                    break
                self.incoming.write(data)
        except BlockingIOError:
            pass
        self.sock.setblocking(True)

    def read(self) -> bytes:
        """All plaintext that has come; SSLError when something else has."""
        self.take_in()
        got = b""
        try:
            while True:
                data = self.tls.read(1 << 16)
                if not data:
                    return got
                got += data
        except (ssl.SSLWantReadError, ssl.SSLZeroReturnError):
            return got

    @property
    def told_end(self) -> bool:
        """Has our side said close_notify?"""
        self.read()
        try:
            return self.tls.read(1) == b""
        except ssl.SSLZeroReturnError:
            return True
        except ssl.SSLError:
            return False

    def sealed(self, data: bytes) -> bytes:
        self.tls.write(data)
        return self.said()

    def sealed_end(self) -> bytes:
        """close_notify."""
        try:
            self.tls.unwrap()
        except ssl.SSLError:
            pass
        return self.said()

    def update_key(self, ask: bool) -> bytes:
        """A KeyUpdate; `ask`: the other side is to answer with one. Python's ssl has no call for it."""
        import _ssl

        library = ctypes.CDLL(_ssl.__file__)
        library.SSL_key_update.argtypes = [ctypes.c_void_p, ctypes.c_int]
        # PySSLSocket: the Python socket, then the SSL.
        place = id(self.tls._sslobj) + object.__basicsize__ + ctypes.sizeof(ctypes.c_void_p)
        address = ctypes.c_void_p.from_address(place).value
        assert library.SSL_key_update(address, 1 if ask else 0) == 1
        self.tls.do_handshake()
        return self.said()


class Owner:
    """Writes down what a connection tells."""

    def __init__(self) -> None:
        self.heard: list[object] = []

    def on_data(self, data: bytes) -> None:
        if self.heard and isinstance(self.heard[-1], bytes):
            self.heard[-1] += data
        else:
            self.heard.append(data)

    def on_eof(self) -> None:
        self.heard.append("eof")

    def on_lost(self, error: str) -> None:
        self.heard.append(("lost", error))

    def on_pressure(self, high: bool) -> None:
        self.heard.append(high)


class Bench:
    """Our handshake and connection on one end of a real pair of sockets, a `Peer` on the other."""

    def __init__(
        self,
        side: object,
        context: ssl.SSLContext,
        name: str | None = NAME,
        session: object = None,
        loop: FakeLoop | None = None,
    ) -> None:
        self.clock = FakeClock()
        self.wheel = TimerWheel(self.clock)
        self.loop = loop or FakeLoop()
        self.gauge = FakeGauge()
        self.owner = Owner()
        self.connection: Connection | None = None
        self.secure: TlsLoop | None = None
        self.failed: tuple[int, str] | None = None
        self.ours, theirs = socket.socketpair()
        self.ours.setblocking(False)
        self.peer = Peer(theirs, context, name, session)
        self.handshake = TlsHandshake(self.ours, side, self, self.loop, self.wheel, self.gauge)  # type: ignore[arg-type]

    def on_secured(self, sock: socket.socket, secure: TlsLoop) -> None:
        self.secure = secure
        self.connection = Connection(sock, self.owner, secure, self.wheel, self.gauge)
        self.connection.start()

    def on_handshake_failed(self, how: int, why: str) -> None:
        self.failed = (how, why)

    def shake(self, piece: int = 1 << 20, behind: bytes = b"") -> Bench:
        """The whole handshake; the peer's bytes come in pieces, `behind` along with its last message."""
        self.handshake.start(10.0)
        self.loop.run()
        for _ in range(10):
            done = self.peer.step()
            data = self.peer.said()
            if done and behind:
                data += self.peer.sealed(behind)
                behind = b""
            self.send(data, piece)
            if done and (self.connection is not None or self.failed is not None):
                break
        return self

    def send(self, data: bytes, piece: int = 1 << 20) -> None:
        """Raw bytes to our side, which handles each piece before the next one comes."""
        for start in range(0, len(data), piece):
            self.peer.sock.sendall(data[start : start + piece])
            self.loop.run()
        self.loop.run()

    def pass_time(self, seconds: float) -> None:
        pass_time(self.clock, self.wheel, seconds)
        self.loop.run()

    @property
    def open(self) -> Connection:
        assert self.connection is not None, self.failed
        return self.connection

    def close(self) -> None:
        self.handshake.close()
        if self.connection is not None:
            self.connection.close()
        self.peer.sock.close()


class Closing(Protocol):
    def close(self) -> None: ...


Kind = TypeVar("Kind", bound=Closing)


@contextlib.contextmanager
def benches(kind: Callable[..., Kind], files: Files) -> Iterator[Callable[..., Kind]]:
    """Makes benches of this kind with these files, and closes all of them."""
    made: list[Kind] = []

    def make(**settings: object) -> Kind:
        made.append(kind(files, **settings))
        return made[-1]

    yield make
    for bench in made:
        bench.close()
