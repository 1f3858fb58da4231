"""The certificates that a client has sent with its own: those of the CAs between it and the one that is trusted."""

from __future__ import annotations

import ssl
from dataclasses import replace
from typing import Final

from hotproxy.telemetry.tls_info import PeerCertificate

_DER: Final = 2  # _ssl.ENCODING_DER


def with_chain(peer: PeerCertificate, handshaken: ssl.SSLObject) -> PeerCertificate:
    """Unchanged where there is none but its own, or where a session went on: nobody sends any then."""
    # Public in Python 3.13, there with DER; before, in the object behind it.
    if hasattr(handshaken, "get_unverified_chain"):
        ders = handshaken.get_unverified_chain()
    else:
        found = handshaken._sslobj.get_unverified_chain()  # type: ignore[attr-defined]
        ders = [certificate.public_bytes(_DER) for certificate in found or ()]
    return replace(peer, chain="".join(map(ssl.DER_cert_to_PEM_cert, ders))) if len(ders) > 1 else peer
