"""x-forwarded-client-cert as Envoy writes it: who the client has proven to be.

By=<URI of our own certificate>;Hash=<SHA-256 of the client's>;Subject="<RFC 4514>";URI=<URI>;DNS=<name>;...

https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_conn_man/headers#x-forwarded-client-cert, as with
`SANITIZE_SET` and subject, uri and dns: what a client has sent under this name is dropped.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from hotproxy.telemetry.tls_info import TlsInfo

# Connections that are in use at a time by clients with certificates; one line is some 300 bytes.
_KEPT: Final = 1024


@lru_cache(maxsize=_KEPT)
def client_certificate(tls: TlsInfo) -> bytes:
    """Of a connection whose client has given a certificate."""
    peer = tls.peer
    assert peer is not None
    parts = [f"By={_value(tls.local_uri)}"] if tls.local_uri else []
    parts += [f"Hash={peer.sha256}", f"Subject={_quoted(peer.subject)}"]
    parts += [f"URI={_value(uri)}" for uri in peer.uris]
    parts += [f"DNS={_value(name)}" for name in peer.dns_names]
    return ";".join(parts).encode("utf-8", "replace")


def _value(text: str) -> str:
    """As it is, or in quotes where it has characters that would end it."""
    return _quoted(text) if any(char in text for char in ',;="') or not text.isprintable() else text


def _quoted(text: str) -> str:
    """A certificate may say anything, also what would begin another field of a head."""
    clean = "".join([char if char.isprintable() else "?" for char in text])
    return '"' + clean.replace("\\", "\\\\").replace('"', '\\"') + '"'
