"""x-forwarded-client-cert as Envoy writes it: who the client has proven to be.

By=<URI of our own certificate>;Hash=<SHA-256 of the client's>;Cert="<PEM>";Chain="<PEMs>";Subject="<RFC 4514>";URI=...

https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_conn_man/headers#x-forwarded-client-cert

    forward_client_cert_details    a client with a certificate                        any other client
    sanitize                       removed                                            removed
    sanitize_set                   replaced by what its certificate says              removed
    append_forward                 ... appended to what it has sent                   removed
    forward_only                   as it has sent it                                  removed
    always_forward_only            as it has sent it                                  as it has sent it
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final
from urllib.parse import quote

from hotproxy.config.model import (
    ALWAYS_FORWARD_ONLY,
    APPEND_FORWARD,
    FORWARD_ONLY,
    SANITIZE,
    ForwardedCertificate,
)
from hotproxy.http.headers import Headers
from hotproxy.telemetry.tls_info import TlsInfo

NAME: Final = b"x-forwarded-client-cert"
DEFAULT: Final = ForwardedCertificate()

# Connections that are in use at a time by clients with certificates; one line is some 300 bytes.
_KEPT: Final = 1024


def forward_certificate(headers: Headers, tls: TlsInfo | None, rule: ForwardedCertificate) -> None:
    """Make of the field what `rule` says, in place."""
    details = rule.details
    if details == ALWAYS_FORWARD_ONLY:
        return
    if details == SANITIZE or tls is None or tls.peer is None:
        headers.remove(NAME)
    elif details == APPEND_FORWARD:
        headers.set(NAME, b",".join([*headers.get_all(NAME), client_certificate(tls, rule)]))
    elif details != FORWARD_ONLY:
        headers.set(NAME, client_certificate(tls, rule))


@lru_cache(maxsize=_KEPT)
def client_certificate(tls: TlsInfo, rule: ForwardedCertificate = DEFAULT) -> bytes:
    """Of a connection whose client has given a certificate."""
    peer = tls.peer
    assert peer is not None
    parts = [f"By={_value(tls.local_uri)}"] if tls.local_uri else []
    parts.append(f"Hash={peer.sha256}")
    if rule.cert:
        parts.append(f'Cert="{quote(peer.pem, safe="")}"')
    if rule.chain:
        parts.append(f'Chain="{quote(peer.chain or peer.pem, safe="")}"')
    if rule.subject:
        parts.append(f"Subject={_quoted(peer.subject)}")
    if rule.uri:
        parts += [f"URI={_value(uri)}" for uri in peer.uris]
    if rule.dns:
        parts += [f"DNS={_value(name)}" for name in peer.dns_names]
    return ";".join(parts).encode("utf-8", "replace")


def _value(text: str) -> str:
    """As it is, or in quotes where it has characters that would end it."""
    return _quoted(text) if any(char in text for char in ',;="') or not text.isprintable() else text


def _quoted(text: str) -> str:
    """A certificate may say anything, also what would begin another field of a head."""
    clean = "".join([char if char.isprintable() else "?" for char in text])
    return '"' + clean.replace("\\", "\\\\").replace('"', '\\"') + '"'
