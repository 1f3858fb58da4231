"""What comes with a client's certificate, as OpenSSL gives it after a real handshake."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from hotproxy.config import model
from hotproxy.net.tls_server import ServerTls
from hotproxy.telemetry.tls_info import PeerCertificate
from tests.kit.tls import NAME, Bench, Files, authority, client_context

VERSIONS = pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])


def met(directory: Path, context: ssl.SSLContext) -> PeerCertificate:
    """What a listener knows of a client with this context."""
    server = Files(directory, NAME)
    pair = model.CertificateFiles(str(server.cert), str(server.key))
    bench = Bench(ServerTls("web", model.ListenerTls((pair,), client_ca=str(server.ca))), context).shake()
    assert bench.secure is not None and bench.secure.info.peer is not None
    bench.close()
    return bench.secure.info.peer


@VERSIONS
def test_a_client_with_an_intermediate_ca_has_a_chain(tmp_path: Path, version: ssl.TLSVersion) -> None:
    issued = authority(0).create_child_ca().issue_cert("ann.example")
    context = client_context()
    context.maximum_version = version
    issued.configure_cert(context)
    peer = met(tmp_path, context)
    assert peer.chain.encode() == b"".join(each.bytes() for each in issued.cert_chain_pems)
    assert peer.chain.startswith(peer.pem) and peer.chain.count("BEGIN") == 2


@VERSIONS
def test_a_certificate_that_comes_alone_is_no_chain(tmp_path: Path, version: ssl.TLSVersion) -> None:
    """A client of OpenSSL adds the CA where it knows it; this one knows nobody."""
    ann = Files(tmp_path, "ann.example", stem="ann")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.maximum_version = version
    context.load_cert_chain(ann.cert, ann.key)
    assert met(tmp_path, context).chain == ""
