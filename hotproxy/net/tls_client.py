"""A cluster's side of TLS: whom it believes, how it proves who we are, and the sessions that it goes on with.

The endpoint's certificate is verified against `ca` (the system's CAs by default) and against a name: `san`, else `sni`,
else the endpoint's own address. `insecure_skip_verify` is the only way not to.
"""

from __future__ import annotations

import ssl

from hotproxy.config import model
from hotproxy.config.certificate import load_ca, load_pair, read_certificate
from hotproxy.net.tls_files import FromFiles
from hotproxy.net.tls_peer import is_named, peer_certificate
from hotproxy.net.tls_settings import new_context
from hotproxy.telemetry.tls_info import TlsInfo


class ClientTls(FromFiles):
    """Of one cluster; `to` gives the side of a handshake with an endpoint. Raises CertificateError."""

    __slots__ = ("_config", "_context", "_last")

    def __init__(self, config: model.ClusterTls) -> None:
        self._config = config
        # By endpoint, the newest connection: its tickets come when the handshake is long over.
        self._last: dict[str, ssl.SSLObject] = {}
        own = [] if config.certificate is None else [config.certificate.cert, config.certificate.key]
        super().__init__(own if config.ca is None else [*own, config.ca])

    def _take(self) -> None:
        self._context = self._load()
        self._last.clear()  # sessions belong to a context, and to what was believed then

    def _load(self) -> ssl.SSLContext:
        config = self._config
        context = new_context(False, config.min_version, config.max_version, config.cipher_suites, config.alpn)
        context.check_hostname = False
        if config.insecure_skip_verify:
            context.verify_mode = ssl.CERT_NONE
        elif config.ca is not None:
            load_ca(context, config.ca)
        else:
            context.load_default_certs()
        if config.certificate is not None:
            read_certificate(config.certificate.cert)
            load_pair(context, config.certificate.cert, config.certificate.key)
        context.check_hostname = not config.insecure_skip_verify and not config.san
        return context

    # -- handshakes

    def to(self, endpoint: str, host: str) -> EndpointTls:
        """`endpoint`: as whom it is remembered; `host`: its address, "" for a unix socket."""
        # The link of a link-local address is ours to know, and in no certificate (RFC 4007 section 11.2).
        return EndpointTls(self, endpoint, self._config.sni or host.partition("%")[0])

    def wrap(self, endpoint: str, name: str, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO) -> ssl.SSLObject:
        before = self._last.get(endpoint)
        session = before.session if before is not None else None
        return self._context.wrap_bio(incoming, outgoing, False, name or None, session)

    def keep(self, endpoint: str, done: ssl.SSLObject) -> None:
        if done.context is self._context:  # and did not begin before a reload: see `_take`
            self._last[endpoint] = done

    def permits(self, info: TlsInfo) -> bool:
        """Is the endpoint one of those that `san` names?"""
        config = self._config
        if not config.san or config.insecure_skip_verify:
            return True
        return info.peer is not None and is_named(info.peer, config.san)

    @property
    def reads_certificate(self) -> bool:
        return bool(self._config.san)


class EndpointTls:
    """A `HandshakeSide`: one handshake with one endpoint."""

    __slots__ = ("_cluster", "_endpoint", "_name")

    def __init__(self, cluster: ClientTls, endpoint: str, name: str) -> None:
        self._cluster = cluster
        self._endpoint = endpoint
        self._name = name

    def wrap(self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO) -> ssl.SSLObject:
        return self._cluster.wrap(self._endpoint, self._name, incoming, outgoing)

    def info(self, done: ssl.SSLObject) -> TlsInfo:
        cipher = done.cipher()
        der = done.getpeercert(binary_form=True) if self._cluster.reads_certificate else None
        info = TlsInfo(
            version=done.version() or "",
            cipher=cipher[0] if cipher is not None else "",
            server_name=self._name,
            alpn=done.selected_alpn_protocol() or "",
            reused=bool(done.session_reused),
            peer=peer_certificate(der) if der else None,
        )
        self._cluster.keep(self._endpoint, done)
        return info

    def permits(self, info: TlsInfo) -> bool:
        return self._cluster.permits(info)
