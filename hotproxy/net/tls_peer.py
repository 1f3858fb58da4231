"""Whom a certificate names: read once per handshake, for routing, logs and x-forwarded-client-cert."""

from __future__ import annotations

import ssl
from typing import Final

from hotproxy.telemetry.tls_info import PeerCertificate

_DER: Final = 2  # _ssl.ENCODING_DER


def chain_pem(handshaken: ssl.SSLObject) -> str:
    """All that a client has sent, its own first; "" where that is its own alone, or where a session went on."""
    # Public in Python 3.13, there with DER; before, in the object behind it.
    if hasattr(handshaken, "get_unverified_chain"):
        ders = handshaken.get_unverified_chain()
    else:
        found = handshaken._sslobj.get_unverified_chain()  # type: ignore[attr-defined]
        ders = [certificate.public_bytes(_DER) for certificate in found or ()]
    return "".join(map(ssl.DER_cert_to_PEM_cert, ders)) if len(ders) > 1 else ""


def peer_certificate(der: bytes, chain: str = "") -> PeerCertificate:
    """Of a certificate that OpenSSL has verified. ValueError: `cryptography` can't read what OpenSSL could."""
    from cryptography import x509
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.serialization import Encoding

    found = x509.load_der_x509_certificate(der)
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
        chain=chain,
    )


def san_matches(pattern: str, san: str) -> bool:
    """`*.example.com` is one label more than `example.com`; a URI that ends in `*` is all that begin so."""
    if "://" in pattern:
        return san.startswith(pattern[:-1]) if pattern.endswith("*") else san == pattern
    if pattern.startswith("*."):
        label, dot, rest = san.lower().partition(".")
        return bool(label and dot) and rest == pattern[2:]
    return san.lower() == pattern
