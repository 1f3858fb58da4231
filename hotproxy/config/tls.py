"""The `tls` sections of listeners and clusters, nodes to model; certificate files are looked at where they stand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from hotproxy.config import model, scalars, shapes
from hotproxy.config.address import is_host_name, parse_ip
from hotproxy.config.certificate import CertificateError, load_ca, load_pair, read_certificate, read_file
from hotproxy.config.fields import NOT_YET, Fields
from hotproxy.config.scalars import ScalarError
from hotproxy.config.yaml_nodes import Node, Scalar, absolute

H2: Final = "h2"
HTTP_1_1: Final = "http/1.1"
# Mozilla's "intermediate" list, version 5.7, without the finite-field key exchange that needs a parameter file.
DEFAULT_CIPHERS: Final = (
    "ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-RSA-AES128-GCM-SHA256", "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-RSA-AES256-GCM-SHA384", "ECDHE-ECDSA-CHACHA20-POLY1305", "ECDHE-RSA-CHACHA20-POLY1305",
)  # fmt: skip
_VERSIONS: Final = ("TLSv1.2", "TLSv1.3")
_MAX_HANDSHAKES: Final = 1_000_000
# RFC 7301 section 3.1.
_MAX_PROTOCOL_BYTES: Final = 255


def read_listener_tls(fields: Fields, http: bool) -> model.ListenerTls | None:
    """The section `tls` of a listener; None when there is none, or it is unfit."""
    tls = fields.section("tls", shapes.LISTENER_TLS)
    if tls is None:
        return None
    certificates = _certificates(tls) if tls.need("certificates") else ()
    if not tls.has("client_ca"):
        tls.only_with("client_ca", "require_client_certificate", "client_san")
    low, high = _versions(tls)
    return model.ListenerTls(
        certificates=certificates,
        client_ca=_ca(tls, "client_ca"),
        require_client_certificate=tls.boolean("require_client_certificate", True),
        client_san=texts(tls, "client_san", san),
        alpn=_listener_alpn(tls, http),
        min_version=low,
        max_version=high,
        cipher_suites=_ciphers(tls),
        strict_sni=tls.boolean("strict_sni", False),
        handshake_timeout_s=tls.duration("handshake_timeout", model.DEFAULT_HANDSHAKE_TIMEOUT_S),
        max_handshakes=tls.integer("max_handshakes", model.DEFAULT_MAX_HANDSHAKES, 1, _MAX_HANDSHAKES),
    )


def read_cluster_tls(fields: Fields) -> model.ClusterTls | None:
    """The section `tls` of a cluster; None when there is none, or it is unfit."""
    tls = fields.section("tls", shapes.CLUSTER_TLS)
    if tls is None:
        return None
    low, high = _versions(tls)
    certificate = None
    if tls.has("certificate"):
        node = tls.get("certificate")
        assert node is not None
        certificate = _pair(tls, node, tls.at("certificate"))
    skip = tls.boolean("insecure_skip_verify", False)
    if skip:
        for other in ("ca", "san"):
            if tls.has(other):
                tls.error(tls.key(other), f"'{other}' has no effect with 'insecure_skip_verify: true'")
        place, where = tls.key("insecure_skip_verify"), tls.at("insecure_skip_verify")
        fields.reader.problems.warning(place, "the endpoints' certificates are not verified", "", where)
    return model.ClusterTls(
        ca=_ca(tls, "ca"),
        certificate=certificate,
        sni=tls.value("sni", _host) or "",
        san=texts(tls, "san", san),
        alpn=texts(tls, "alpn", _endpoint_protocol),
        min_version=low,
        max_version=high,
        cipher_suites=_ciphers(tls),
        insecure_skip_verify=skip,
    )


def _certificates(tls: Fields) -> tuple[model.CertificateFiles, ...]:
    pairs = [_pair(tls, item, where) for item, where in tls.items("certificates", "[{cert: a.pem, key: a.key}]")]
    return tuple(pair for pair in pairs if pair is not None)


def _pair(tls: Fields, node: Node, where: str) -> model.CertificateFiles | None:
    fields = tls.reader.section(node, shapes.CERTIFICATE, where)
    if fields is None or not fields.need("cert") or not fields.need("key"):
        return None
    cert, key = _path(fields, "cert"), _path(fields, "key")
    if cert is None or key is None:
        return None
    if not tls.reader.offline:
        is_there = _examine(fields, "cert", lambda: read_certificate(cert))
        _examine(fields, "key", (lambda: _load(cert, key)) if is_there else (lambda: read_file(key)))
    return model.CertificateFiles(cert, key)


def _load(cert: str, key: str) -> None:
    import ssl

    load_pair(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), cert, key)


def _ca(tls: Fields, name: str) -> str | None:
    path = _path(tls, name)
    if path is not None and not tls.reader.offline:
        _examine(tls, name, lambda: _load_ca(path))
    return path


def _load_ca(path: str) -> None:
    import ssl

    load_ca(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), path)


def _examine(fields: Fields, name: str, look: Callable[[], object]) -> bool:
    """Is the file that the field names what it should be?"""
    node = fields.get(name)
    assert node is not None
    if node.broken:
        return False
    try:
        look()
    except CertificateError as error:
        node.broken = True
        fields.error(node, str(error), error.hint, fields.at(name))
    return not node.broken


def _path(fields: Fields, name: str) -> str | None:
    node = fields.get(name)
    path = fields.value(name, scalars.plain_text)
    return None if node is None or path is None else absolute(node, path)


def _versions(tls: Fields) -> tuple[str, str]:
    low = tls.value("min_version", _version) or model.DEFAULT_MIN_VERSION
    high = tls.value("max_version", _version) or model.DEFAULT_MAX_VERSION
    if low > high:
        tls.error(tls.key("min_version"), f"no version lies between {low} and {high}", "", tls.at("min_version"))
    return low, high


def _version(text: str) -> str:
    named = text if text.startswith("TLSv") else f"TLSv{text}"
    named = named.replace("_", ".")
    if named not in _VERSIONS:
        why = "older versions are broken (RFC 8996)" if named in ("TLSv1", "TLSv1.0", "TLSv1.1") else ""
        raise ScalarError(f"'{text}' is not a TLS version that can be used", why or "'TLSv1.2' or 'TLSv1.3'")
    return named


def _ciphers(tls: Fields) -> tuple[str, ...]:
    return texts(tls, "cipher_suites", _cipher)


def _cipher(text: str) -> str:
    """By the names that OpenSSL has; names alone, for its language of ciphers can say more than anybody means."""
    import ssl

    if text.startswith("TLS_"):
        raise ScalarError(f"'{text}' is a suite of TLS 1.3", "all of them are on; the list is for TLS 1.2")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        if not text.replace("-", "").isalnum():
            raise ScalarError(f"'{text}' is not the name of a cipher", "for example 'ECDHE-RSA-AES128-GCM-SHA256'")
        context.set_ciphers(text)
    except ssl.SSLError:
        raise ScalarError(f"this OpenSSL has no cipher '{text}'", "`openssl ciphers` lists them") from None
    if text not in {str(cipher["name"]) for cipher in context.get_ciphers()}:
        raise ScalarError(f"'{text}' is not the name of a cipher", "for example 'ECDHE-RSA-AES128-GCM-SHA256'")
    return text


def _listener_alpn(tls: Fields, http: bool) -> tuple[str, ...]:
    if not http:
        return texts(tls, "alpn", _protocol)
    return texts(tls, "alpn", _client_protocol) if tls.has("alpn") else (HTTP_1_1,)


def _client_protocol(text: str) -> str:
    if text not in (H2, HTTP_1_1, "http/1.0"):
        raise ScalarError(
            f"'{text}' is not a protocol that is spoken here", "[h2, http/1.1]; 'http/1.1' is the default"
        )
    return text


def _endpoint_protocol(text: str) -> str:
    if text == H2:
        raise ScalarError(f"'h2' is {NOT_YET}", "'http/1.1' is the default")
    if text not in (HTTP_1_1, "http/1.0"):
        raise ScalarError(f"'{text}' is not a protocol that is spoken here", "'http/1.1' is the default")
    return text


def _protocol(text: str) -> str:
    if not text or len(text.encode()) > _MAX_PROTOCOL_BYTES or not text.isascii():
        raise ScalarError(f"'{text}' is not a protocol's name", "1 to 255 ASCII characters")
    return text


def san(text: str) -> str:
    """As `net.tls_peer.is_named` compares them."""
    if not text or not text.isascii() or any(char.isspace() for char in text):
        raise ScalarError(f"'{text}' is not a name in a certificate", "a host, '*.example.com', or a URI")
    if (address := parse_ip(text)) is not None:
        return str(address)
    return text if ":" in text else text.lower().removesuffix(".")


def _host(text: str) -> str:
    """Also an address, which is verified and not asked for."""
    if (address := parse_ip(text)) is not None:
        return str(address)
    if not text or not is_host_name(text):
        raise ScalarError(f"'{text}' is not the name of a host", "for example 'api.example.com'")
    return text.lower().removesuffix(".")  # RFC 6066 section 3: without the dot


def texts(fields: Fields, name: str, read: Callable[[str], str]) -> tuple[str, ...]:
    """A list of texts, or one alone."""
    node = fields.get(name)
    if node is None:
        return ()
    if isinstance(node, Scalar) and not node.is_null:
        found = [fields.reader.value(node, read, fields.at(name))]
    else:
        found = [fields.reader.value(item, read, where) for item, where in fields.items(name, "[...]")]
    return tuple(text for text in found if text is not None)
