"""Whole worker processes that give and take connections, driven over their channels as the zygote does."""

from __future__ import annotations

import contextlib
import os
import random
import resource
import socket
from collections.abc import Iterator
from typing import Any

import msgpack
import pytest

from hotproxy.restarter.frames import Channel, ChannelClosed, FrameError
from hotproxy.worker.giver import CANARY
from tests.kit.instance import eventually
from tests.worker.test_worker_process import Origin, Worker, ask, config_for, read_answer

FAR = 1e9


@pytest.fixture
def origin() -> Iterator[Origin]:
    made = Origin()
    yield made
    made.close()


@pytest.fixture
def two(origin: Origin) -> Iterator[tuple[Worker, Worker]]:
    with contextlib.ExitStack() as stack:
        workers = []
        for _ in range(2):
            workers.append(Worker(config_for(origin)))
            stack.callback(workers[-1].close)
        yield workers[0], workers[1]


def give(worker: Worker, *ends: Channel, step_s: float = 20.0, until_s: float = FAR) -> None:
    pairs = [[number, 1000] for number in range(1, len(ends) + 1)]
    fields = {"serial": 0, "pairs": pairs, "step_s": step_s, "until_s": until_s}
    worker.channel.send("GIVE", fields, [end.fileno() for end in ends])
    for end in ends:
        end.close()


def take(worker: Worker, end: Channel, step_s: float = 20.0) -> None:
    worker.channel.send("TAKE", {"serial": 0, "pair": 1, "step_s": step_s, "until_s": FAR}, [end.fileno()])
    end.close()


def http_client(worker: Worker, path: str) -> socket.socket:
    client = worker.connect("web")
    ask(client, path)
    return client


def tcp_client(worker: Worker, data: bytes) -> socket.socket:
    client = worker.connect("db")
    client.sendall(data)
    assert client.recv(100) == data
    return client


def assert_alive(http: list[socket.socket], tcp: list[socket.socket]) -> None:
    for number, client in enumerate(http):
        answer = ask(client, f"/after/{number}")
        assert answer.endswith(f"GET /after/{number} HTTP/1.1".encode()) and b"connection: close" not in answer.lower()
    for client in tcp:
        client.sendall(b"after")
        assert client.recv(100) == b"after"


def open_files(worker: Worker) -> int:
    return len(os.listdir(f"/proc/{worker.pid}/fd"))


def test_connections_go_on_in_another_process(two: tuple[Worker, Worker]) -> None:
    """Idle ones, one in the middle of a request head, tunnels, and the pool behind them."""
    old, new = two
    old.begin()
    new.begin()
    http = [http_client(old, f"/{number}") for number in range(30)]
    tcp = [tcp_client(old, b"before") for _ in range(30)]
    half = http_client(old, "/half")
    half.sendall(b"GET /rest HTTP/1.1\r\nHo")
    ours, theirs = Channel.pair()
    take(new, theirs)
    give(old, ours)
    moved = old.expect("MOVED").fields
    assert (moved["moved"], moved["refused"], moved["why"]) == (61, 0, "")
    old.channel.send("DRAIN", {"deadline_s": FAR})
    assert old.wait() == 0, "nothing holds it any more"
    half.sendall(b"st: example.org\r\n\r\n")
    assert read_answer(half).endswith(b"GET /rest HTTP/1.1")
    assert_alive(http, tcp)


def test_the_rest_goes_to_the_last_of_several(two: tuple[Worker, Worker]) -> None:
    old, new = two
    old.begin()
    new.begin()
    tcp = [tcp_client(old, b"before") for _ in range(10)]
    pairs = [Channel.pair() for _ in range(2)]
    for _, theirs in pairs:
        take(new, theirs)
    fields = {"serial": 0, "pairs": [[1, 3], [2, 1]], "step_s": 20.0, "until_s": FAR}
    old.channel.send("GIVE", fields, [ours.fileno() for ours, _ in pairs])
    for ours, _ in pairs:
        ours.close()
    reports = [old.expect("MOVED").fields for _ in pairs]
    assert [(each["pair"], each["moved"], each["refused"]) for each in reports] == [(1, 3, 0), (2, 7, 0)]
    assert_alive([], tcp)


def test_a_worker_that_stays_gives_a_share_and_goes_on_with_the_rest(two: tuple[Worker, Worker]) -> None:
    """Its own clients, new ones too, and what it was told to give later."""
    old, new = two
    old.begin()
    new.begin()
    tcp = [tcp_client(old, b"before") for _ in range(9)]
    for share in (3, 2, 0):
        ours, theirs = Channel.pair()
        take(new, theirs)
        fields = {"serial": 0, "pairs": [[1, share]], "step_s": 20.0, "until_s": FAR, "stays": True}
        old.channel.send("GIVE", fields, [ours.fileno()])
        ours.close()
        moved = old.expect("MOVED").fields
        assert (moved["moved"], moved["refused"], moved["why"]) == (share, 0, "")
        assert_alive([http_client(old, "/")], [*tcp, tcp_client(old, b"x")])
    ours, theirs = Channel.pair()
    take(new, theirs)
    give(old, ours)
    moved = old.expect("MOVED").fields
    assert moved["moved"] >= 4 and moved["refused"] == 0
    assert_alive([], tcp)


def test_what_a_dead_taker_has_not_seen_goes_to_the_next_one(two: tuple[Worker, Worker]) -> None:
    """The wave that came back stays: perhaps it was what the taker died of."""
    old, new = two
    old.begin()
    new.begin()
    tcp = [tcp_client(old, b"before") for _ in range(40)]
    ours, theirs = Channel.pair()
    theirs.close()
    give(old, ours)
    moved = old.expect("MOVED").fields
    assert (moved["moved"], moved["refused"]) == (0, 40) and "gone" in moved["why"]
    for expected in (40 - CANARY, 0):
        ours, theirs = Channel.pair()
        take(new, theirs)
        give(old, ours)
        moved = old.expect("MOVED").fields
        assert (moved["moved"], moved["refused"], moved["why"]) == (expected, CANARY, "")
    assert_alive([], tcp)


def test_a_taker_that_never_answers_gets_nothing(two: tuple[Worker, Worker]) -> None:
    old, _ = two
    old.begin()
    http, tcp = [http_client(old, "/")], [tcp_client(old, b"x") for _ in range(3)]
    ours, theirs = Channel.pair()
    give(old, ours, step_s=0.2)
    assert old.expect("STUCK").fields["committed"] is False
    moved = old.expect("MOVED").fields
    assert (moved["moved"], moved["refused"]) == (0, 4) and "no answer in 0.2 s" in moved["why"]
    assert_alive(http, tcp)
    theirs.close()


def test_a_taker_without_descriptors_gets_nothing_and_lives(two: tuple[Worker, Worker]) -> None:
    """MSG_CTRUNC: the kernel drops what has no number. Nothing may be lost, and the taker serves on."""
    old, new = two
    old.begin()
    new.begin()
    served = [tcp_client(new, b"y")]
    tcp = [tcp_client(old, b"x") for _ in range(40)]
    ours, theirs = Channel.pair()
    take(new, theirs)
    new.expect_settled()
    limit = resource.prlimit(new.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(new.pid, resource.RLIMIT_NOFILE, (open_files(new) + 8, limit[1]))
    give(old, ours)
    moved = old.expect("MOVED").fields
    assert (moved["moved"], moved["refused"]) == (0, 40) and moved["why"]
    resource.prlimit(new.pid, resource.RLIMIT_NOFILE, limit)
    assert_alive([], tcp + served + [tcp_client(new, b"z")])


def test_a_giver_without_descriptors_says_so(two: tuple[Worker, Worker]) -> None:
    """It refused GIVE, whose channels had no numbers; the supervisor waited 40 s for a word about them."""
    old, _ = two
    old.begin()
    tcp = [tcp_client(old, b"x") for _ in range(3)]
    limit = resource.prlimit(old.pid, resource.RLIMIT_NOFILE)
    pairs = [Channel.pair() for _ in range(2)]
    used = max(map(int, os.listdir(f"/proc/{old.pid}/fd")))
    resource.prlimit(old.pid, resource.RLIMIT_NOFILE, (used + 1, limit[1]))
    fillers = used + 1 - open_files(old)
    held = [old.connect("web") for _ in range(fillers)]
    eventually(lambda: open_files(old) == used + 1, "every descriptor to be in use")
    fields = {"serial": 0, "pairs": [[1, 2], [2, 1]], "step_s": 20.0, "until_s": FAR}
    old.channel.send("GIVE", fields, [ours.fileno() for ours, _ in pairs])
    reports = [old.expect("MOVED").fields for _ in pairs]
    assert [(each["pair"], each["moved"]) for each in reports] == [(1, 0), (2, 0)]
    assert reports[0]["refused"] == 0 and reports[1]["refused"] >= 3 and "no descriptors" in reports[1]["why"]
    resource.prlimit(old.pid, resource.RLIMIT_NOFILE, limit)
    for sock in (*held, *(end.sock for pair in pairs for end in pair)):
        sock.close()
    assert_alive([], tcp)


def test_a_worker_that_drains_neither_gives_nor_takes(two: tuple[Worker, Worker]) -> None:
    old, _ = two
    old.begin()
    tcp = [tcp_client(old, b"x")]
    old.channel.send("DRAIN", {"deadline_s": FAR})
    for order in (give, take):
        ours, theirs = Channel.pair()
        order(old, theirs)
        if order is give:
            assert old.expect("MOVED").fields["moved"] == 0
        old.expect_settled()
        with pytest.raises(ChannelClosed):
            while ours.receive() is None:
                pass
        ours.close()
    assert_alive([], tcp)


BAD: list[tuple[str, dict[str, Any], list[str]]] = [
    ("GIVE", {"pairs": [[1, 5]]}, []),
    ("GIVE", {"pairs": []}, ["channel"]),
    ("GIVE", {"pairs": []}, []),
    ("GIVE", {"pairs": [[1, 5], [2, 5]]}, ["channel"]),
    ("GIVE", {"pairs": [[1]]}, ["channel"]),
    ("GIVE", {"pairs": [[1, 5]], "stays": 1}, ["channel"]),
    ("GIVE", {"pairs": [["1", 5]]}, ["channel"]),
    ("GIVE", {"pairs": [7]}, ["channel"]),
    ("GIVE", {"pairs": [[1, 5]]}, ["pipe"]),
    ("GIVE", {"pairs": [[1, 5], [2, 5]]}, ["channel", "stream"]),
    ("GIVE", {"pairs": [[1, 5]], "step_s": 0.0}, ["channel"]),
    ("GIVE", {"pairs": [[1, 5]], "step_s": -1.0}, ["channel"]),
    ("GIVE", {"pairs": [[1, 5]], "step_s": float("nan")}, ["channel"]),
    ("GIVE", {"pairs": [[1, 5]], "step_s": float("inf")}, ["channel"]),
    ("GIVE", {"pairs": [[1, 5]], "until_s": float("nan")}, ["channel"]),
    ("TAKE", {}, []),
    ("TAKE", {}, ["channel", "channel"]),
    ("TAKE", {}, ["stream"]),
    ("TAKE", {}, ["pipe"]),
    ("TAKE", {"step_s": float("nan")}, ["channel"]),
    ("TAKE", {"until_s": float("nan")}, ["channel"]),
    ("TAKE", {"until_s": float("inf")}, ["channel"]),
]


def test_orders_that_make_no_sense_are_answered_and_change_nothing(two: tuple[Worker, Worker]) -> None:
    old, _ = two
    old.begin()
    tcp = [tcp_client(old, b"x")]
    before = open_files(old)
    whole = {"serial": 0, "pair": 1, "step_s": 5.0, "until_s": FAR}
    for kind, fields, kinds in BAD:
        fds = [number for kind_of in kinds for number in pair_of(kind_of)]
        old.channel.send(kind, {**whole, **fields}, fds[::2])
        answer = old.expect("UNKNOWN").fields
        assert answer["kind"] == kind and answer["why"], (kind, fields, kinds)
        for fd in fds:
            os.close(fd)
    old.expect_settled()
    assert open_files(old) == before
    assert_alive([], tcp)


def pair_of(kind: str) -> tuple[int, int]:
    if kind == "pipe":
        return os.pipe()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET if kind == "channel" else socket.SOCK_STREAM)
    return ours.detach(), theirs.detach()


def test_strange_givers_and_takers_cost_nothing(two: tuple[Worker, Worker]) -> None:
    """Frames at random on real channels, with real descriptors and forged states: no crash, no hang, no leak."""
    worker, _ = two
    worker.begin()
    tcp = [tcp_client(worker, b"x") for _ in range(3)]
    words = random.Random(9)
    before = open_files(worker)
    for _ in range(60):
        ours, theirs = Channel.pair()
        gives = words.random() < 0.3
        if gives:
            give(worker, theirs, step_s=0.2)
        else:
            take(worker, theirs, step_s=0.2)
        for _ in range(words.randrange(1, 6)):
            say_anything(ours, words)
        ours.close()
        if gives:
            while worker.receive().kind != "MOVED":
                pass
    worker.expect_settled()
    eventually(lambda: open_files(worker) == before, "every descriptor to be closed")
    assert_alive([], tcp)


def say_anything(channel: Channel, words: random.Random) -> None:
    state = words.choice(
        [b"", b"\x80", words.randbytes(30), msgpack.packb({"kind": "tcp", "version": 1, "listener": "db"})]
    )
    record = [
        words.choice(["http1", "tcp", "http1_idle", ""]),
        words.choice(["web", "db", ""]),
        words.choice([1, 2, -1]),
        state,
    ]
    frames: list[tuple[str, dict[str, Any]]] = [
        ("OFFER", {"wave": 1, "last": words.random() < 0.5, "records": [record] * words.randrange(3)}),
        ("COMMIT", {"wave": words.randrange(3)}), ("TAKEN", {"wave": 1}), ("COMMITTED", {"wave": 1}),
        ("PREPARED", {"wave": 1, "refused": [words.randrange(-1, 5)]}), ("MOVED", {}), ("DRAIN", {"deadline_s": 1.0}),
    ]  # fmt: skip
    kind, fields = words.choice(frames)
    some = [
        number for _ in range(words.randrange(3)) for number in pair_of(words.choice(["pipe", "channel", "stream"]))
    ]
    with contextlib.suppress(ChannelClosed, FrameError, OSError):
        if words.random() < 0.2:
            channel.sock.send(words.randbytes(words.randrange(1, 100)))
        else:
            channel.send(kind, fields, some)
    for fd in some:
        os.close(fd)
