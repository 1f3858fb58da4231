"""A listener's side of TLS: its certificates by name, whom it believes, and the contexts that follow from both.

    the name asked for (SNI) -> exact -> *.one-label-less -> the first certificate      (or an alert: `strict_sni`)

Certificates of different key types for the same name stand side by side in one context; OpenSSL takes the one that the
client can verify. Contexts are made anew when a file changes, and replaced whole.
"""

from __future__ import annotations

import hashlib
import ssl
from collections.abc import Iterable
from dataclasses import dataclass

from hotproxy.config import model
from hotproxy.config.certificate import Certificate, load_ca, load_pair, read_certificate
from hotproxy.net.tls_chain import with_chain
from hotproxy.net.tls_files import FromFiles
from hotproxy.net.tls_peer import peer_certificate, san_matches
from hotproxy.net.tls_settings import new_context
from hotproxy.net.tls_tickets import TicketKeys
from hotproxy.telemetry.tls_info import TlsInfo


class ServedObject(ssl.SSLObject):
    """With the name that the client has asked for, which Python tells once, in a callback."""

    asked: str = ""


@dataclass(slots=True)
class _Loaded:
    """All that the files have given."""

    certificates: list[Certificate]
    default: ssl.SSLContext
    by_name: dict[str, ssl.SSLContext]
    contexts: list[ssl.SSLContext]


class ServerTls(FromFiles):
    """A `HandshakeSide`. Raises CertificateError when a file is not fit to use."""

    __slots__ = ("_config", "_loaded", "_name", "_tickets", "handshake_timeout_s", "max_handshakes")

    def __init__(self, name: str, config: model.ListenerTls, tickets: TicketKeys | None = None) -> None:
        self.handshake_timeout_s = config.handshake_timeout_s
        self.max_handshakes = config.max_handshakes
        self._name = name
        self._config = config
        self._tickets = tickets
        paths = [path for pair in config.certificates for path in (pair.cert, pair.key)]
        super().__init__(paths if config.client_ca is None else [*paths, config.client_ca])

    def _take(self) -> None:
        self._loaded = self._load()

    @property
    def not_after_s(self) -> float:
        """When the first certificate expires, in seconds since 1970."""
        return min(certificate.not_after_s for certificate in self._loaded.certificates)

    def use_tickets(self) -> None:
        """The ticket keys have changed."""
        for context in self._loaded.contexts:
            self._key_tickets(context)

    def _load(self) -> _Loaded:
        config = self._config
        certificates = [read_certificate(pair.cert) for pair in config.certificates]
        by_name: dict[str, list[int]] = {}
        for index, certificate in enumerate(certificates):
            for name in certificate.names:
                beside = by_name.setdefault(name, [])
                if all(certificates[other].kind != certificate.kind for other in beside):
                    beside.append(index)
        made: dict[tuple[int, ...], ssl.SSLContext] = {}
        chosen = {name: self._context(tuple(indexes), made) for name, indexes in by_name.items()}
        first = certificates[0].names
        default = chosen[first[0]] if first else self._context((0,), made)
        default.sni_callback = self._choose  # type: ignore[assignment]
        return _Loaded(certificates, default, chosen, list(made.values()))

    def _context(self, indexes: tuple[int, ...], made: dict[tuple[int, ...], ssl.SSLContext]) -> ssl.SSLContext:
        if indexes in made:
            return made[indexes]
        config = self._config
        context = new_context(True, config.min_version, config.max_version, config.cipher_suites, config.alpn)
        context.sslobject_class = ServedObject
        for index in indexes:
            pair = config.certificates[index]
            load_pair(context, pair.cert, pair.key)
        if config.client_ca is not None:
            load_ca(context, config.client_ca)
            context.verify_mode = ssl.CERT_REQUIRED if config.require_client_certificate else ssl.CERT_OPTIONAL
        self._key_tickets(context)
        made[indexes] = context
        return context

    def _key_tickets(self, context: ssl.SSLContext) -> None:
        """A session that began when another CA was trusted does not go on."""
        if self._tickets is not None:
            ca = hashlib.sha256(b"".join(sorted(context.get_ca_certs(binary_form=True)))).digest()
            self._tickets.give(context, self._name.encode() + b"\0" + ca)

    # -- handshakes

    def wrap(self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO) -> ssl.SSLObject:
        return self._loaded.default.wrap_bio(incoming, outgoing, server_side=True)

    def _choose(self, served: ServedObject, asked: str | None, context: ssl.SSLContext) -> int | None:
        """For OpenSSL, in the middle of a handshake: the context for a name."""
        loaded = self._loaded
        name = (asked or "").lower().removesuffix(".")
        served.asked = name
        found = loaded.by_name.get(name) or loaded.by_name.get(f"*.{name.partition('.')[2]}")
        if found is not None and name:
            served.context = found
        elif self._config.strict_sni:
            return ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME
        return None

    def info(self, done: ssl.SSLObject) -> TlsInfo:
        config, cipher = self._config, done.cipher()
        der = done.getpeercert(binary_form=True) if config.client_ca is not None else None
        return TlsInfo(
            version=done.version() or "",
            cipher=cipher[0] if cipher is not None else "",
            server_name=getattr(done, "asked", ""),
            alpn=done.selected_alpn_protocol() or "",
            reused=bool(done.session_reused),
            peer=with_chain(peer_certificate(der), done) if der else None,
            local_uri=next((uri for certificate in self._loaded.certificates for uri in certificate.uris), ""),
        )

    def permits(self, info: TlsInfo) -> bool:
        """Is the client's certificate one of those that `client_san` names?"""
        wanted = self._config.client_san
        return not wanted or info.peer is None or _any_matches(wanted, info.peer.sans)


def _any_matches(wanted: Iterable[str], sans: Iterable[str]) -> bool:
    return any(san_matches(pattern, san) for san in sans for pattern in wanted)
