"""Sessions that go on with another worker, and those that must not."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from hotproxy.config import model
from hotproxy.net.tls_handshake import NO_PEER_CERTIFICATE, UNVERIFIED
from hotproxy.net.tls_server import ServerTls
from hotproxy.net.tls_tickets import TicketKeys, why_not
from hotproxy.restarter.ticket_chain import PERIOD_S, TicketChain
from tests.kit.tls import NAME, Bench, Files, client_context

NOW_S = 1_700_000_000.0


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Files(tmp_path_factory.mktemp("tls"), NAME)


def worker(
    files: Files, wire: list[object], name: str = "web", ca: Path | None = None, required: bool = False
) -> tuple[ServerTls, TicketKeys]:
    keys = TicketKeys(TicketChain.from_wire(wire))
    config = model.ListenerTls(
        (model.CertificateFiles(str(files.cert), str(files.key)),),
        client_ca=str(ca) if ca is not None else None,
        require_client_certificate=required,
    )
    side = ServerTls(name, config)
    side.share_sessions(keys)
    return side, keys


def session(side: ServerTls, context: ssl.SSLContext, before: object = None) -> tuple[object, bool]:
    """A connection; its session for the next one, and whether it went on with `before`. Both sides must agree."""
    bench = Bench(side, context, session=before).shake()
    bench.open.write(b"x")
    bench.peer.read()
    assert bench.secure is not None
    assert bench.secure.info.reused == bench.peer.tls.session_reused
    found = bench.peer.tls.session, bool(bench.peer.tls.session_reused)
    bench.close()
    return found


def test_it_works_with_this_python() -> None:
    assert why_not() == ""


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_session_goes_on_with_another_worker(files: Files, version: ssl.TLSVersion) -> None:
    wire = TicketChain.new(NOW_S).to_wire()
    context = client_context()
    context.maximum_version = version
    first, reused = session(worker(files, wire)[0], context)
    assert not reused
    second, reused = session(worker(files, wire)[0], context, first)
    assert reused
    assert session(worker(files, wire)[0], context, second)[1]


def test_without_a_shared_secret_it_begins_anew(files: Files) -> None:
    context = client_context()
    first, _ = session(worker(files, TicketChain.new(NOW_S).to_wire())[0], context)
    assert not session(worker(files, TicketChain.new(NOW_S).to_wire())[0], context, first)[1]


def test_tickets_belong_to_a_listener_and_to_whom_it_believes(files: Files, tmp_path: Path) -> None:
    """A ticket that was given while another CA was trusted would let in who has no right to it any more."""
    wire = TicketChain.new(NOW_S).to_wire()
    other = Files(tmp_path, "other.example", number=1)
    context = client_context()
    first, _ = session(worker(files, wire, ca=files.ca)[0], context)
    assert session(worker(files, wire, ca=files.ca)[0], context, first)[1]
    assert not session(worker(files, wire, ca=other.ca)[0], context, first)[1]
    assert not session(worker(files, wire)[0], context, first)[1]
    assert not session(worker(files, wire, name="api", ca=files.ca)[0], context, first)[1]


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_who_came_without_a_certificate_while_he_might_does_not_come_back_when_one_is_required(
    files: Files, version: ssl.TLSVersion
) -> None:
    """OpenSSL asks for no certificate when a session goes on: his ticket let him in without one."""
    wire = TicketChain.new(NOW_S).to_wire()
    context = client_context()
    context.maximum_version = version
    first, _ = session(worker(files, wire, ca=files.ca)[0], context)
    bench = Bench(worker(files, wire, ca=files.ca, required=True)[0], context, session=first)
    try:
        bench.shake()
    except ssl.SSLError:  # with TLS 1.2 the client hears it within the handshake
        pass
    assert bench.failed == (NO_PEER_CERTIFICATE, "the peer gave no certificate")
    bench.close()


def test_a_certificate_that_is_trusted_no_more_opens_nothing_though_it_is_no_ca(files: Files, tmp_path: Path) -> None:
    """`client_ca` may list the clients' own certificates: each is trusted for itself."""
    wire = TicketChain.new(NOW_S).to_wire()
    ann = Files(tmp_path, "ann.example", common_name="ann", self_signed=True)
    bob = Files(tmp_path, "bob.example", common_name="bob", self_signed=True)
    both = tmp_path / "both.pem"
    both.write_bytes(ann.cert.read_bytes() + bob.cert.read_bytes())
    side, _ = worker(files, wire, ca=both, required=True)
    context = client_context(files=bob)
    first, _ = session(side, context)
    assert session(side, context, first)[1]
    both.write_bytes(ann.cert.read_bytes())
    side.reload()
    bench = Bench(side, context, session=first).shake()
    assert bench.failed is not None
    assert bench.failed[0] == UNVERIFIED
    bench.close()


def test_a_session_goes_on_as_the_client_that_it_began_with(files: Files, tmp_path: Path) -> None:
    wire = TicketChain.new(NOW_S).to_wire()
    context = client_context(files=Files(tmp_path, "ann.example"))
    first, _ = session(worker(files, wire, ca=files.ca)[0], context)
    bench = Bench(worker(files, wire, ca=files.ca)[0], context, session=first).shake()
    assert bench.secure is not None
    assert bench.secure.info.reused
    assert bench.secure.info.peer is not None
    assert bench.secure.info.peer.dns_names == ("ann.example",)
    bench.close()


def test_a_rotation_ends_sessions_and_begins_others_everywhere(files: Files) -> None:
    wire = TicketChain.new(NOW_S).to_wire()
    context = client_context()
    one, one_keys = worker(files, wire)
    two, two_keys = worker(files, wire)
    first, _ = session(one, context)
    assert one_keys.advance(NOW_S + PERIOD_S)
    one.use_tickets()
    second, reused = session(one, context, first)
    assert not reused
    assert two_keys.advance(NOW_S + PERIOD_S)
    two.use_tickets()
    assert session(two, context, second)[1]


def test_certificates_that_were_loaded_anew_keep_the_sessions(files: Files) -> None:
    side, _ = worker(files, TicketChain.new(NOW_S).to_wire())
    context = client_context()
    first, _ = session(side, context)
    side.reload()
    assert session(side, context, first)[1]
