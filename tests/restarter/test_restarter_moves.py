"""Who gives how much to whom, and what becomes of a move when somebody dies, hangs or lies. No processes here."""

from __future__ import annotations

import selectors
import socket
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hotproxy.restarter.frames import HANDOFF
from hotproxy.restarter.hello import Deadlines
from hotproxy.restarter.loop import Loop
from hotproxy.restarter.moves import LOOK_S, MAX_PAIRS, Move, Moves, may_move, skim, spread, what_moved

# --- who gives how much to whom ---

loads = st.lists(st.integers(1, 3000), min_size=1, max_size=40)
taken = st.lists(st.integers(0, 3000), min_size=1, max_size=40)


@settings(deadline=None)
@given(loads, taken)
def test_everybody_gives_all_that_he_has_to_few(loads: list[int], taken: list[int]) -> None:
    parts = spread(loads, taken)
    assert [sum(share for _, share in part) for part in parts] == loads
    assert all(share > 0 for part in parts for _, share in part)
    assert sum(len(part) for part in parts) <= len(loads) + len(taken) - 1


@settings(deadline=None)
@given(loads, taken)
def test_takers_end_up_as_equal_as_possible(loads: list[int], taken: list[int]) -> None:
    after = list(taken)
    for part in spread(loads, taken):
        for index, share in part:
            after[index] += share
    got = [after[index] for index in range(len(taken)) if after[index] > taken[index]]
    assert max(got) - min(got) <= 1
    assert all(before >= max(got) - 1 for before, now in zip(taken, after, strict=True) if before == now)


def test_equal_numbers_move_one_to_one() -> None:
    assert spread([100, 100, 100], [0, 0, 0]) == [[(0, 100)], [(1, 100)], [(2, 100)]]
    assert spread([10], [0, 0, 0, 0]) == [[(0, 3), (1, 3), (2, 2), (3, 2)]]
    assert spread([3, 4, 5], [0]) == [[(0, 3)], [(0, 4)], [(0, 5)]]


def test_a_giver_has_no_more_channels_than_a_message_can_carry() -> None:
    (part,) = spread([5000], [0] * 400)
    assert len(part) == MAX_PAIRS and sum(share for _, share in part) == 5000


@settings(deadline=None)
@given(st.lists(st.integers(0, 3000), max_size=40), st.integers(0, 3000))
def test_a_new_one_becomes_the_equal_of_those_who_stay(loads: list[int], taken: int) -> None:
    given = skim(loads, taken)
    after = [load - share for load, share in zip(loads, given, strict=True)]
    average = (sum(loads) + taken) // (len(loads) + 1)
    assert len(given) == len(loads) and min(given, default=0) >= 0
    assert taken + sum(given) == max(taken, average)
    assert all(kept >= average for kept, share in zip(after, given, strict=True) if share)
    if any(given):  # it was taken from the fullest
        assert max(after) - min(kept for kept, share in zip(after, given, strict=True) if share) <= 1


def test_shares_of_a_new_one() -> None:
    assert skim([100, 100], 0) == [33, 33]
    assert skim([1000, 10], 0) == [336, 0]
    assert skim([5, 5, 5], 5) == skim([0, 0, 0], 0) == [0, 0, 0]
    assert skim([1], 0) == [0] and skim([], 0) == []


# --- moves ---


class World:
    """Slots that remember what they were told; the ends that they got are closed at once, as if they hung up."""

    def __init__(self) -> None:
        self.time_s = 100.0
        self.loop = Loop(selectors.DefaultSelector(), lambda: self.time_s)
        self.hung: set[int] = set()
        self.connections: dict[int, int] = {}
        self.counted: list[tuple[int, int]] = []
        self.over: list[Move] = []
        self.moves = Moves(
            self.loop, lambda serial: self.connections.get(serial, 0), lambda serial: serial in self.hung,
            lambda moved, refused: self.counted.append((moved, refused)),
        )  # fmt: skip

    def generation(self, epoch: int, *serials: int) -> Any:
        live = SimpleNamespace(
            epoch=epoch, told=[], members={}, pings=0, hello=SimpleNamespace(deadlines=Deadlines(handoff_s=5.0))
        )
        live.tell_member = lambda member, kind, fields, fds=(): live.told.append(
            (member.serial, kind, fields, len(fds))
        )
        live.ping = lambda: setattr(live, "pings", live.pings + 1)
        for slot, serial in enumerate(serials):
            self.fork(live, slot, serial)
        return live

    def fork(self, live: Any, slot: int, serial: int) -> None:
        member = SimpleNamespace(serial=serial, slot=slot, pid=1000 + serial, killed=0, state="accepting")
        member.kill = lambda: setattr(member, "killed", member.killed + 1)
        live.members[serial] = member

    def begin(self, old: Any, new: Any) -> Move:
        givers = [(old, member) for member in old.members.values()]
        return self.moves.begin(
            givers, lambda: [(new, each) for each in new.members.values()], self.time_s + 30.0, self.over.append
        )

    def share(self, live: Any, new: int) -> Move:
        givers = [(live, member) for serial, member in live.members.items() if serial != new]
        return self.moves.share(givers, (live, live.members[new]), self.time_s + 30.0, self.over.append)

    def pairs(self, old: Any) -> list[tuple[int, int]]:
        """(giver's serial, pair) in order."""
        return [
            (serial, number) for serial, kind, fields, _ in old.told if kind == "GIVE" for number, _ in fields["pairs"]
        ]

    def pass_time(self, seconds: float) -> None:
        for _ in range(round(seconds / LOOK_S)):
            self.time_s += LOOK_S
            self.loop.at(self.time_s, lambda: None)
            self.loop.turn()


@pytest.fixture
def world() -> World:
    return World()


def test_each_side_gets_its_end_and_the_sum_is_told(world: World) -> None:
    old, new = world.generation(1, 11, 12), world.generation(2, 21, 22)
    world.connections = {11: 99, 12: 99}
    move = world.begin(old, new)
    assert [(serial, kind, fds) for serial, kind, _, fds in new.told] == [(21, "TAKE", 1), (22, "TAKE", 1)]
    assert [(serial, kind, fds) for serial, kind, _, fds in old.told] == [(11, "GIVE", 1), (12, "GIVE", 1)]
    (first, second) = world.pairs(old)
    assert {fields["pair"] for _, _, fields, _ in new.told} == {first[1], second[1]}
    assert old.told[0][2]["step_s"] == 5.0 and old.told[0][2]["until_s"] == 130.0
    world.moves.on_moved(11, first[1], 98, 1, "")
    assert not world.over
    world.time_s += 0.25
    world.moves.on_moved(12, second[1], 99, 0, "")
    assert world.over == [move] and (move.moved, move.refused, move.ms) == (197, 1, 250)
    assert world.counted == [(98, 0), (99, 0), (0, 1)]
    assert what_moved(move.moved, move.refused, move.ms) == ", 197 connections moved in 250 ms, 1 drains"


def test_without_anybody_to_take_it_is_over_at_once(world: World) -> None:
    move = world.begin(world.generation(1, 11), world.generation(2))
    assert world.over == [move] and what_moved(move.moved, move.refused, move.ms) == ""


def test_a_new_slot_gets_its_share_of_those_who_stay(world: World) -> None:
    live = world.generation(1, 11, 12, 13)
    world.connections = {11: 60, 12: 30, 13: 3}
    move = world.share(live, 13)
    assert [(serial, kind) for serial, kind, _, _ in live.told] == [(13, "TAKE"), (11, "GIVE")]
    told = live.told[1][2]
    assert told["stays"] is True and [share for _, share in told["pairs"]] == [28]
    world.moves.on_moved(11, world.pairs(live)[0][1], 28, 0, "")
    assert world.over == [move] and (move.moved, move.refused) == (28, 0)


def test_a_new_slot_that_gets_nothing_is_ready_at_once(world: World) -> None:
    live = world.generation(1, 11, 12)
    move = world.share(live, 12)
    assert world.over == [move] and not live.told


def test_who_still_gets_something_gives_it_later(world: World) -> None:
    """Two slots left one after the other. The second gave what it had to the third, was done, and then got the rest of
    what the first had for it: that drained there, and a TCP connection that drains is cut."""
    live = world.generation(1, 11, 12, 13)
    world.connections = {13: 20, 12: 2}
    stays, second, first = [(live, live.members[serial]) for serial in (11, 12, 13)]
    world.moves.begin([first], lambda: [stays, second], world.time_s + 30.0, world.over.append)
    into_stays, into_second = [pair for _, pair in world.pairs(live)]
    second[1].state = "leaving"
    later = world.moves.begin([second], lambda: [stays], world.time_s + 30.0, world.over.append)
    world.moves.on_moved(13, into_stays, 4, 0, "")
    assert [kind for serial, kind, _, _ in live.told if serial == 12] == ["TAKE"]
    world.moves.on_moved(13, into_second, 5, 0, "")
    assert [kind for serial, kind, _, _ in live.told if serial == 12] == ["TAKE", "GIVE"]
    world.moves.on_moved(12, world.pairs(live)[-1][1], 14, 0, "")
    assert world.over[-1] is later and (later.moved, later.refused) == (14, 0)


def test_who_waits_to_give_does_so_to_those_who_are_still_there(world: World) -> None:
    for gone in (11, 12):  # dead, or leaving
        live = world.generation(1, 11, 12, 13, 14)
        world.connections = {14: 5}
        one, other, middle, first = [(live, live.members[serial]) for serial in (11, 12, 13, 14)]
        world.moves.begin([first], [middle].copy, world.time_s + 30.0, world.over.append)
        later = world.moves.begin([middle], [one, other].copy, world.time_s + 30.0, world.over.append)
        if gone == 11:
            del live.members[11]
        else:
            live.members[12].state = "leaving"
        world.moves.on_moved(14, world.pairs(live)[0][1], 5, 0, "")
        takers = [serial for serial, kind, _, _ in live.told if kind == "TAKE"]
        assert takers == [13, 23 - gone]
        world.moves.on_death(13)
        assert world.over[-1] is later


def test_a_share_whose_taker_is_gone_is_over(world: World) -> None:
    live = world.generation(1, 11, 12, 13)
    world.connections = {11: 50}
    one, other, new = [(live, live.members[serial]) for serial in (11, 12, 13)]
    world.moves.begin([one], lambda: [other], world.time_s + 30.0, world.over.append)
    share = world.moves.share([other], new, world.time_s + 30.0, world.over.append)
    del live.members[13]
    world.moves.on_moved(11, world.pairs(live)[0][1], 50, 0, "")
    assert world.over[-1] is share and share.moved == 0


def test_a_giver_s_death_ends_its_pairs(world: World) -> None:
    old, new = world.generation(1, 11, 12), world.generation(2, 21)
    move = world.begin(old, new)
    world.moves.on_death(11)
    assert not world.over
    world.moves.on_death(12)
    assert world.over == [move] and move.whys == ["worker 1/0 died", "worker 1/1 died"]


def test_a_taker_s_death_is_the_giver_s_to_tell(world: World) -> None:
    old, new = world.generation(1, 11), world.generation(2, 21)
    world.begin(old, new)
    world.moves.on_death(21)
    assert not world.over
    world.moves.on_moved(11, world.pairs(old)[0][1], 0, 7, "the other worker is gone")
    world.pass_time(1)
    assert world.over and world.over[0].refused == 7 and world.counted[-1] == (0, 7)


@pytest.mark.parametrize("forked_again", [True, False])
def test_what_a_dead_taker_gave_back_is_given_to_others(world: World, forked_again: bool) -> None:
    """It drained in the old generation, and a TCP connection that drains is cut in the end."""
    old, new = world.generation(1, 11, 12), world.generation(2, 21, 22)
    world.connections = {11: 9, 12: 9}
    move = world.begin(old, new)
    (_, first), (_, second) = world.pairs(old)
    world.moves.on_moved(12, second, 9, 0, "")
    world.moves.on_moved(11, first, 2, 7, "the other worker is gone")
    assert not world.over, "there is another taker"
    if forked_again:
        del new.members[21]
        world.fork(new, 0, 31)
        world.moves.on_death(21)
    world.pass_time(1)
    again = world.pairs(old)[2:]
    assert {serial for serial, _ in again} == {11, 12}
    takers = [serial for serial, kind, _, _ in new.told[2:] if kind == "TAKE"]
    assert set(takers) <= {22, 31} and (31 in takers) is forked_again
    for serial, pair in again:
        world.moves.on_moved(serial, pair, 7 if (serial, pair) == again[0] else 0, 0, "")
    assert world.over == [move] and (move.moved, move.refused) == (18, 0)
    assert sum(moved for moved, _ in world.counted) == 18 and not sum(refused for _, refused in world.counted)


def test_there_is_one_second_attempt(world: World) -> None:
    old, new = world.generation(1, 11), world.generation(2, 21, 22)
    move = world.begin(old, new)
    for attempt in (1, 2):
        serial, pair = world.pairs(old)[-1]
        world.moves.on_moved(serial, pair, 0, 1, "no answer in 5 s")
        world.pass_time(1)
        assert len(world.over) == attempt - 1
    assert world.over == [move] and move.refused == 1 and world.counted[-1] == (0, 1)


def test_none_is_made_when_the_time_is_over_or_nothing_is_left(world: World) -> None:
    for refused, late_s in ((0, 0.0), (3, 31.0)):
        world.over.clear()
        old, new = world.generation(1, 11), world.generation(2, 21, 22)
        move = world.begin(old, new)
        world.time_s += late_s
        world.moves.on_moved(11, world.pairs(old)[0][1], 0, refused, "the other worker is gone")
        assert world.over == [move]


def test_words_of_those_who_have_no_part_in_it_change_nothing(world: World) -> None:
    old, new = world.generation(1, 11), world.generation(2, 21)
    world.begin(old, new)
    pair = world.pairs(old)[0][1]
    for serial, number, moved, refused in (
        (12, pair, 1, 0), (11, pair + 1, 1, 0), (11, pair, -1, 0), (21, pair, 1, 0), (11, pair, 1 << 63, 0),
        (11, pair, 0, 1 << 63),
    ):  # fmt: skip
        world.moves.on_moved(serial, number, moved, refused, "")
        world.moves.on_stuck(serial if serial != 11 else 12, number, True)
    assert not world.over and not world.counted and not new.members[21].killed


def test_who_does_not_answer_commit_is_killed(world: World) -> None:
    old, new = world.generation(1, 11), world.generation(2, 21)
    world.begin(old, new)
    world.moves.on_stuck(11, world.pairs(old)[0][1], True)
    assert new.members[21].killed == 1 and not world.over


def test_who_answers_no_offer_is_killed_only_if_he_does_not_breathe(world: World) -> None:
    for hangs in (False, True):
        old, new = world.generation(1, 11), world.generation(2, 21)
        world.begin(old, new)
        pair = world.pairs(old)[0][1]
        world.moves.on_stuck(11, pair, False)
        world.moves.on_moved(11, pair, 0, 3, "no answer in 5 s")
        world.pass_time(2 * LOOK_S)
        if hangs:
            world.hung.add(21)
        world.pass_time(20 * LOOK_S)
        assert new.members[21].killed == hangs


def test_a_giver_that_is_stopped_holds_nobody_up_and_may_speak_later(world: World) -> None:
    old, new = world.generation(1, 11, 12), world.generation(2, 21)
    move = world.begin(old, new)
    (_, first), (_, second) = world.pairs(old)
    world.moves.on_moved(12, second, 5, 0, "")
    world.hung.add(11)
    world.pass_time(LOOK_S)
    assert world.over == [move] and move.moved == 5
    world.moves.on_stuck(11, first, True)
    assert new.members[21].killed == 1, "its wave is still nobody's"
    world.moves.on_moved(11, first, 2, 1, "")
    assert world.counted == [(5, 0), (2, 1)] and len(world.over) == 1
    world.moves.on_moved(11, first, 2, 1, "")
    assert len(world.counted) == 2


def test_a_word_that_is_lost_ends_a_move_some_time(world: World) -> None:
    old, new = world.generation(1, 11), world.generation(2, 21)
    world.begin(old, new)
    world.pass_time(39)
    assert not world.over
    world.pass_time(2)
    assert world.over


def test_while_it_waits_the_zygotes_of_those_who_give_are_asked_for_a_sign(world: World) -> None:
    """One that had read everything and hung with MOVED in its hands was deaf to nobody: a reload waited 32 s for it."""
    old, new = world.generation(1, 11, 12), world.generation(2, 21)
    world.begin(old, new)
    world.pass_time(3 * LOOK_S)
    assert (old.pings, new.pings) == (3, 0)


def test_what_a_dead_zygote_had_in_its_hands_is_not_waited_for(world: World) -> None:
    old, new = world.generation(1, 11, 12), world.generation(2, 21)
    world.begin(old, new)
    world.moves.on_zygote_death(new)
    world.pass_time(5)
    assert not world.over, "a taker's end is seen by its giver"
    world.moves.on_zygote_death(old)
    world.moves.on_moved(11, world.pairs(old)[0][1], 5, 0, "")
    assert not world.over
    world.pass_time(3)
    assert world.over and world.over[0].moved == 5


def test_no_channel_is_no_move(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_descriptor(*_: object) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(socket, "socketpair", no_descriptor)
    old, new = world.generation(1, 11), world.generation(2, 21)
    world.begin(old, new)
    assert world.over and not old.told and not new.told


def test_only_those_who_speak_the_same_version_move() -> None:
    def speaks(version: int | None) -> Any:
        return SimpleNamespace(hello=SimpleNamespace(codecs={} if version is None else {HANDOFF: version}))

    assert may_move(speaks(1), speaks(1))
    for old, new in ((1, 2), (2, 1), (None, 1), (1, None), (None, None)):
        assert not may_move(speaks(old), speaks(new))
    assert not may_move(SimpleNamespace(hello=None), speaks(1))  # type: ignore[arg-type]
