"""What both sides of TLS have in common: versions, ciphers, and what is never on.

Off: compression (CRIME), renegotiation (RFC 9325 section 3.5), RSA key exchange, CBC and all else that Mozilla's
"intermediate" list of 2025 leaves out. TLS 1.3's three suites are OpenSSL's and can't be chosen.
"""

from __future__ import annotations

import ssl
from typing import Final

from hotproxy.config.certificate import CertificateError
from hotproxy.config.tls import DEFAULT_CIPHERS

VERSIONS: Final = {"TLSv1.2": ssl.TLSVersion.TLSv1_2, "TLSv1.3": ssl.TLSVersion.TLSv1_3}


def new_context(
    server_side: bool, min_version: str, max_version: str, ciphers: tuple[str, ...], alpn: tuple[str, ...]
) -> ssl.SSLContext:
    """Raises CertificateError for ciphers that this OpenSSL does not have."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server_side else ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = VERSIONS[min_version]
    context.maximum_version = VERSIONS[max_version]
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    if server_side:
        context.options |= ssl.OP_CIPHER_SERVER_PREFERENCE
    try:
        context.set_ciphers(":".join(ciphers or DEFAULT_CIPHERS))
    except ssl.SSLError:
        raise CertificateError(f"this OpenSSL has none of the ciphers {', '.join(ciphers)}") from None
    if alpn:
        context.set_alpn_protocols(alpn)
    return context
