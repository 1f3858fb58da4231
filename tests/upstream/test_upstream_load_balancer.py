"""The policies: one conformance suite for all of them, then each one's own promise, with bounds."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from hotproxy.config.address import Address
from hotproxy.upstream.endpoint import Endpoint
from hotproxy.upstream.load_balancer import POLICIES, LeastRequest, Random, RoundRobin

SEED = 20_240_101


def endpoints(*weights: int) -> list[Endpoint]:
    return [Endpoint(Address.parse(f"127.0.0.1:{9000 + index}"), weight) for index, weight in enumerate(weights)]


@pytest.fixture(params=sorted(POLICIES))
def policy(request):
    return POLICIES[request.param]


class TestConformance:
    """What every `LoadBalancer` does."""

    def test_nothing_comes_of_nothing(self, policy):
        assert policy([], random.Random(SEED)).pick(()) is None

    def test_one_endpoint_is_always_it(self, policy):
        (only,) = endpoints(3)
        balancer = policy([only], random.Random(SEED))
        assert [balancer.pick(()) for _ in range(5)] == [only] * 5

    def test_what_is_avoided_is_never_picked(self, policy):
        three = endpoints(1, 5, 2)
        balancer = policy(three, random.Random(SEED))
        for avoid in ([three[0]], [three[1]], {three[0], three[2]}):
            assert all(balancer.pick(avoid) not in avoid for _ in range(200))

    def test_when_all_are_avoided_there_is_none(self, policy):
        three = endpoints(1, 5, 2)
        assert policy(three, random.Random(SEED)).pick(three) is None

    def test_every_endpoint_gets_its_share_by_weight(self, policy):
        weights = (1, 2, 5, 8)
        four = endpoints(*weights)
        balancer = policy(four, random.Random(SEED))
        picks = 16_000
        if policy is LeastRequest:  # requests of equal length: in progress until 64 others have come
            running: list[Endpoint] = []
            counts: Counter[Endpoint] = Counter()
            for _ in range(picks):
                endpoint = balancer.pick(())
                endpoint.active += 1
                counts[endpoint] += 1
                running.append(endpoint)
                if len(running) > 64:
                    running.pop(0).active -= 1
        else:
            counts = Counter(balancer.pick(()) for _ in range(picks))
        for endpoint, weight in zip(four, weights, strict=True):
            expected = picks * weight / sum(weights)
            assert abs(counts[endpoint] - expected) < 0.1 * expected + 50

    def test_picking_counts_nothing(self, policy):
        two = endpoints(1, 1)
        balancer = policy(two, random.Random(SEED))
        for _ in range(10):
            balancer.pick(())
        assert [endpoint.active for endpoint in two] == [0, 0]

    def test_workers_do_not_all_begin_with_the_same_endpoint(self, policy):
        firsts = Counter()
        for seed in range(400):
            four = endpoints(1, 1, 1, 1)
            firsts[policy(four, random.Random(seed)).pick(()).name] += 1
        assert len(firsts) == 4
        assert max(firsts.values()) < 160  # 100 expected


def test_round_robin_is_exact_over_every_cycle_and_smooth_within():
    for seed in range(20):
        three = endpoints(5, 1, 1)
        balancer = RoundRobin(three, random.Random(seed))
        picks = [balancer.pick(()) for _ in range(70)]
        for start in range(63):
            assert Counter(picks[start : start + 7]) == {three[0]: 5, three[1]: 1, three[2]: 1}
        # nginx: a a b a c a a; at most four times the same, where two cycles meet
        assert all(len(set(picks[start : start + 5])) > 1 for start in range(65))


def test_round_robin_recovers_from_an_avoided_endpoint():
    two = endpoints(1, 1)
    balancer = RoundRobin(two, random.Random(SEED))
    for _ in range(1000):
        balancer.pick([two[0]])
    assert Counter(balancer.pick(()) for _ in range(100)) == {two[0]: 50, two[1]: 50}


def test_least_request_prefers_the_idle_one_of_two():
    two = endpoints(1, 1)
    two[0].active = 10
    balancer = LeastRequest(two, random.Random(SEED))
    assert {balancer.pick(()) for _ in range(50)} == {two[1]}


def test_least_request_counts_what_is_in_progress_per_weight():
    two = endpoints(1, 10)
    two[0].active, two[1].active = 1, 5
    balancer = LeastRequest(two, random.Random(SEED))
    assert {balancer.pick(()) for _ in range(50)} == {two[1]}


def test_least_request_never_picks_the_busiest_of_many():
    many = endpoints(*[1] * 20)
    many[7].active = 100
    balancer = LeastRequest(many, random.Random(SEED))
    assert all(balancer.pick(()) is not many[7] for _ in range(2000))


def test_random_is_independent_of_what_is_in_progress():
    two = endpoints(1, 1)
    two[0].active = 1000
    balancer = Random(two, random.Random(SEED))
    counts = Counter(balancer.pick(()) for _ in range(2000))
    assert 900 < counts[two[0]] < 1100
