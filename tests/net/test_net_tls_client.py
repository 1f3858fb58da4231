"""Handshakes of the client's side: which endpoints are believed, and what is said about the others."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from hotproxy.config import model
from hotproxy.config.certificate import CertificateError
from hotproxy.net.tls_client import ClientTls
from hotproxy.net.tls_handshake import BROKEN, UNVERIFIED
from tests.kit.tls import NAME, Bench, Files, authority


def server(files: Files) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.cert, files.key)
    return context


def cluster(files: Files, **settings: object) -> ClientTls:
    return ClientTls(model.ClusterTls(**({"ca": str(files.ca)} | settings)))  # type: ignore[arg-type]


def shake(side: ClientTls, context: ssl.SSLContext, host: str = "10.0.0.1") -> Bench:
    bench = Bench(side.to(f"{host}:443", host), context)
    try:
        bench.shake()
    except ssl.SSLError:  # the alert of ours
        pass
    return bench


def failure(bench: Bench) -> tuple[int, str]:
    assert bench.failed is not None
    bench.close()
    return bench.failed


def test_the_name_is_verified_and_asked_for(tmp_path: Path) -> None:
    files = Files(tmp_path, NAME)
    asked: list[str | None] = []
    context = server(files)
    context.sni_callback = lambda _, name, __: asked.append(name)  # type: ignore[assignment]
    bench = shake(cluster(files, sni=NAME), context)
    assert bench.secure is not None
    assert asked == [NAME]
    bench.send(bench.peer.sealed(b"hello"))
    bench.open.write(b"answer")
    assert bench.owner.heard == [b"hello"]
    assert bench.peer.read() == b"answer"
    bench.close()


def test_without_a_name_it_is_the_endpoints_address_and_none_is_asked_for(tmp_path: Path) -> None:
    files = Files(tmp_path, "10.0.0.1", NAME)
    asked: list[str | None] = []
    context = server(files)
    context.sni_callback = lambda _, name, __: asked.append(name)  # type: ignore[assignment]
    bench = shake(cluster(files), context)
    assert bench.secure is not None
    assert asked == [None]
    bench.close()
    how, why = failure(shake(cluster(files), context, "10.0.0.2"))
    assert how == UNVERIFIED
    assert "10.0.0.2" in why


def test_a_link_local_address_is_verified_without_its_link(tmp_path: Path) -> None:
    files = Files(tmp_path, "fe80::1")
    asked: list[str | None] = []
    context = server(files)
    context.sni_callback = lambda _, name, __: asked.append(name)  # type: ignore[assignment]
    bench = shake(cluster(files), context, "fe80::1%eth0")
    assert bench.secure is not None, bench.failed
    assert asked == [None]
    bench.close()


def test_another_name_is_refused(tmp_path: Path) -> None:
    files = Files(tmp_path, NAME)
    how, why = failure(shake(cluster(files, sni="other.example"), server(files)))
    assert how == UNVERIFIED
    assert why.startswith("the peer's certificate is not accepted: Hostname mismatch")


def test_an_unknown_authority_is_refused(tmp_path: Path) -> None:
    files, other = Files(tmp_path, NAME), Files(tmp_path, NAME, stem="other", number=1)
    how, why = failure(shake(cluster(files, sni=NAME), server(other)))
    assert (how, why) == (
        UNVERIFIED,
        "the peer's certificate is not accepted: unable to get local issuer certificate",
    )


def test_by_default_it_is_the_system_that_is_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = Files(tmp_path, NAME)
    assert failure(shake(cluster(files, ca=None, sni=NAME), server(files)))[0] == UNVERIFIED
    monkeypatch.setenv("SSL_CERT_FILE", str(files.ca))  # OpenSSL's own word for the system's CAs
    bench = shake(cluster(files, ca=None, sni=NAME), server(files))
    assert bench.secure is not None
    bench.close()


def test_an_expired_certificate_is_refused(tmp_path: Path) -> None:
    files = Files(tmp_path, NAME, days=-1)
    how, why = failure(shake(cluster(files, sni=NAME), server(files)))
    assert (how, why) == (UNVERIFIED, "the peer's certificate is not accepted: certificate has expired")


@pytest.mark.parametrize(
    ("san", "permitted"),
    [
        ((NAME,), True),
        (("other.example", "*.example"), True),
        (("spiffe://example/api",), True),
        (("spiffe://example/*",), True),
        (("other.example",), False),
        (("spiffe://example/ap",), False),
    ],
)
def test_names_of_ones_own(tmp_path: Path, san: tuple[str, ...], permitted: bool) -> None:
    files = Files(tmp_path, NAME, "spiffe://example/api")
    side = cluster(files, sni="whatever.example", san=san)
    bench = shake(side, server(files))
    assert bench.secure is not None
    assert side.permits(bench.secure.info) is permitted
    bench.close()


def test_names_of_ones_own_do_not_spare_the_authority(tmp_path: Path) -> None:
    files, other = Files(tmp_path, NAME), Files(tmp_path, NAME, stem="other", number=1)
    assert failure(shake(cluster(files, san=(NAME,)), server(other)))[0] == UNVERIFIED


def test_not_to_verify_takes_a_word(tmp_path: Path) -> None:
    files = Files(tmp_path, "other.example", number=1)
    bench = shake(cluster(files, ca=None, sni=NAME, insecure_skip_verify=True), server(files))
    assert bench.secure is not None
    bench.close()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_session_goes_on(tmp_path: Path, version: ssl.TLSVersion) -> None:
    files = Files(tmp_path, NAME)
    side, context = cluster(files, sni=NAME), server(files)
    context.maximum_version = version
    reused = []
    for _ in range(3):
        bench = shake(side, context)
        bench.send(bench.peer.sealed(b"with tickets"))
        assert bench.secure is not None
        reused.append(bench.secure.info.reused)
        bench.close()
    assert reused == [False, True, True]
    side.reload()
    bench = shake(side, context)
    assert bench.secure is not None
    assert not bench.secure.info.reused
    bench.close()


def test_each_endpoint_has_a_session_of_its_own(tmp_path: Path) -> None:
    """All endpoints of a cluster may have one name, and two of them, asked in turn, would throw each other's away."""
    files = Files(tmp_path, NAME)
    side = cluster(files, sni=NAME)
    contexts = {"10.0.0.1": server(files), "10.0.0.2": server(files)}  # neither can open the other's tickets
    reused = []
    for host in [*contexts, *contexts]:
        bench = shake(side, contexts[host], host)
        bench.send(bench.peer.sealed(b"with tickets"))
        assert bench.secure is not None
        reused.append(bench.secure.info.reused)
        bench.close()
    assert reused == [False, False, True, True]


def test_a_handshake_that_began_before_a_reload_leaves_no_session(tmp_path: Path) -> None:
    """Its session belongs to the context of before, and Python refuses it with the new one: no connection to this
    endpoint could be made any more."""
    files = Files(tmp_path, NAME)
    side, context = cluster(files, sni=NAME), server(files)
    bench = Bench(side.to("10.0.0.1:443", "10.0.0.1"), context)
    bench.handshake.start(10.0)
    bench.loop.run()
    side.reload()
    for _ in range(5):
        bench.peer.step()
        bench.send(bench.peer.said())
    assert bench.secure is not None
    bench.close()
    bench = shake(side, context)
    assert bench.secure is not None
    assert not bench.secure.info.reused
    bench.close()


def test_our_own_certificate_is_shown_and_may_change(tmp_path: Path) -> None:
    files, ours = Files(tmp_path, NAME), Files(tmp_path, "us.example")
    context = server(files)
    context.verify_mode = ssl.CERT_REQUIRED
    authority(0).configure_trust(context)
    own = model.CertificateFiles(str(ours.cert), str(ours.key))
    side = cluster(files, sni=NAME, certificate=own)
    bench = shake(side, context)
    assert bench.peer.tls.getpeercert()["subjectAltName"] == (("DNS", "us.example"),)  # type: ignore[index]
    bench.close()
    assert not side.changed
    Files(tmp_path, "we.example", stem="us.example")
    assert side.changed
    side.reload()
    bench = shake(side, context)
    assert bench.peer.tls.getpeercert()["subjectAltName"] == (("DNS", "we.example"),)  # type: ignore[index]
    bench.close()
    ours.key.write_text("nonsense")
    with pytest.raises(CertificateError, match="no key can be read"):
        side.reload()
    bench = shake(side, context)
    assert bench.secure is not None
    bench.close()


def test_an_endpoint_that_is_not_tls_is_told_in_words(tmp_path: Path) -> None:
    files = Files(tmp_path, NAME)
    bench = Bench(cluster(files, sni=NAME).to("unix:/x", ""), server(files))
    bench.handshake.start(10.0)
    bench.loop.run()
    bench.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    assert failure(bench) == (BROKEN, "the peer sent something that is not TLS")


@pytest.mark.parametrize("moment", ["begun", "answered"])
def test_it_can_stand_still(tmp_path: Path, moment: str) -> None:
    """A request that waits for a connection may be asked to move, and stay after all."""
    files = Files(tmp_path, NAME)
    bench = Bench(cluster(files, sni=NAME).to("unix:/x", ""), server(files))
    bench.handshake.start(10.0)
    bench.loop.run()
    if moment == "answered":
        bench.peer.step()
    bench.handshake.freeze()
    assert not bench.loop.readers and not bench.loop.writers
    bench.peer.sock.sendall(bench.peer.said())
    bench.pass_time(9.0)
    assert bench.failed is None and bench.connection is None
    bench.handshake.thaw()
    for _ in range(5):
        bench.loop.run()
        bench.peer.step()
        bench.send(bench.peer.said())
    assert bench.connection is not None
    bench.close()
