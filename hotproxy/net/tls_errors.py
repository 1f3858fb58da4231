"""OpenSSL's reasons in words about the peer: what it did wrong, or what it says that we did.

OpenSSL's own (`err.h`) name the check that failed; an operator wants to know what to look at. A reason that is not here
is told in OpenSSL's words.
"""

from __future__ import annotations

import ssl
import sys
from typing import Final


class TlsError(OSError):
    """What breaks the encryption of a connection, in words about the peer. The text is for logs: `str()`.

    An error of the connection, for that is what it is to all who read and write one.
    """


NO_CERTIFICATE: Final = "the peer gave no certificate"

# What a peer's bytes have led us to.
_FOUND: Final = {
    "CALLBACK_FAILED": "no certificate for the name that the peer asked for",
    "HTTP_REQUEST": "plain HTTP was sent to a TLS port",
    "HTTPS_PROXY_REQUEST": "plain HTTP (CONNECT) was sent to a TLS port",
    "WRONG_VERSION_NUMBER": "the peer sent something that is not TLS",
    "WRONG_SSL_VERSION": "the peer sent something that is not TLS",
    "BAD_RECORD_TYPE": "the peer sent something that is not TLS",
    "UNKNOWN_PROTOCOL": "the peer sent something that is not TLS",
    "PACKET_LENGTH_TOO_LONG": "the peer sent a record longer than TLS allows",
    "ENCRYPTED_LENGTH_TOO_LONG": "the peer sent a record longer than TLS allows",
    "DATA_LENGTH_TOO_LONG": "the peer sent a record longer than TLS allows",
    "RECORD_TOO_SMALL": "the peer sent a record that is too short",
    "UNSUPPORTED_PROTOCOL": "the peer offers no TLS version that is allowed here",
    "VERSION_TOO_LOW": "the peer offers no TLS version that is allowed here",
    "NO_SHARED_CIPHER": "the peer offers no cipher that is allowed here",
    "NO_SHARED_SIGNATURE_ALGORITHMS": "the peer offers no signature algorithm that our certificate could use",
    "NO_SUITABLE_SIGNATURE_ALGORITHM": "the peer offers no signature algorithm that our certificate could use",
    "NO_SUITABLE_KEY_SHARE": "the peer offers no key exchange that is allowed here",
    "NO_SUITABLE_GROUPS": "the peer offers no key exchange that is allowed here",
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": NO_CERTIFICATE,
    "DECRYPTION_FAILED_OR_BAD_RECORD_MAC": "the peer's record does not decrypt: damaged, forged or out of order",
    "BAD_DECRYPT": "the peer's record does not decrypt: damaged, forged or out of order",
    "DIGEST_CHECK_FAILED": "the peer's Finished does not fit the handshake: something between has changed it",
    "BAD_SIGNATURE": "the peer has not the key of its certificate",
    "NO_RENEGOTIATION": "the peer asked for renegotiation, which is off",
    "LENGTH_MISMATCH": "the peer sent a handshake message that is malformed",
    "LENGTH_TOO_SHORT": "the peer sent a handshake message that is malformed",
    "BAD_LENGTH": "the peer sent a handshake message that is malformed",
    "BAD_EXTENSION": "the peer sent a handshake message that is malformed",
    "BAD_PACKET": "the peer sent a handshake message that is malformed",
    "UNEXPECTED_MESSAGE": "the peer sent a handshake message out of turn",
    "UNEXPECTED_CCS_MESSAGE": "the peer sent a handshake message out of turn",
    "UNEXPECTED_RECORD": "the peer sent a handshake message out of turn",
    "TOO_MANY_KEY_UPDATES": "the peer sent too many key updates",
    "EXCESSIVE_MESSAGE_SIZE": "the peer sent a handshake message that is too long",
    "INAPPROPRIATE_FALLBACK": "the peer fell back to an older version than both speak (RFC 7507)",
    "APPLICATION_DATA_AFTER_CLOSE_NOTIFY": "the peer sent data after its end",
}  # fmt: skip

# RFC 8446 section 6.2: alerts, the last part of OpenSSL's `..._ALERT_...`. The peer tells us.
_ALERTS: Final = {
    "UNKNOWN_CA": "it does not know the CA of our certificate",
    "BAD_CERTIFICATE": "it does not accept our certificate",
    "CERTIFICATE_UNKNOWN": "it does not accept our certificate",
    "CERTIFICATE_EXPIRED": "our certificate has expired for it",
    "CERTIFICATE_REVOKED": "our certificate was revoked",
    "CERTIFICATE_REQUIRED": "it wants a certificate, and got none",
    "UNSUPPORTED_CERTIFICATE": "it can't use our kind of certificate",
    "PROTOCOL_VERSION": "it speaks none of our TLS versions",
    "HANDSHAKE_FAILURE": "we have nothing in common that both accept",
    "INSUFFICIENT_SECURITY": "our ciphers are too weak for it",
    "DECRYPT_ERROR": "a signature or Finished of ours does not verify",
    "ACCESS_DENIED": "it denies access",
    "NO_APPLICATION_PROTOCOL": "it speaks none of our protocols (ALPN)",
    "UNRECOGNIZED_NAME": "it does not know the name that we asked for (SNI)",
    "INTERNAL_ERROR": "it has an internal error",
    "USER_CANCELLED": "it gave up",
}


def in_words(error: ssl.SSLError) -> str:
    """One line for a log, without line breaks whatever the peer has sent."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the peer's certificate is not accepted: {error.verify_message.rstrip('.')}"
    reason = error.reason or ""
    _before, _, alert = reason.partition("_ALERT_")
    if not alert and reason.startswith("TLSV1_") and reason[6:] in _ALERTS:  # those that OpenSSL names without "alert"
        alert = reason[6:]
    if alert:
        words = _ALERTS.get(alert)
        name = alert.lower().replace("_", " ")
        return f"the peer refused ({name}): {words}" if words is not None else f"the peer refused ({name})"
    if not reason:  # OpenSSL's own parser has failed, and its reason is not Python's
        return "the peer sent a certificate that is malformed" if "ASN1" in str(error) else "TLS failed"
    return _FOUND.get(reason) or reason.lower().replace("_", " ")


def is_verification(error: ssl.SSLError) -> bool:
    return isinstance(error, ssl.SSLCertVerificationError)


def hush_server_names() -> None:
    """Once in a process: Python's ssl module complains on stderr about a name that is no ASCII, with a traceback, and
    that name is a stranger's. The handshake fails anyway, and is told like any other."""
    sys.unraisablehook = _complain


def _complain(unraisable: sys.UnraisableHookArgs) -> None:
    if unraisable.exc_type is not UnicodeDecodeError or not isinstance(unraisable.object, bytes):
        sys.__unraisablehook__(unraisable)
