"""C15: forged frames at each receiver of a worker: who gives, who takes, and a whole worker that hears its zygote.

A forged frame may end a move: then each connection is its old owner's or its new one's, and no descriptor is left.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import msgpack
import pytest

from hotproxy.restarter.frames import Channel, ChannelClosed, ChannelFull, Message
from hotproxy.worker.handoff_states import Giving, Taking
from tests.kit.forger import Forger, as_message, is_stream
from tests.kit.instance import eventually
from tests.kit.moving import FakeMovable, TwoWorkers, two_workers
from tests.worker.test_worker_handoff import assert_alive, http_client, open_files, tcp_client
from tests.worker.test_worker_process import Origin, Worker, config_for

WAVES = (0, 1, 2, 3)
STATE = msgpack.packb({"kind": "http1", "version": 1, "name": "x", "unsent": b""})
RECORDS = (
    [], [["http1", "web", 1, STATE]], [["http1", "web", 2, STATE]], [["http1", "web", 1, b"\x80"]] * 2,
    [["http1_idle", "", 1, STATE]], [["tcp", "nobody", 1, b"\xc1"]], [["http1", "web", 0, STATE]],
    [["http1", "web", -1, STATE], ["http1", "web", 2, STATE]], [["http1", "web", 1]], [7],
)  # fmt: skip
COUNTS = pytest.mark.parametrize("count", [2000, pytest.param(100_000, marks=pytest.mark.slow)])


@COUNTS
@pytest.mark.timeout(600)
def test_who_gives_keeps_what_it_may_or_gives_it_for_good(count: int) -> None:
    forger = Forger(1, ["TAKEN", "PREPARED", "COMMITTED"], {"wave": WAVES, "refused": ([], [0], [4], [-1], [0, 1])})
    while forger.forged < count:
        movables = [FakeMovable(str(number), socks=1 + (number == 9)) for number in range(18)]
        with two_workers(*movables) as pair:
            play_taker(pair, forger)
            pair.new_end.close()
            pair.old_loop.run()
            if pair.giver._state is not Giving.DONE:
                pair.pass_time(TwoWorkers.STEP_S)
            assert pair.giver._state is Giving.DONE and pair.owner.given == [pair.giver]
            assert set(pair.states()) <= {"running", "released"}, pair.states()
            assert pair.giver.moved == pair.states().count("released")
            assert pair.owner.bugs == []
    forger.close()


def play_taker(pair: TwoWorkers, forger: Forger) -> None:
    """Mostly as a taker does; what is forged is said in between. Nobody is let go of who was not committed."""
    words = forger.words
    pair.giver.begin()
    committed = 0  # the last wave of which it was said
    for _ in range(words.randrange(1, 30)):
        pair.old_loop.run()
        heard = hear(pair.new_end)
        if words.random() < 0.5:
            forger.send(pair.new_end.sock)
            said = as_message(forger.said[-1][0])
            if said is not None and said.kind == "COMMITTED":
                # What is in a memfd may be anything.
                committed = max(committed, 3 if "memfd" in said.fields else said.fields["wave"])
        for message in heard:
            message.close_fds()
            answer = {"OFFER": "PREPARED" if message.fields.get("last") else "TAKEN", "COMMIT": "COMMITTED"}
            fields: dict[str, Any] = {"wave": message.fields["wave"]}
            kind = answer[message.kind]
            if kind == "PREPARED":
                fields["refused"] = words.choice([[], [], [1]])
            with contextlib.suppress(ChannelClosed, ChannelFull):
                pair.new_end.send(kind, fields)
            forger.remember(kind, fields)
            if kind == "COMMITTED":
                committed = max(committed, message.fields["wave"])
        if words.random() < 0.02:
            pair.pass_time(words.choice([0.1, TwoWorkers.STEP_S + 0.1]))
    pair.old_loop.run()
    # A wave at most is let go of for each that was committed: 16, and then all others.
    assert pair.states().count("released") <= {0: 0, 1: 16}.get(committed, 18)


@COUNTS
@pytest.mark.timeout(600)
def test_who_takes_has_all_of_a_wave_or_nothing(count: int) -> None:
    forger = Forger(2, ["OFFER", "COMMIT"], {"wave": WAVES, "records": RECORDS})
    while forger.forged < count:
        with two_workers() as pair:
            commits = play_giver(pair, forger)
            pair.old_end.close()
            pair.new_loop.run()
            assert pair.taker._state is Taking.DONE and pair.owner.taken == [pair.taker]
            states = [each.state for each in pair.arrivals.loaded]
            assert set(states) <= {"started", "discarded"}, states
            assert commits or "started" not in states
            assert pair.owner.bugs == []
    forger.close()


def play_giver(pair: TwoWorkers, forger: Forger) -> int:
    """Mostly as a giver does, with descriptors of every sort. How often COMMIT was said in a frame that is right."""
    words = forger.words
    pair.taker.begin()
    commits, wave, last = 0, 1, False
    for _ in range(words.randrange(1, 20)):
        if words.random() < 0.5:
            forger.send(pair.old_end.sock)
        else:
            kind, fields, fds = "COMMIT", dict[str, Any](wave=wave), list[int]()
            if not last:
                records = words.choice(RECORDS)
                last = words.random() < 0.6
                kind, fields = "OFFER", {"wave": wave, "last": last, "records": records}
                fds = words.choices(forger.stock, k=words.choice([len(records), len(records), 0, 3]))
            else:
                wave, last = wave + 1, False
            with contextlib.suppress(ChannelClosed, ChannelFull):
                pair.old_end.send(kind, fields, fds)
            forger.remember(kind, fields, fds)
        said = as_message(forger.said[-1][0])
        commits += said is not None and said.kind == "COMMIT"
        pair.new_loop.run()
        for message in hear(pair.old_end):
            message.close_fds()
        if words.random() < 0.02:
            pair.pass_time(words.choice([0.1, TwoWorkers.STEP_S + 0.1]))
    return commits


def hear(channel: Channel) -> list[Message]:
    messages: list[Message] = []
    with contextlib.suppress(ChannelClosed):
        while (message := channel.receive()) is not None:
            messages.append(message)
    return messages


@pytest.fixture
def origin() -> Iterator[Origin]:
    made = Origin()
    yield made
    made.close()


ORDERS = ("ACCEPT_ON", "ACCEPT_OFF", "ADOPT", "RELEASE", "SHUT", "GIVE", "TAKE", "UNDRAIN", "REOPEN_LOGS", "UNKNOWN")
LIKELY = {
    "sockets": (
        [["web", 0, 7, True, False]], [["db", 0, 7, False, False]], [["nobody", 0, 0, True, False]], [["web", 0]],
        [["web", 0, 7]], [["web", "0", 7, True, False]], [7], [["web", 0, 7, True, False], ["db", 0, 8, True, False]],
    ),
    "pairs": ([[1, 5]], [[1, 1000]], [[1, 1], [2, 2]], [[1, -1]], [[1]], [], [["1", 5]], [[1, 5, 9]]),
    "serial": (0,), "step_s": (0.05, 0.2), "until_s": (1e9, 0.05), "deadline_s": (0.0,),
}  # fmt: skip
BURST = 40


def must_be_obeyed(message: Message) -> bool:
    """It leaves at a DRAIN with a deadline, lets go of its own sockets, and keeps those that it is given."""
    kind, fields = message.kind, message.fields
    if "memfd" in fields:  # whatever is in there
        return kind in ("SHUT", "RELEASE", "ADOPT", "DRAIN")
    if kind in ("SHUT", "RELEASE"):
        mine = ["web", 0, 0], ["db", 0, 0]
        return any(isinstance(wire, list) and wire[:3] in mine for wire in fields["sockets"])
    if kind == "ADOPT":
        return len(fields["sockets"]) == len(message.fds) and all(map(is_stream, message.fds))
    return kind == "DRAIN" and fields["deadline_s"] != 0.0


@COUNTS
@pytest.mark.timeout(900)
def test_a_worker_serves_on_whatever_its_zygote_says(
    origin: Origin, count: int, capfd: pytest.CaptureFixture[str]
) -> None:
    worker = Worker(config_for(origin))
    forger = Forger(3, ORDERS, LIKELY, must_be_obeyed)
    try:
        worker.begin()
        http, tcp = [http_client(worker, f"/{number}") for number in range(3)], [tcp_client(worker, b"x")]
        before = open_files(worker)
        while forger.forged < count:
            for _ in range(BURST):
                forger.send(worker.channel.sock)
            settle(worker)
            if forger.forged % (25 * BURST) < BURST:
                forger.hang_up()  # on those who were given a channel, or a listening socket
                eventually(lambda: open_files(worker) == before, "every descriptor to be closed")
        forger.close()
        worker.channel.send("ACCEPT_ON")
        until(worker, "ACCEPTING")
        assert_alive(http, [*tcp, tcp_client(worker, b"y")])
        assert "internal error" not in capfd.readouterr().err
    finally:
        forger.close()
        worker.close()


@COUNTS
@pytest.mark.timeout(900)
def test_a_worker_serves_on_whoever_gives_to_it_or_takes_from_it(
    origin: Origin, count: int, capfd: pytest.CaptureFixture[str]
) -> None:
    worker = Worker(config_for(origin))
    kinds = ["OFFER", "COMMIT", "TAKEN", "PREPARED", "COMMITTED"]
    # Who says COMMITTED has the connections, and here nobody to serve them.
    forger = Forger(4, kinds, {"wave": WAVES, "records": RECORDS}, lambda message: message.kind == "COMMITTED")
    rounds = 0
    try:
        worker.begin()
        tcp = [tcp_client(worker, b"x") for _ in range(3)]
        before = open_files(worker)
        while forger.forged < count:
            rounds += 1
            ours, theirs = Channel.pair()
            fields: dict[str, Any] = {"serial": 0, "step_s": 5.0, "until_s": 1e9}
            if rounds % 4:
                worker.channel.send("TAKE", {**fields, "pair": 1}, [theirs.fileno()])
            else:
                worker.channel.send("GIVE", {**fields, "pairs": [[1, 1000]]}, [theirs.fileno()])
            theirs.close()
            for _ in range(BURST):
                # One that says what it must not has its end at once.
                if not forger.send(ours.sock) and rounds % 4:
                    break
            ours.close()
            if not rounds % 4:
                until(worker, "MOVED")
            if not rounds % 100:
                settle(worker)
                eventually(lambda: open_files(worker) == before, "every descriptor to be closed")
        assert_alive([], tcp)
        assert "internal error" not in capfd.readouterr().err
    finally:
        forger.close()
        worker.close()


def settle(worker: Worker) -> None:
    """All that was said is read: of everything that it refuses it says so, of this one too."""
    while True:
        with contextlib.suppress(ChannelFull):
            worker.channel.send("FAILED", {"why": ""})
            break
        worker.receive().close_fds()
    while (message := worker.receive()).fields.get("kind") != "FAILED":
        message.close_fds()


def until(worker: Worker, kind: str) -> None:
    while (message := worker.receive()).kind != kind:
        message.close_fds()
