"""A listener's side of TLS: its certificates by name, whom it believes, and the contexts that follow from both.

    the name asked for (SNI) -> exact -> *.one-label-less -> the first certificate      (or an alert: `strict_sni`)

Certificates of different key types for the same name stand side by side in one context; OpenSSL takes the one that the
client can verify. Contexts are made anew when a file changes, and replaced whole.
"""

from __future__ import annotations

import hashlib
import ssl
from dataclasses import dataclass

from hotproxy.config import model
from hotproxy.config.certificate import load_ca, load_pair, read_certificate, read_file
from hotproxy.net.tls_chain import with_chain
from hotproxy.net.tls_files import FromFiles
from hotproxy.net.tls_peer import is_named, peer_certificate
from hotproxy.net.tls_settings import new_context
from hotproxy.net.tls_tickets import TicketKeys
from hotproxy.telemetry.tls_info import TlsInfo


class ServedObject(ssl.SSLObject):
    """With the name that the client has asked for, which Python tells once, in a callback."""

    asked: str = ""


@dataclass(slots=True)
class _Loaded:
    """All that the files have given."""

    default: ssl.SSLContext
    by_name: dict[str, ssl.SSLContext]
    uris: dict[ssl.SSLContext, str]  # of all contexts: the first URI in the certificates of each
    ticket_scope: bytes


class ServerTls(FromFiles):
    """A `HandshakeSide`. Raises CertificateError when a file is not fit to use."""

    __slots__ = ("_config", "_loaded", "_name", "_tickets", "handshake_timeout_s", "max_handshakes")

    def __init__(self, name: str, config: model.ListenerTls) -> None:
        self.handshake_timeout_s = config.handshake_timeout_s
        self.max_handshakes = config.max_handshakes
        self._name = name
        self._config = config
        self._tickets: TicketKeys | None = None
        paths = [path for pair in config.certificates for path in (pair.cert, pair.key)]
        super().__init__(paths if config.client_ca is None else [*paths, config.client_ca])

    def _take(self) -> None:
        self._loaded = self._load()

    def share_sessions(self, tickets: TicketKeys) -> None:
        """With whoever else has these keys; without them OpenSSL makes up some of its own."""
        self._tickets = tickets
        self.use_tickets()

    def use_tickets(self) -> None:
        """The ticket keys have changed."""
        self._key_tickets(self._loaded)

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
        uris = {
            context: next((uri for index in indexes for uri in certificates[index].uris), "")
            for indexes, context in made.items()
        }
        loaded = _Loaded(default, chosen, uris, self._ticket_scope())
        self._key_tickets(loaded)
        return loaded

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
        made[indexes] = context
        return context

    def _ticket_scope(self) -> bytes:
        """A session that began when somebody else was trusted, or nobody had to show a certificate, does not go on.

        By the file's bytes: what Python tells of a context leaves out trusted certificates that are no CA's.
        """
        ca = self._config.client_ca
        trusted = hashlib.sha256(read_file(ca)).digest() if ca is not None else b""
        required = b"required" if self._config.require_client_certificate else b"optional"
        return b"\0".join((self._name.encode(), trusted, required))

    def _key_tickets(self, loaded: _Loaded) -> None:
        if self._tickets is not None:
            for context in loaded.uris:
                self._tickets.give(context, loaded.ticket_scope)

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
            # "": the files were loaded anew in the middle of this handshake
            local_uri=self._loaded.uris.get(done.context, ""),
        )

    def permits(self, info: TlsInfo) -> bool:
        """Is the client's certificate one of those that `client_san` names?"""
        wanted = self._config.client_san
        return not wanted or info.peer is None or is_named(info.peer, wanted)
