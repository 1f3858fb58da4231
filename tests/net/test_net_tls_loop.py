"""A connection whose bytes are records: what its owner hears, what the peer gets, however the wire cuts it."""

from __future__ import annotations

import gc
import hashlib
import random
import socket
import ssl
from collections.abc import Iterator

import pytest

from hotproxy.config import model
from hotproxy.net.connection import CLOSED, FLUSH_S, Connection
from hotproxy.net.openssl_records import OpensslRecords
from hotproxy.net.tls_errors import TlsError
from hotproxy.net.tls_handshake import TlsHandshake
from hotproxy.net.tls_loop import CUT, TlsLoop
from hotproxy.net.tls_records import whole_records
from hotproxy.net.tls_server import ServerTls
from hotproxy.telemetry.tls_info import TlsInfo
from tests.kit.loop import FakeLoop
from tests.kit.tls import NAME, Bench, Files, client_context

VERSIONS = ("TLSv1.2", "TLSv1.3")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Files(tmp_path_factory.mktemp("tls"), NAME)


@pytest.fixture(params=VERSIONS)
def bench(request: pytest.FixtureRequest, files: Files) -> Iterator[Bench]:
    """After the handshake."""
    made = shaken(files, request.param)
    yield made
    made.close()


def shaken(files: Files, version: str = "TLSv1.3", **how: object) -> Bench:
    config = model.ListenerTls(
        (model.CertificateFiles(str(files.cert), str(files.key)),), min_version=version, max_version=version
    )
    return Bench(ServerTls("web", config), client_context()).shake(**how)  # type: ignore[arg-type]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("piece", [1, 2, 7, 100, 1 << 20])
def test_bytes_come_in_pieces_of_any_size(files: Files, version: str, piece: int) -> None:
    bench = shaken(files, version, piece=piece)
    bench.send(bench.peer.sealed(b"hello ") + bench.peer.sealed(b"world") + bench.peer.sealed_end(), piece)
    assert bench.owner.heard == [b"hello world", "eof"]
    bench.close()


def test_what_comes_with_the_last_message_of_the_handshake_is_told_though_nothing_follows(files: Files) -> None:
    """With TLS 1.3 a client sends Finished and its request in one segment, and then it waits."""
    bench = shaken(files, behind=b"GET / HTTP/1.1\r\n\r\n")
    assert bench.owner.heard == [b"GET / HTTP/1.1\r\n\r\n"]
    bench.close()


def test_what_we_write_arrives(bench: Bench) -> None:
    bench.open.write(b"one ")
    bench.open.write(b"two")
    assert bench.peer.read() == b"one two"
    assert bench.open.tx_bytes == len(b"one two")


def test_data_and_the_end_in_one_segment_are_told_both(bench: Bench) -> None:
    bench.send(bench.peer.sealed(b"last words") + bench.peer.sealed_end())
    assert bench.owner.heard == [b"last words", "eof"]


def test_the_end_of_tcp_without_close_notify_is_no_end(bench: Bench) -> None:
    """Whoever sits between could shorten a body that lasts until the end of its connection (RFC 8446 section 6.1)."""
    bench.send(bench.peer.sealed(b"half of"))
    bench.peer.sock.shutdown(socket.SHUT_WR)
    bench.loop.run()
    assert bench.owner.heard == [b"half of", ("lost", CUT)]
    assert bench.open.state == CLOSED


def test_the_end_of_tcp_behind_close_notify_is_told_once(bench: Bench) -> None:
    bench.send(bench.peer.sealed_end())
    bench.peer.sock.shutdown(socket.SHUT_WR)
    bench.loop.run()
    assert bench.owner.heard == ["eof"]


def test_half_a_record_at_the_end_is_a_cut(bench: Bench) -> None:
    bench.send(bench.peer.sealed(b"never whole")[:-1])
    bench.peer.sock.shutdown(socket.SHUT_WR)
    bench.loop.run()
    assert bench.owner.heard == [("lost", CUT)]


def test_after_the_peers_end_we_still_write(bench: Bench) -> None:
    bench.send(bench.peer.sealed_end())
    bench.open.write(b"answer")
    bench.open.finish()
    bench.loop.run()
    assert bench.peer.read() == b"answer"
    assert bench.peer.told_end


def test_after_our_end_we_still_read(bench: Bench) -> None:
    bench.open.shutdown_write()
    bench.loop.run()
    assert bench.peer.told_end
    bench.send(bench.peer.sealed(b"still here"))
    bench.send(bench.peer.sealed_end())
    assert bench.owner.heard == [b"still here", "eof"]


def test_finish_says_close_notify_then_lingers(bench: Bench) -> None:
    bench.open.write(b"bye")
    bench.open.finish()
    bench.loop.run()
    assert bench.peer.read() == b"bye"
    assert bench.peer.told_end
    assert bench.open.state != CLOSED  # what the peer still sends is discarded
    bench.send(bench.peer.sealed(b"too late") + bench.peer.sealed_end())
    assert bench.open.state == CLOSED
    assert bench.owner.heard == []


def test_reset_says_nothing(bench: Bench) -> None:
    bench.open.write(b"half an answer")
    bench.open.reset()
    assert bench.peer.read() == b"half an answer"
    assert not bench.peer.told_end


def test_a_record_that_was_changed_ends_the_connection_with_an_alert(bench: Bench) -> None:
    sealed = bytearray(bench.peer.sealed(b"x" * 100))
    sealed[50] ^= 1
    bench.send(bytes(sealed))
    assert bench.owner.heard == [("lost", "the peer's record does not decrypt: damaged, forged or out of order")]
    with pytest.raises(Exception, match="bad record mac"):
        bench.peer.read()


@pytest.mark.parametrize("junk", [b"GET / HTTP/1.1\r\n\r\n", b"\x17\x03\x03\xff\xff", b"\x99" * 40])
def test_what_is_no_record_ends_the_connection(bench: Bench, junk: bytes) -> None:
    bench.send(junk + b"\0" * 100)
    ((kind, why),) = bench.owner.heard  # type: ignore[misc]
    assert kind == "lost"
    assert why.startswith("the peer sent"), why


def test_what_came_before_a_broken_record_is_told(bench: Bench) -> None:
    """An origin that answers early and then breaks off is heard, as one without TLS is that resets."""
    good, bad = bench.peer.sealed(b"an answer"), bytearray(bench.peer.sealed(b"x"))
    bad[-1] ^= 1
    bench.send(good + bytes(bad) + bench.peer.sealed(b"nothing behind it"))
    why = "the peer's record does not decrypt: damaged, forged or out of order"
    assert bench.owner.heard == [b"an answer", ("lost", why)]


def test_who_asks_for_key_updates_and_reads_none_fills_no_memory(files: Files) -> None:
    bench = shaken(files)
    bench.ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    asked = 0
    while bench.open.state != CLOSED:
        bench.send(b"".join(bench.peer.update_key(True) for _ in range(100)))
        asked += 100
        assert asked < 20_000  # 27 bytes each
    assert bench.owner.heard == [("lost", "the peer asked for more key updates than it has read")]
    assert asked > 1_000
    bench.close()


@pytest.mark.parametrize("ask", [False, True])
def test_key_updates_go_unnoticed(files: Files, ask: bool) -> None:
    bench = shaken(files)
    bench.send(bench.peer.sealed(b"before "))
    bench.send(bench.peer.update_key(ask) + bench.peer.sealed(b"behind"))
    bench.open.write(b"answer")
    assert bench.owner.heard == [b"before behind"]
    assert bench.peer.read() == b"answer"
    bench.close()


def test_keys_are_updated_while_data_flows_both_ways(files: Files) -> None:
    """Ours follows in the middle of what a slow reader has not taken: between two records, and never within one."""
    bench = shaken(files)
    bench.ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    rng = random.Random(8)
    said, heard = rng.randbytes(1_000_000), b""
    asked = 0
    bench.open.write(said)
    while len(heard) < len(said):
        bench.send(bench.peer.update_key(asked % 3 != 0) + bench.peer.sealed(b"%d " % asked), piece=7)
        asked += 1
        heard += bench.peer.read()
    assert heard == said
    told = b"".join(each for each in bench.owner.heard if isinstance(each, bytes))
    assert told == b"".join(b"%d " % number for number in range(asked))
    assert asked > 5
    bench.close()


def test_a_slow_reader_gets_every_byte_once_and_only_plaintext_is_counted(bench: Bench) -> None:
    """The kernel takes a part of a record; the rest waits here, sealed once, and its plaintext with its owner."""
    bench.ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    rng = random.Random(6)
    wanted, got = hashlib.sha256(), hashlib.sha256()
    written = size = 0
    while written < 3_000_000 or size < written:
        if written < 3_000_000 and not bench.open.pressed:
            data = rng.randbytes(rng.choice([1, 100, 20_000, 100_000]))
            wanted.update(data)
            written += len(data)
            bench.open.write(data)
        assert bench.open.tx_bytes + bench.open.pending_bytes == written
        assert bench.gauge.value == bench.open.pending_bytes
        bench.loop.turn()
        data = bench.peer.read()
        got.update(data)
        size += len(data)
    assert got.digest() == wanted.digest()
    assert bench.open.tx_bytes == written
    assert bench.owner.heard.count(True) == bench.owner.heard.count(False) > 0


def test_close_notify_waits_for_a_reader_whose_window_is_full(bench: Bench) -> None:
    """The last record filled the kernel's buffer to the last byte: close_notify goes out when there is room."""
    bench.ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    connection = bench.open
    while not connection.pending_bytes:
        connection.write(b"x" * 256)
    connection.finish()
    got = b""
    for _ in range(1000):
        bench.loop.turn()
        got += bench.peer.read()
    assert set(got) == {ord("x")}
    assert bench.peer.told_end


def test_a_reader_that_takes_nothing_is_closed(bench: Bench) -> None:
    bench.ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    bench.open.write(b"x" * 1_000_000)
    bench.open.finish()
    bench.loop.turn()
    bench.pass_time(FLUSH_S + 1)
    assert bench.open.state == CLOSED


def test_tickets_are_no_noise_and_data_is(files: Files) -> None:
    bench = shaken(files)
    connection = bench.open
    connection.read_disable()
    assert connection.is_quiet
    bench.peer.sock.sendall(bench.peer.update_key(False))
    assert connection.is_quiet
    bench.peer.sock.sendall(bench.peer.sealed(b"unasked"))
    assert not connection.is_quiet
    connection.read_enable()
    bench.loop.run()
    assert bench.owner.heard == [b"unasked"]
    bench.close()


def test_half_a_record_is_noise(bench: Bench) -> None:
    """In the pool it would be the beginning of an answer that nobody has asked for, given to who asks next."""
    connection = bench.open
    sealed = bench.peer.sealed(b"HTTP/1.1 200 OK")
    bench.send(sealed[:10])
    assert not connection.is_quiet
    bench.send(sealed[10:])
    assert bench.owner.heard == [b"HTTP/1.1 200 OK"]


@pytest.mark.parametrize("junk", [b"GET / HTTP/1.1", b""])
def test_what_breaks_while_somebody_listens_for_noise_is_told_afterwards(bench: Bench, junk: bytes) -> None:
    connection = bench.open
    connection.read_disable()
    if junk:
        bench.peer.sock.sendall(junk)
    else:
        bench.peer.sock.shutdown(socket.SHUT_WR)
    assert not connection.is_quiet
    connection.read_enable()
    bench.loop.run()
    why = CUT if not junk else "the peer sent something that is not TLS"
    ((kind, told),) = bench.owner.heard  # type: ignore[misc]
    assert (kind, told) == ("lost", why)


def test_it_does_not_move(bench: Bench) -> None:
    assert not bench.open.freeze()
    bench.send(bench.peer.sealed(b"goes on"))
    assert bench.owner.heard == [b"goes on"]


def _alive() -> int:
    kinds = (Connection, OpensslRecords, TlsHandshake, TlsLoop, ssl.SSLObject)
    return sum(isinstance(each, kinds) for each in gc.get_objects())


@pytest.mark.parametrize("end", ["close", "end of the peer", "cut", "junk"])
def test_what_has_ended_waits_for_no_collection(files: Files, end: str) -> None:
    """Workers collect no garbage: a cycle would stay for ever."""
    gc.collect()
    gc.disable()
    try:
        others = _alive()
        bench = shaken(files)
        assert _alive() > others
        if end == "end of the peer":
            bench.send(bench.peer.sealed(b"x") + bench.peer.sealed_end())
            bench.open.finish()
        elif end == "cut":
            bench.peer.sock.shutdown(socket.SHUT_WR)
        elif end == "junk":
            bench.send(b"\x17\x03\x03\x00\x20" + b"x" * 32)
        bench.loop.run()
        bench.close()
        del bench
        assert _alive() == others
    finally:
        gc.enable()


class PaperRecords:
    """A `RecordLayer` that seals nothing, and insists on whole records."""

    def __init__(self) -> None:
        self.ended = False
        self.broken = ""
        self.opened: list[bytes] = []

    def open(self, records: bytes) -> bytes:
        assert whole_records(records) == len(records) > 0
        self.opened.append(records)
        plain, at = b"", 0
        while at < len(records):
            after = at + 5 + int.from_bytes(records[at + 3 : at + 5], "big")
            plain, at = plain + records[at + 5 : after], after
        return plain

    def seal(self, data: bytes | bytearray) -> bytes:
        return bytes(data)

    def seal_end(self) -> bytes:
        return b""

    def output(self) -> bytes:
        return b""

    def dump(self) -> dict[str, object] | None:
        return {}


def record(data: bytes) -> bytes:
    return b"\x17\x03\x03" + len(data).to_bytes(2, "big") + data


def test_a_record_layer_sees_whole_records_only() -> None:
    """The law behind moving TLS connections: what of a record has come so far is ours, and never OpenSSL's."""
    rng = random.Random(7)
    wire = b"".join(record(rng.randbytes(rng.randrange(300))) for _ in range(50))
    loop = FakeLoop()
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    records = PaperRecords()
    secure = TlsLoop(loop, ours.fileno(), records, wire[:3], TlsInfo("TLSv1.3", "none"))
    assert secure.is_movable(ours.fileno())
    at = 3
    while at < len(wire):
        size = rng.randrange(1, 400)
        theirs.sendall(wire[at : at + size])
        at += size
        while secure.receive(ours.fileno()) is not None:
            pass
    assert b"".join(records.opened) == wire
    ours.close()
    theirs.close()


@pytest.mark.parametrize("size", [0, 1, 4])
def test_a_beginning_is_no_whole_record(size: int) -> None:
    assert whole_records(record(b"x")[:size]) == 0


def test_an_error_of_tls_is_one_of_the_connection() -> None:
    assert issubclass(TlsError, OSError)  # what `Connection` takes for the end
    assert str(TlsError("words")) == "words"
