"""Certificate files that change under a running listener."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hotproxy.config import model
from hotproxy.config.certificate import CertificateError
from hotproxy.net.tls_server import ServerTls
from tests.kit.tls import NAME, Bench, Files, client_context


def side(cert: Path, key: Path, **settings: object) -> ServerTls:
    return ServerTls("web", model.ListenerTls((model.CertificateFiles(str(cert), str(key)),), **settings))  # type: ignore[arg-type]


def shown(server: ServerTls) -> str:
    """The serial number that a client sees."""
    bench = Bench(server, client_context()).shake()
    found = bench.peer.tls.getpeercert()
    bench.close()
    assert found is not None
    return str(found["serialNumber"])


def test_a_renamed_file_is_seen(tmp_path: Path) -> None:
    files = Files(tmp_path, NAME)
    server = side(files.cert, files.key)
    before = shown(server)
    assert not server.changed
    other = Files(tmp_path, NAME, stem="new")
    other.cert.rename(files.cert)
    other.key.rename(files.key)
    assert server.changed
    assert shown(server) == before  # nothing happens by itself
    server.reload()
    assert not server.changed
    assert shown(server) != before


def test_a_swapped_link_is_seen(tmp_path: Path) -> None:
    """Kubernetes: `tls.crt` -> `..data/tls.crt`, and `..data` is a link that is replaced; certbot: live -> archive."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        Files(tmp_path / name, NAME, stem="tls")
    (tmp_path / "data").symlink_to("one")
    (tmp_path / "tls.pem").symlink_to("data/tls.pem")
    (tmp_path / "tls.key").symlink_to("data/tls.key")
    server = side(tmp_path / "tls.pem", tmp_path / "tls.key")
    before = shown(server)
    (tmp_path / "data.new").symlink_to("two")
    os.replace(tmp_path / "data.new", tmp_path / "data")
    assert server.changed
    server.reload()
    assert shown(server) != before


def pipe_in_place_of(path: Path) -> None:
    """Whoever opens it waits until somebody writes."""
    path.unlink()
    os.mkfifo(path, 0o600)


@pytest.mark.parametrize(
    ("breaks", "why"),
    [
        (lambda files: files.cert.write_text("nonsense"), "no certificate can be read"),
        (lambda files: files.key.write_text("nonsense"), "no key can be read"),
        (lambda files: files.cert.unlink(), "no such file"),
        (lambda files: files.key.chmod(0o644), "may be read by others"),
        (lambda files: files.cert.write_text(files.key.read_text()), "no certificate can be read"),
        (lambda files: Files(files.cert.parent, NAME, stem="x").key.rename(files.key), "is not the key of"),
        (lambda files: Files(files.cert.parent, NAME, stem="x", rsa=True).key.rename(files.key), "is not the key of"),
        (lambda files: pipe_in_place_of(files.cert), "is not a regular file"),
        (lambda files: pipe_in_place_of(files.key), "is not a regular file"),
        (lambda files: os.truncate(files.cert, 5 << 20), "is larger than 4 MiB"),
        (lambda files: os.truncate(files.key, 5 << 20), "is larger than 4 MiB"),
    ],
)
def test_what_is_broken_changes_nothing(tmp_path: Path, breaks: object, why: str) -> None:
    files = Files(tmp_path, NAME)
    server = side(files.cert, files.key)
    before = shown(server)
    breaks(files)  # type: ignore[operator]
    with pytest.raises(CertificateError, match=why):
        server.reload()
    assert shown(server) == before
    assert not server.changed  # told once, until it changes again


def test_a_certificate_and_its_key_may_come_one_after_the_other(tmp_path: Path) -> None:
    files, new = Files(tmp_path, NAME), Files(tmp_path, NAME, stem="new")
    server = side(files.cert, files.key)
    before = shown(server)
    new.cert.rename(files.cert)
    with pytest.raises(CertificateError, match="is not the key of"):
        server.reload()
    assert shown(server) == before
    new.key.rename(files.key)
    assert server.changed
    server.reload()
    assert shown(server) != before


def test_a_mode_that_was_mended_is_seen(tmp_path: Path) -> None:
    """As the log has asked for: the file itself is the same as before."""
    files = Files(tmp_path, NAME)
    server = side(files.cert, files.key)
    files.key.chmod(0o644)
    with pytest.raises(CertificateError, match="may be read by others"):
        server.reload()
    assert not server.changed
    files.key.chmod(0o600)
    assert server.changed
    server.reload()


def test_a_broken_ca_changes_nothing(tmp_path: Path) -> None:
    files = Files(tmp_path, NAME)
    server = side(files.cert, files.key, client_ca=str(files.ca), require_client_certificate=False)
    files.ca.write_text("nonsense")
    with pytest.raises(CertificateError, match="no CA certificate"):
        server.reload()
    assert shown(server)


def test_handshakes_under_way_end_with_what_they_began_with(tmp_path: Path) -> None:
    files = Files(tmp_path, NAME)
    server = side(files.cert, files.key)
    bench = Bench(server, client_context())
    bench.handshake.start(10.0)
    Files(tmp_path, NAME)
    server.reload()
    bench.loop.run()
    for _ in range(5):
        bench.peer.step()
        bench.send(bench.peer.said())
    assert bench.connection is not None
    bench.close()
