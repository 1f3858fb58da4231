"""Giver and taker on a real channel: what moves, what comes back, and what a strange other side can do."""

from __future__ import annotations

import random
import socket

import pytest

from hotproxy.restarter.frames import KINDS, Channel, ChannelClosed
from hotproxy.worker import giver as giver_module
from hotproxy.worker.giver import CANARY, WAVE
from tests.kit.moving import FakeMovable, TwoWorkers, two_workers


def many(count: int, **options: int) -> list[FakeMovable]:
    return [FakeMovable(f"c{number}", **options) for number in range(count)]


def waves(both: TwoWorkers) -> list[int]:
    """Runs the handoff; the size of each wave, as the giver's side saw it frozen."""
    sizes = []
    both.begin()
    while True:
        frozen = both.states().count("frozen")
        if frozen:
            sizes.append(frozen)
        both.new_loop.turn()
        if not both.old_loop.turn() and not both.new_loop.turn() and not both.old_loop.turn():
            return sizes


def test_everything_moves_in_waves_after_a_small_one() -> None:
    with two_workers(*many(600), idle=[FakeMovable("idle")]) as both:
        sizes = waves(both)
        assert sizes[0] == CANARY and max(sizes) <= WAVE
        assert set(both.states()) == {"released"}
        assert len(both.arrived()) == 601 and all(each.endswith(" started") for each in both.arrived())
        assert both.giver.moved == 600 and both.departures.left == 0 and both.giver.why == ""
        assert [loaded.listener for loaded in both.arrivals.loaded][-1] == ""
        assert both.owner.given == [both.giver] and both.owner.taken == [both.taker] and not both.owner.bugs


def test_descriptors_arrive_in_order_and_are_the_same_sockets() -> None:
    with two_workers(*many(300, socks=2)) as both:
        both.begin()
        both.run()
        for movable, loaded in zip(
            sorted(both.movables, key=name), sorted(both.arrivals.loaded, key=name), strict=True
        ):
            for peer, sock in zip(movable.peers, loaded.socks, strict=True):
                peer.send(movable.name.encode())
                assert sock.recv(100) == loaded.name.encode()
                assert sock.gettimeout() == 0.0


def name(each: object) -> str:
    return each.name  # type: ignore[attr-defined, no-any-return]


@pytest.mark.parametrize("size", [90_000, 130_000, 3_000_000])
def test_unsent_bytes_of_any_size_go_along(size: int) -> None:
    with two_workers(*many(20, size=size)) as both:
        both.begin()
        both.run()
        assert set(both.states()) == {"released"} and len(both.arrived()) == 20


def test_connections_with_much_to_send_move_in_smaller_waves() -> None:
    with two_workers(*many(100, size=500_000)) as both:
        sizes = waves(both)
        assert max(sizes) == giver_module.FEW
        assert set(both.states()) == {"released"}


def test_what_is_refused_stays_and_everything_else_moves() -> None:
    with two_workers(*many(40), refuse={"c3", "c30"}) as both:
        both.begin()
        both.run()
        assert [each.name for each in both.movables if each.state == "running"] == ["c3", "c30"]
        assert both.giver.moved == 38 and both.departures.left == 2
        assert both.taker.refused == 2 and both.taker.reasons == ["another version"]


def test_idle_ones_that_are_refused_are_not_offered_for_ever() -> None:
    """A reload took an endpoint out of a cluster to which a worker had more idle connections than a wave holds: the
    same ones were offered, refused and offered again until the move's time was over, 30 s later."""
    idle = [FakeMovable(f"i{number}") for number in range(CANARY + WAVE + 50)]
    with two_workers(*many(3), idle=idle, refuse={each.name for each in idle}) as both:
        both.giver.gets_the_rest()
        both.begin()
        both.run()
        assert both.owner.given == [both.giver] and both.giver.moved == 3 and both.giver.why == ""
        assert both.states().count("running") == len(idle)


def test_what_can_not_move_now_is_asked_once_more() -> None:
    with two_workers(FakeMovable("a", pinned=1), FakeMovable("b", pinned=2), *many(30)) as both:
        both.begin()
        both.run()
        assert [each.name for each in both.movables if each.state != "released"] == ["b"]


def test_one_that_can_not_be_written_down_stays_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(FakeMovable):
        def dump(self) -> dict[str, object]:
            raise RuntimeError("no")

    with two_workers(*many(5), Broken("broken"), *many(5)) as both:
        both.begin()
        both.run()
        assert [each.name for each in both.movables if each.state == "running"] == ["broken"]
        assert len(both.owner.bugs) == 1


def test_so_does_one_that_can_not_be_frozen() -> None:
    """The exception left its whole wave frozen, and the giver waiting for nothing."""

    class Broken(FakeMovable):
        def freeze(self) -> bool:
            raise RuntimeError("no")

    with two_workers(*many(5), Broken("broken"), *many(30)) as both:
        both.begin()
        both.run()
        assert [each.name for each in both.movables if each.state != "released"] == ["broken"]
        assert len(both.owner.bugs) == 2 and both.owner.given == [both.giver]  # it is asked twice


def test_a_share_is_a_limit() -> None:
    with two_workers(*many(50), share=20) as both:
        both.begin()
        both.run()
        assert both.giver.moved == 20 and both.departures.left == 30


def test_nothing_to_move_is_over_at_once() -> None:
    with two_workers() as both:
        both.begin()
        both.run()
        assert both.owner.given == [both.giver] and both.owner.taken == [both.taker]
        assert (both.giver.why, both.taker.why) == ("", "")


# -- the other side dies, hangs or stops at any point


@pytest.mark.parametrize("turns", range(12))
def test_a_taker_that_dies_gives_back_what_was_not_committed(turns: int) -> None:
    with two_workers(*many(CANARY + 5)) as both:
        both.begin()
        for _ in range(turns):
            both.new_loop.turn()
            both.old_loop.turn()
        both.new_loop.readers.clear()
        both.new_end.close()
        both.old_loop.run()
        started = {each.name for each in both.arrivals.loaded if each.state == "started"}
        assert {each.name for each in both.movables if each.state == "released"} == started
        assert "frozen" not in both.states() and both.owner.given == [both.giver]


@pytest.mark.parametrize("turns", range(12))
def test_a_giver_that_dies_leaves_nothing_half_loaded(turns: int) -> None:
    with two_workers(*many(CANARY + 5)) as both:
        both.begin()
        for _ in range(turns):
            both.old_loop.turn()
            both.new_loop.turn()
        both.old_loop.readers.clear()
        both.old_end.close()
        both.new_loop.run()
        assert not [each for each in both.arrivals.loaded if each.state == "loaded"]
        assert both.owner.taken == [both.taker]


def test_a_taker_that_says_nothing_is_given_up() -> None:
    with two_workers(*many(3)) as both:
        both.begin()
        assert set(both.states()) == {"frozen"}
        both.pass_time(both.STEP_S)
        assert set(both.states()) == {"running"}
        assert both.giver.why == "no answer in 5 s" and not both.owner.stuck
        both.run()
        assert not both.arrivals.loaded or {each.state for each in both.arrivals.loaded} == {"discarded"}


def test_a_giver_that_says_nothing_is_given_up() -> None:
    with two_workers(*many(3)) as both:
        both.begin()
        both.new_loop.run()
        both.old_loop.readers.clear()
        assert both.arrived()[0].endswith("loaded")
        both.giver._end._timer.disarm()
        both.pass_time(both.STEP_S)
        assert {each.state for each in both.arrivals.loaded} == {"discarded"} and both.owner.taken


def test_after_commit_only_the_taker_s_death_gives_a_wave_back() -> None:
    with two_workers(*many(3)) as both:
        both.begin()
        both.new_loop.run()  # OFFER -> PREPARED
        both.old_loop.run()  # -> COMMIT
        both.taker._end._timer.disarm()  # it hangs
        both.pass_time(2 * both.STEP_S)
        assert both.owner.stuck == [both.giver] and set(both.states()) == {"frozen"}
        both.giver.stop()
        assert set(both.states()) == {"frozen"}, "nobody knows whose they are"
        both.new_loop.readers.clear()
        both.new_end.close()
        both.old_loop.run()
        assert set(both.states()) == {"running"} and both.owner.given == [both.giver]


def test_an_answer_that_is_there_counts_however_late_the_giver_reads_it() -> None:
    """A machine was paused for a minute. When it woke, timers came before messages, and a worker that had said
    COMMITTED and served its clients was killed for not having answered COMMIT."""
    with two_workers(*many(3)) as both:
        both.begin()
        both.new_loop.run()  # OFFER -> PREPARED
        both.old_loop.run()  # -> COMMIT
        both.new_loop.run()  # -> COMMITTED
        both.clock.advance(60.0)
        both.wheel.advance()
        assert not both.owner.stuck and set(both.states()) == {"released"} and both.giver.moved == 3


def test_a_pause_of_everybody_is_no_silence_of_the_taker() -> None:
    with two_workers(*many(CANARY + 5)) as both:
        both.begin()
        for _ in ("OFFER", "COMMIT"):  # the taker has not read it when both fall asleep
            both.clock.advance(12.0)
            both.wheel.advance()
            both.new_loop.run()
            both.old_loop.turn()
        both.run()
        assert not both.owner.stuck and set(both.states()) == {"released"}
        assert (both.giver.why, both.taker.why) == ("", "")


def test_a_committed_that_is_queued_counts_though_the_taker_is_dead() -> None:
    """And though it died with something unread, of which the kernel speaks first (ECONNRESET)."""
    with two_workers(*many(3)) as both:
        both.begin()
        both.new_loop.run()
        both.old_loop.run()
        both.new_loop.run()  # COMMIT -> COMMITTED
        both.old_end.sock.send(b"unread")
        both.new_loop.readers.clear()
        both.new_end.close()
        both.old_loop.run()
        assert set(both.states()) == {"released"} and both.giver.moved == 3


def test_a_committed_wave_is_the_taker_s_though_the_giver_is_dead() -> None:
    """It can't say COMMITTED to anybody; nobody else has them."""
    with two_workers(*many(3)) as both:
        both.begin()
        both.new_loop.run()
        both.old_loop.run()
        both.old_loop.readers.clear()
        both.old_end.close()
        both.new_loop.run()
        assert {each.state for each in both.arrivals.loaded} == {"started"}


@pytest.mark.parametrize("steps", range(4))
def test_a_giver_that_must_drain_stops_at_the_next_possible_point(steps: int) -> None:
    with two_workers(*many(CANARY + 5)) as both:
        both.begin()
        for loop in [both.new_loop, both.old_loop, both.new_loop, both.old_loop][:steps]:
            loop.turn()
        both.giver.stop()
        both.run()
        assert "frozen" not in both.states() and both.owner.given == [both.giver] and both.owner.taken
        assert both.states().count("released") == sum(each.state == "started" for each in both.arrivals.loaded)


def test_a_taker_that_must_drain_forgets_what_is_not_its_own() -> None:
    with two_workers(*many(5)) as both:
        both.begin()
        both.new_loop.run()
        both.taker.stop()
        both.run()
        assert set(both.states()) == {"running"} and {each.state for each in both.arrivals.loaded} == {"discarded"}


def test_no_wave_is_begun_when_the_time_is_over() -> None:
    with two_workers(*many(CANARY + 5)) as both:
        both.begin()
        both.clock.advance(31.0)
        both.run()
        assert both.states().count("released") == CANARY and both.giver.why == "its time was over"


def test_a_kernel_without_room_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    with two_workers(*many(3)) as both:
        filler = 0
        while True:  # small ones, until nothing more fits
            try:
                both.old_end.sock.send(b"x" * 100)
                filler += 1
            except BlockingIOError:
                break
        both.giver.begin()
        for _ in range(filler):
            both.new_end.sock.recv(1000)
        both.taker.begin()
        both.pass_time(giver_module.RETRY_S)
        both.run()
        assert set(both.states()) == {"released"}


# -- an other side that breaks the rules

PEER_FRAMES = [
    ("TAKEN", {"wave": 1}), ("TAKEN", {"wave": 2}), ("PREPARED", {"wave": 0, "refused": []}),
    ("PREPARED", {"wave": 1, "refused": [99]}), ("PREPARED", {"wave": 1, "refused": ["x"]}),
    ("PREPARED", {"wave": 1, "refused": [True]}), ("COMMITTED", {"wave": 1}), ("COMMITTED", {"wave": 0}),
    ("COMMIT", {"wave": 1}), ("OFFER", {"wave": 1, "last": True, "records": []}), ("DRAIN", {"deadline_s": 1.0}),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "fields"), PEER_FRAMES)
def test_a_taker_that_answers_nonsense_gets_nothing(kind: str, fields: dict[str, object]) -> None:
    with two_workers(*many(3)) as both:
        both.giver.begin()
        both.new_end.send(kind, fields)
        both.old_loop.run()
        assert set(both.states()) == {"running"} and both.owner.given == [both.giver]
        assert both.giver.why


@pytest.mark.parametrize(("kind", "fields"), [frame for frame in PEER_FRAMES if frame != ("COMMITTED", {"wave": 1})])
def test_a_taker_that_answers_nonsense_to_commit_must_die_if_that_is_all(kind: str, fields: dict[str, object]) -> None:
    with two_workers(*many(3)) as both:
        both.giver.begin()
        both.new_end.send("PREPARED", {"wave": 1, "refused": []})
        both.old_loop.run()
        both.new_end.send(kind, fields)
        both.old_loop.run()
        assert set(both.states()) == {"frozen"} and not both.owner.stuck
        both.pass_time(2 * both.STEP_S)
        assert set(both.states()) == {"frozen"} and both.owner.stuck == [both.giver]


def test_a_taker_that_says_committed_after_all_keeps_the_wave_and_gets_no_other() -> None:
    with two_workers(*many(CANARY + 5)) as both:
        both.begin()
        both.new_loop.run()
        both.old_loop.run()
        both.new_end.sock.send(b"garbage")
        both.run()
        assert both.states().count("released") == CANARY and both.states().count("running") == 5
        assert not both.owner.stuck and "breaks the protocol" in both.giver.why


RECORD = ["http1", "web", 1, b"\x81\xa4name\xa1a"]
GIVER_FRAMES = [
    ("COMMIT", {"wave": 1}), ("COMMIT", {"wave": 0}), ("OFFER", {"wave": 2, "last": True, "records": []}),
    ("OFFER", {"wave": 1, "last": True, "records": [RECORD]}), ("OFFER", {"wave": 1, "last": True, "records": [[]]}),
    ("OFFER", {"wave": 1, "last": True, "records": [["http1", "web", -1, b""]]}),
    ("OFFER", {"wave": 1, "last": True, "records": ["x"]}), ("TAKEN", {"wave": 1}), ("READY", {}),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "fields"), GIVER_FRAMES)
def test_a_giver_that_talks_nonsense_is_left(kind: str, fields: dict[str, object]) -> None:
    with two_workers() as both:
        both.taker.begin()
        both.old_end.send(kind, fields)
        both.new_loop.run()
        assert both.owner.taken == [both.taker] and both.taker.why.startswith("it breaks the protocol")
        with pytest.raises(ChannelClosed):
            both.old_end.receive()


@pytest.mark.parametrize("state", [b"", b"\xc1", b"\x90", b"\x81\x01\x02", b"\x81\xa4name"])
def test_a_record_that_makes_no_sense_is_refused_alone(state: bytes) -> None:
    with two_workers() as both:
        both.taker.begin()
        theirs, ours = socket.socketpair()
        wires = [["http1", "web", 1, state], RECORD]
        both.old_end.send("OFFER", {"wave": 1, "last": True, "records": wires}, [theirs.fileno(), theirs.fileno()])
        both.new_loop.run()
        message = both.old_end.receive()
        assert message is not None and (message.kind, message.fields["refused"]) == ("PREPARED", [0])
        theirs.close()
        ours.close()


def test_descriptors_that_are_no_connections_are_refused_one_by_one(tmp_path: object) -> None:
    with two_workers() as both, open(f"{tmp_path}/file", "w") as file:
        both.taker.begin()
        pair = socket.socketpair()
        datagram = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        listening = socket.create_server(("127.0.0.1", 0))
        fds = [file.fileno(), datagram.fileno(), pair[0].fileno(), both.old_end.fileno(), listening.fileno()]
        wires = [RECORD] * len(fds)
        both.old_end.send("OFFER", {"wave": 1, "last": True, "records": wires}, fds)
        both.new_loop.run()
        message = both.old_end.receive()
        assert message is not None and message.fields["refused"] == [0, 1, 3, 4]
        for sock in (*pair, datagram, listening):
            sock.close()


def test_frames_at_random_never_raise_leak_or_give_a_connection_away() -> None:
    """Forged, replayed and reordered frames, to both sides, at every point of a handoff. But for the two words that
    give a wave away: whoever can say those for another has its channel, and may as well close its connections."""
    words = random.Random(4)
    for _ in range(300):
        with two_workers(*many(3)) as both:
            both.begin()
            for _ in range(words.randrange(8)):
                loop = words.choice([both.old_loop, both.new_loop])
                loop.turn()
                forge(both.old_end, words.choice(sorted(set(KINDS) - {"COMMIT"})), words)
                forge(both.new_end, words.choice(sorted(set(KINDS) - {"COMMITTED"})), words)
            both.run()
            both.pass_time(3 * both.STEP_S)
            both.run()
            started = [each.name for each in both.arrivals.loaded if each.state == "started"]
            owned = [each.name for each in both.movables if each.state == "running"]
            assert not set(started) & set(owned) and not both.owner.bugs


def forge(end: Channel, kind: str, words: random.Random) -> None:
    values: dict[type, list[object]] = {
        int: [0, 1, 2, 3, -1, 2**40], float: [0.0, -1.0, 1e300, float("nan")], str: ["", "x" * 300],
        bool: [True, False],
        list: [[], [0], [1, 2], [RECORD], [["tcp", "web", 0, b""]], [[[[]]]]], dict: [{}, {"a": 1}],
    }  # fmt: skip
    fields = {field: words.choice(values[kind_of]) for field, kind_of in KINDS[kind].items()}
    with socket.socket() as some:
        try:
            if words.random() < 0.2:
                end.sock.send(words.randbytes(words.randrange(1, 60)))
            else:
                end.send(kind, fields, [some.fileno()] * words.randrange(3))
        except (ChannelClosed, OSError):
            pass  # it has been left already
