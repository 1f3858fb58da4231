"""What is in certificate and key files, and whether they are fit to use: for `check`, and for those who load them.

`cryptography` and `ssl` are imported where they are needed: they cost a generation 65 ms and 6 MB, and a config without
TLS nothing.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import ssl

    from cryptography import x509

# A chain of ten with large keys is 30 KiB; Debian's bundle of all CAs 220 KiB.
MAX_FILE_BYTES: Final = 4 * 1024 * 1024
# What stat says of a file that was replaced, by renaming, by a symlink or in place, or whose mode was mended: device,
# inode, size, ctime in ns.
Identity = tuple[int, int, int, int]


class CertificateError(ValueError):
    """What is wrong with a file, and what to do."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


@dataclass(frozen=True, slots=True)
class Certificate:
    """The first certificate of a file."""

    names: tuple[str, ...]  # of hosts, lower case; addresses as text
    uris: tuple[str, ...]
    kind: str  # of its key: one certificate of each kind can serve the same name
    not_after_s: float  # seconds since 1970


def read_certificate(path: str) -> Certificate:
    """Raises CertificateError."""
    from cryptography import x509
    from cryptography.exceptions import UnsupportedAlgorithm

    data = read_file(path)
    try:
        first = x509.load_pem_x509_certificates(data)[0]
        names, uris = _names(first)
        kind = type(first.public_key()).__name__
    except (ValueError, IndexError, UnsupportedAlgorithm):
        hint = "expected PEM: -----BEGIN CERTIFICATE-----"
        if b"PRIVATE KEY" in data and b"BEGIN CERTIFICATE" not in data:
            hint = "that is a key"
        raise CertificateError(f"no certificate can be read from '{path}'", hint) from None
    return Certificate(names, uris, kind, first.not_valid_after_utc.timestamp())


def _names(certificate: x509.Certificate) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Host names (the common name only where there are no alternative names, RFC 6125 section 6.4.4) and URIs."""
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    try:
        san = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        common = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        return tuple(str(name.value).lower() for name in common), ()
    hosts = [name.lower() for name in san.get_values_for_type(x509.DNSName)]
    hosts += [str(address) for address in san.get_values_for_type(x509.IPAddress)]
    return tuple(hosts), tuple(san.get_values_for_type(x509.UniformResourceIdentifier))


def load_pair(context: ssl.SSLContext, cert: str, key: str) -> None:
    """A certificate with its chain, and its key. Raises CertificateError."""
    import ssl

    read_file(cert)
    _refuse_open_key(key)
    try:
        context.load_cert_chain(cert, key, _no_password)
    except ssl.SSLError as error:
        if error.reason in (
            "KEY_VALUES_MISMATCH",
            "NO_CERTIFICATE_ASSIGNED",
        ):  # another key of its kind, of another kind
            raise CertificateError(f"'{key}' is not the key of '{cert}'") from None
        raise CertificateError(f"no key can be read from '{key}'", _hint(error)) from None
    except OSError as error:
        raise CertificateError(f"cannot read '{cert}' and '{key}': {(error.strerror or str(error)).lower()}") from None


def load_ca(context: ssl.SSLContext, path: str) -> None:
    """The certificates of the CAs to trust. Raises CertificateError."""
    import ssl

    read_file(path)
    # Whoever lists an intermediate CA means it, and not all that its root has issued besides.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    try:
        context.load_verify_locations(path)
    except ssl.SSLError:
        raise CertificateError(f"no CA certificate can be read from '{path}'") from None
    except OSError as error:
        raise _unreadable(path, error) from None


def identity(path: str) -> Identity | None:
    """Of what the path leads to now, through all symlinks; None: nothing is there."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_ctime_ns


def read_file(path: str) -> bytes:
    """Raises CertificateError."""
    try:
        # Not to wait for whoever may write into a pipe one day: a worker loads files between two requests.
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            _refuse_odd_file(path, os.fstat(file))
            return os.read(file, MAX_FILE_BYTES)
        finally:
            os.close(file)
    except OSError as error:
        raise _unreadable(path, error) from None


def _refuse_odd_file(path: str, found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise CertificateError(f"'{path}' is not a regular file")
    if found.st_size > MAX_FILE_BYTES:
        raise CertificateError(f"'{path}' is larger than {MAX_FILE_BYTES // 1024 // 1024} MiB")


def _refuse_open_key(path: str) -> None:
    """One that everybody may read, or that others may replace."""
    try:
        found = os.stat(path)
    except OSError as error:
        raise _unreadable(path, error) from None
    _refuse_odd_file(path, found)
    mode = found.st_mode
    if mode & (stat.S_IROTH | stat.S_IWOTH | stat.S_IWGRP):
        verb = "read" if mode & stat.S_IROTH else "written"
        message = f"the key '{path}' may be {verb} by others (mode {stat.S_IMODE(mode):04o})"
        raise CertificateError(message, f"chmod o-rwx,g-w {path}")


def _unreadable(path: str, error: OSError) -> CertificateError:
    return CertificateError(f"cannot read '{path}': {(error.strerror or str(error)).lower()}")


def _no_password() -> str:
    raise CertificateError("the key is encrypted", "a proxy has nobody to ask: store it without a password")


def _hint(error: ssl.SSLError) -> str:
    return "expected PEM: -----BEGIN PRIVATE KEY-----" if error.reason in (None, "NO_START_LINE", "PEM") else ""
