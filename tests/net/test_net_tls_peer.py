"""Names in certificates: which of them is the name that somebody is known by."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from hotproxy.net.tls_peer import is_named, peer_certificate
from hotproxy.telemetry.tls_info import PeerCertificate
from tests.kit.tls import Files


def peer(directory: Path, *names: str) -> PeerCertificate:
    return peer_certificate(
        x509.load_pem_x509_certificate(Files(directory, *names, stem="x").cert.read_bytes()).public_bytes(
            serialization.Encoding.DER
        )
    )


@pytest.mark.parametrize(
    ("wanted", "given", "named"),
    [
        ("ann.example", "ann.example", True),
        ("ann.example", "Ann.EXAMPLE", True),
        ("ann.example", "bob.example", False),
        ("*.example", "ann.example", True),
        ("*.example", "a.ann.example", False),
        ("*.example", "example", False),
        ("*.example", "*.example", True),
        # what a certificate says of many hosts holds for each of them
        ("ann.example", "*.example", True),
        ("a.ann.example", "*.example", False),
        ("example", "*.example", False),
        ("*.ann.example", "*.example", False),
        ("10.0.0.1", "10.0.0.1", True),
        ("10.0.0.1", "10.0.0.2", False),
        ("10.0.0.1", "dns:10.0.0.1", False),
        ("10.0.0.1", "dns:*.0.0.1", False),
        ("2001:db8::1", "2001:db8::1", True),
        ("spiffe://example/ann", "spiffe://example/ann", True),
        ("spiffe://example/an", "spiffe://example/ann", False),
        ("spiffe://example/*", "spiffe://example/ann", True),
        ("urn:example:ann", "urn:example:ann", True),
        ("ann@example.com", "mailto:Ann@example.com", True),
        ("ann@example.com", "mailto:bob@example.com", False),
        # one kind of name is not taken for another
        ("*.example", "mailto:ann@mail.example", False),
        ("*.example", "spiffe://ann.example", False),
        ("*.example", "https://ann.example", False),
        ("ann.example", "mailto:ann.example", False),
        ("urn:example:ann", "dns:urn:example:ann", False),
        ("ann@example.com", "dns:ann@example.com", False),
    ],
)
def test_one_name(tmp_path: Path, wanted: str, given: str, named: bool) -> None:
    assert is_named(peer(tmp_path, given), [wanted]) is named
    assert is_named(peer(tmp_path, "other.test", given), ["nobody.test", wanted]) is named


def test_no_name_is_nobodys(tmp_path: Path) -> None:
    assert not is_named(peer(tmp_path, "ann.example"), [])
