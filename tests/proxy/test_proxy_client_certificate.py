"""Who the client has proven to be, on its way to the origin, to routes and to the log."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest

from hotproxy.config import model
from hotproxy.config.model import DirectResponse, ForwardedCertificate, Route, VirtualHost
from hotproxy.http.codec import HTTP_1_1, RequestHead
from hotproxy.http.headers import Headers
from hotproxy.proxy import forwarding
from hotproxy.proxy.client_certificate import client_certificate
from hotproxy.proxy.route import RouteTable
from hotproxy.telemetry.log_format import LogFormat
from hotproxy.telemetry.stream_info import StreamInfo
from hotproxy.telemetry.tls_info import PeerCertificate, TlsInfo
from tests.kit.phrases import GET
from tests.kit.playbook import Playbook

ANN = PeerCertificate(
    subject="CN=ann,O=Example",
    issuer="CN=ca",
    serial="2a",
    sha256="ab" * 32,
    uris=("spiffe://example/ann",),
    dns_names=("ann.example", "www.ann.example"),
    emails=("ann@example",),
    addresses=("10.0.0.1",),
    not_after="2030-01-01T00:00:00.000Z",
    pem="PEM",
)
TLS = TlsInfo("TLSv1.3", "TLS_AES_256_GCM_SHA384", "web.example", "http/1.1", peer=ANN, local_uri="spiffe://example/us")


def shown(**changes: object) -> bytes:
    return client_certificate(dataclasses.replace(TLS, peer=dataclasses.replace(ANN, **changes)))  # type: ignore[arg-type]


def test_it_is_envoys_format() -> None:
    assert client_certificate(TLS) == (
        b"By=spiffe://example/us;Hash=" + b"ab" * 32 + b';Subject="CN=ann,O=Example"'
        b";URI=spiffe://example/ann;DNS=ann.example;DNS=www.ann.example"
    )


def test_what_a_certificate_lacks_is_left_out() -> None:
    bare = dataclasses.replace(TLS, local_uri="", peer=dataclasses.replace(ANN, uris=(), dns_names=()))
    assert client_certificate(bare) == b"Hash=" + b"ab" * 32 + b';Subject="CN=ann,O=Example"'


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"subject": 'CN=a"b'}, rb'Subject="CN=a\"b"'),
        ({"subject": "CN=a\\,b"}, rb'Subject="CN=a\\,b"'),
        ({"subject": "CN=a\r\nx-admin: 1"}, b'Subject="CN=a??x-admin: 1"'),
        ({"uris": ("spiffe://a;Hash=1",)}, b'URI="spiffe://a;Hash=1"'),
        ({"uris": ("spiffe://a\r\nx: 1",)}, b'URI="spiffe://a??x: 1"'),
        ({"dns_names": ("a,b",)}, b'DNS="a,b"'),
    ],
)
def test_a_certificate_cannot_say_more_than_itself(changes: dict[str, object], part: bytes) -> None:
    """Its names are whatever its authority has signed: they end no field and begin none."""
    assert part in shown(**changes)
    assert b"\n" not in shown(**changes)


@pytest.mark.parametrize(
    ("parts", "shown"),
    [
        (("subject",), b'Subject="CN=ann,O=Example"'),
        (("uri",), b"URI=spiffe://example/ann"),
        (("dns",), b"DNS=ann.example;DNS=www.ann.example"),
        (("cert",), b'Cert="-----BEGIN%20A%2BB%3D%0A"'),
        (("chain",), b'Chain="-----BEGIN%20A%2BB%3D%0A-----BEGIN%20CA%0A"'),
        ((), b""),
        (("cert", "subject"), b'Cert="-----BEGIN%20A%2BB%3D%0A";Subject="CN=ann,O=Example"'),
    ],
)
def test_its_parts_are_chosen(parts: tuple[str, ...], shown: bytes) -> None:
    """By and Hash are always there; the order is Envoy's, and what is in PEM is encoded as in a URL."""
    pem = "-----BEGIN A+B=\n"
    tls = dataclasses.replace(TLS, peer=dataclasses.replace(ANN, pem=pem, chain=pem + "-----BEGIN CA\n"))
    every = {name: name in parts for name in ("subject", "uri", "dns", "cert", "chain")}
    expected = b"By=spiffe://example/us;Hash=" + b"ab" * 32
    assert client_certificate(tls, ForwardedCertificate(**every)) == expected + (b";" + shown if shown else b"")


def test_where_the_chain_is_not_known_it_is_the_certificate() -> None:
    assert client_certificate(TLS, ForwardedCertificate(chain=True)).count(b'Chain="PEM"') == 1


def forwarded(tls: TlsInfo | None, details: str = model.SANITIZE_SET, *claims: bytes) -> Headers:
    head = RequestHead(
        b"GET", b"/", HTTP_1_1, Headers([(b"X-Forwarded-Client-Cert", claim) for claim in claims or (b"Hash=mine",)])
    )
    assert forwarding.decode_headers(head, b"10.0.0.9", b"ID", tls, ForwardedCertificate(details))
    return head.headers


OURS = client_certificate(TLS)


@pytest.mark.parametrize(
    ("details", "with_certificate", "without"),
    [
        (model.SANITIZE, [], []),
        (model.SANITIZE_SET, [OURS], []),
        (model.APPEND_FORWARD, [b"Hash=a,Hash=b," + OURS], []),
        (model.FORWARD_ONLY, [b"Hash=a", b"Hash=b"], []),
        (model.ALWAYS_FORWARD_ONLY, [b"Hash=a", b"Hash=b"], [b"Hash=a", b"Hash=b"]),
    ],
)
def test_the_modes_are_envoys(details: str, with_certificate: list[bytes], without: list[bytes]) -> None:
    claims = (b"Hash=a", b"Hash=b")
    assert forwarded(TLS, details, *claims).get_all(b"x-forwarded-client-cert") == with_certificate
    for tls in (dataclasses.replace(TLS, peer=None), None):
        assert forwarded(tls, details, *claims).get_all(b"x-forwarded-client-cert") == without


def test_nothing_sent_is_nothing_to_append_to() -> None:
    head = RequestHead(b"GET", b"/", HTTP_1_1, Headers())
    forwarding.decode_headers(head, b"10.0.0.9", b"ID", TLS, ForwardedCertificate(model.APPEND_FORWARD))
    assert head.headers.get_all(b"x-forwarded-client-cert") == [OURS]


@pytest.mark.parametrize("details", [model.SANITIZE, model.ALWAYS_FORWARD_ONLY])
def test_a_name_that_only_an_underscore_tells_apart_never_passes(details: str) -> None:
    head = RequestHead(b"GET", b"/", HTTP_1_1, Headers([(b"X_Forwarded_Client_Cert", b"Hash=mine")]))
    forwarding.decode_headers(head, b"10.0.0.9", b"ID", None, ForwardedCertificate(details))
    assert not head.headers.has(b"x_forwarded_client_cert")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        (b"x-forwarded-client-cert", "Hash=admin"),
        (b"x-forwarded-for", "10.0.0.1"),
        (b"x-forwarded-proto", "https"),
        (b"x-envoy-internal", "true"),
        (b"x-request-id", "mine"),
    ],
)
def test_no_route_is_chosen_by_what_a_client_says_of_itself(
    book: Callable[..., Playbook], field: bytes, value: str
) -> None:
    """Header matchers saw the request as it came: a claim that no endpoint would have been told opened their route."""
    secret = Route("secret", prefix="/", headers=((field.decode(), value),), direct_response=DirectResponse(200))
    play = book(routes=[secret, Route("rest", prefix="/", direct_response=DirectResponse(403))])
    request = GET[:-2] + field + b": " + value.encode() + b"\r\n\r\n"
    (_, said), *_ = play(("down", request))
    assert isinstance(said, bytes) and said.startswith(b"HTTP/1.1 403 ")
    assert play.log.infos[0].route == "rest"


def test_a_clients_own_claim_never_gets_through() -> None:
    assert forwarded(TLS).get_all(b"x-forwarded-client-cert") == [client_certificate(TLS)]
    assert not forwarded(dataclasses.replace(TLS, peer=None)).has(b"x-forwarded-client-cert")
    assert not forwarded(None).has(b"x-forwarded-client-cert")


def test_the_origin_learns_that_it_was_tls() -> None:
    assert forwarded(TLS).get(b"x-forwarded-proto") == b"https"
    assert forwarded(None).get(b"x-forwarded-proto") == b"http"


@pytest.mark.parametrize(
    ("match", "tls", "fits"),
    [
        ({"client_subject": "CN=ann,O=Example"}, TLS, True),
        ({"client_subject": "CN=ann"}, TLS, False),
        ({"client_san": ("spiffe://example/*",)}, TLS, True),
        ({"client_san": ("bob.example", "*.ann.example")}, TLS, True),
        ({"client_san": ("ann@example",)}, TLS, True),
        ({"client_san": ("10.0.0.1",)}, TLS, True),
        ({"client_san": ("bob.example",)}, TLS, False),
        ({"client_san": ("ann.example",), "client_subject": "CN=bob"}, TLS, False),
        ({"client_san": ("ann.example",)}, dataclasses.replace(TLS, peer=None), False),
        ({"client_san": ("ann.example",)}, None, False),
    ],
)
def test_routes_by_certificate(match: dict[str, object], tls: TlsInfo | None, fits: bool) -> None:
    routes = (Route("known", prefix="/", **match), Route("rest", prefix="/"))  # type: ignore[arg-type]
    head = RequestHead(b"GET", b"/", HTTP_1_1, Headers([(b"x-forwarded-client-cert", b"DNS=ann.example")]))
    found = RouteTable([VirtualHost("host", ("*",), routes)]).find(b"a", b"/", head, tls)
    assert found is not None
    assert (found.name == "known") is fits


@pytest.mark.parametrize(
    ("operator", "text", "without"),
    [
        ("DOWNSTREAM_TLS_VERSION", "TLSv1.3", "-"),
        ("DOWNSTREAM_TLS_CIPHER", "TLS_AES_256_GCM_SHA384", "-"),
        ("DOWNSTREAM_PEER_SUBJECT", "CN=ann,O=Example", "-"),
        ("DOWNSTREAM_PEER_ISSUER", "CN=ca", "-"),
        ("DOWNSTREAM_PEER_SERIAL", "2a", "-"),
        ("DOWNSTREAM_PEER_FINGERPRINT_256", "ab" * 32, "-"),
        ("DOWNSTREAM_PEER_URI_SAN", "spiffe://example/ann", "-"),
        ("DOWNSTREAM_PEER_DNS_SAN", "ann.example,www.ann.example", "-"),
        ("DOWNSTREAM_PEER_CERT_V_END", "2030-01-01T00:00:00.000Z", "-"),
    ],
)
def test_the_access_log_has_it(operator: str, text: str, without: str) -> None:
    log_format = LogFormat.compile(f"%{operator}%")
    info = StreamInfo()
    assert log_format.render(info) == f"{without}\n".encode()
    info.tls = TLS
    assert log_format.render(info) == f"{text}\n".encode()
