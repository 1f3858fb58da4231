"""What a handshake has agreed upon, and who the peer has proven to be: for routing, headers and logs."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PeerCertificate:
    """The certificate that a client has proven to have. Names in the order in which they stand in it."""

    subject: str  # RFC 4514: "CN=ann,O=Example"
    issuer: str
    serial: str  # hex, lower case
    sha256: str  # of the DER, hex
    uris: tuple[str, ...]
    dns_names: tuple[str, ...]
    emails: tuple[str, ...]
    addresses: tuple[str, ...]
    not_after: str  # ISO 8601, UTC
    pem: str
    chain: str = ""  # PEM: this one and those that came with it; "" where they are not known, in a resumed session


@dataclass(frozen=True, slots=True)
class TlsInfo:
    """Of one connection."""

    version: str  # "TLSv1.3"
    cipher: str  # OpenSSL's name
    server_name: str = ""  # what the client has asked for (SNI)
    alpn: str = ""  # the protocol agreed upon
    reused: bool = False  # a session that went on
    peer: PeerCertificate | None = None  # None: no certificate was asked for or given
    local_uri: str = ""  # the first URI in our own certificate: "By" of x-forwarded-client-cert
