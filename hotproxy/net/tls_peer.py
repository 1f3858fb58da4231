"""Whom a certificate names: read once per handshake, for routing, logs and x-forwarded-client-cert."""

from __future__ import annotations

from hotproxy.telemetry.tls_info import PeerCertificate


def peer_certificate(der: bytes) -> PeerCertificate:
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
    )


def san_matches(pattern: str, san: str) -> bool:
    """`*.example.com` is one label more than `example.com`; a URI that ends in `*` is all that begin so."""
    if "://" in pattern:
        return san.startswith(pattern[:-1]) if pattern.endswith("*") else san == pattern
    if pattern.startswith("*."):
        label, dot, rest = san.lower().partition(".")
        return bool(label and dot) and rest == pattern[2:]
    return san.lower() == pattern
