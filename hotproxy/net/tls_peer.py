"""Whom a certificate names: read once per handshake, for routing, logs and x-forwarded-client-cert."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from hotproxy.config.address import parse_ip
from hotproxy.net.tls_errors import TlsError
from hotproxy.telemetry.tls_info import PeerCertificate

if TYPE_CHECKING:
    from cryptography import x509


def peer_certificate(der: bytes) -> PeerCertificate:
    """Of a certificate that OpenSSL has verified. TlsError: `cryptography` can't read what OpenSSL could."""
    from cryptography import x509

    try:
        return _read(x509.load_der_x509_certificate(der))
    except (ValueError, x509.DuplicateExtension, x509.InvalidVersion, x509.UnsupportedGeneralNameType):
        raise TlsError("the peer's certificate is accepted, but what it says can't be read") from None


def _read(found: x509.Certificate) -> PeerCertificate:
    from cryptography import x509
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.serialization import Encoding

    try:
        san = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        san = x509.SubjectAlternativeName([])
    return PeerCertificate(
        subject=found.subject.rfc4514_string(),
        issuer=found.issuer.rfc4514_string(),
        serial=f"{found.serial_number:x}",
        sha256=found.fingerprint(SHA256()).hex(),
        uris=tuple(san.get_values_for_type(x509.UniformResourceIdentifier)),
        dns_names=tuple(san.get_values_for_type(x509.DNSName)),
        emails=tuple(san.get_values_for_type(x509.RFC822Name)),
        addresses=tuple(str(address) for address in san.get_values_for_type(x509.IPAddress)),
        not_after=found.not_valid_after_utc.strftime("%Y-%m-%dT%H:%M:%S.000Z"),
        pem=found.public_bytes(Encoding.PEM).decode(),
    )


def is_named(peer: PeerCertificate, wanted: Iterable[str]) -> bool:
    """Has the certificate one of these names?"""
    return any(_has_name(peer, name) for name in wanted)


def _has_name(peer: PeerCertificate, wanted: str) -> bool:
    """Each kind of name by itself, and never by one that only looks like it: a CA that vouches for mailboxes and
    documents does not vouch for hosts (CVE-2022-21656, Envoy's)."""
    last = wanted.rpartition(".")[2]
    if last.isdigit() or (":" in wanted and parse_ip(wanted) is not None):
        return wanted in peer.addresses
    if ":" in wanted:
        if wanted.endswith("*"):
            return any(uri.startswith(wanted[:-1]) for uri in peer.uris)
        return wanted in peer.uris
    if "@" in wanted:
        return any(email.lower() == wanted for email in peer.emails)
    return any(_same_host(wanted, name.lower()) for name in peer.dns_names)


def _same_host(wanted: str, given: str) -> bool:
    """A star is one label, the first, whoever has written it (RFC 6125 section 6.4.3)."""
    if given == wanted:
        return True
    label, dot, rest = given.partition(".")
    wanted_label, wanted_dot, wanted_rest = wanted.partition(".")
    return rest == wanted_rest and "*" in (label, wanted_label) and bool(label and dot and wanted_label and wanted_dot)
