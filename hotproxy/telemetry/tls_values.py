"""The access log's values of a TLS connection and of the client's certificate: "" where there is none."""

from __future__ import annotations

from hotproxy.telemetry.stream_info import StreamInfo


def version(info: StreamInfo) -> str:
    return info.tls.version if info.tls is not None else ""


def cipher(info: StreamInfo) -> str:
    return info.tls.cipher if info.tls is not None else ""


def subject(info: StreamInfo) -> str:
    return info.tls.peer.subject if info.tls is not None and info.tls.peer is not None else ""


def issuer(info: StreamInfo) -> str:
    return info.tls.peer.issuer if info.tls is not None and info.tls.peer is not None else ""


def serial(info: StreamInfo) -> str:
    return info.tls.peer.serial if info.tls is not None and info.tls.peer is not None else ""


def fingerprint(info: StreamInfo) -> str:
    return info.tls.peer.sha256 if info.tls is not None and info.tls.peer is not None else ""


def uris(info: StreamInfo) -> str:
    return ",".join(info.tls.peer.uris) if info.tls is not None and info.tls.peer is not None else ""


def dns_names(info: StreamInfo) -> str:
    return ",".join(info.tls.peer.dns_names) if info.tls is not None and info.tls.peer is not None else ""


def not_after(info: StreamInfo) -> str:
    return info.tls.peer.not_after if info.tls is not None and info.tls.peer is not None else ""
