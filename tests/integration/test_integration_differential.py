"""The corpus of raw messages through hotproxy, nginx, HAProxy and Envoy, side by side.

A message that two parties read differently is how smuggling begins. So hotproxy forwards nothing that two of the three
refuse, unless a decision page says why; whatever it forwards, somebody else forwards as the same messages; and it must
not matter in which pieces the bytes have arrived. What each of them does is written down in docs/http1-differential.md.
"""

from __future__ import annotations

import pytest

from tests.kit import response_differential
from tests.kit.differential import CASES, EXPLAINED, Message, Results, run
from tests.kit.peers import PEERS
from tests.kit.response_differential import BROKEN_OFF, Answer, run_responses

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def results() -> Results:
    return run()


@pytest.mark.parametrize("case", CASES)
def test_what_is_forwarded_is_what_others_forward(results: Results, case: str) -> None:
    ours = results["hotproxy", case, 0]
    assert all(message.framing != "ambiguous" for message in ours)
    assert results.get(("hotproxy", case, 1), ours) == ours, "whatever the pieces"
    if not ours:
        return
    others = [results[peer, case, 0] for peer in PEERS]
    assert ours in others, f"others forward {others}"
    refuse = [peer for peer in PEERS if len(results[peer, case, 0]) < len(ours)]
    assert len(refuse) < 2 or case in EXPLAINED, f"{refuse} refuse it"


def test_the_peers_were_there(results: Results) -> None:
    """Without them the test above would say nothing."""
    for proxy in ("hotproxy", *PEERS):
        assert results[proxy, "valid/get-minimal", 0] == [Message(b"GET", "none", b"")]
        assert results[proxy, "invalid/coding-unknown", 0] == []


@pytest.fixture(scope="module")
def outcomes() -> response_differential.Results:
    return run_responses()


@pytest.mark.parametrize("case", response_differential.CASES)
def test_what_a_client_receives_is_what_others_let_through(outcomes: response_differential.Results, case: str) -> None:
    outcome = outcomes["hotproxy", case, 0]
    ours, whole = outcome.answer, outcome.answer.whole
    assert outcome.next_is_own, "nobody else's answer, whatever the origin has said"
    assert ours.extra == b""
    in_pieces = outcomes["hotproxy", case, 1]
    assert (in_pieces.answer.status, in_pieces.answer.whole, in_pieces.next_is_own) == (ours.status, whole, True)
    assert (whole is None and not ours.refused) == (case in BROKEN_OFF), "broken off"
    if whole is None:
        return
    others = [outcomes[peer, case, 0].answer for peer in PEERS]
    assert whole in [answer.whole for answer in others], f"others let through {others}"
    refuse = [answer for answer in others if answer.whole is None]
    assert len(refuse) < 2 or case in response_differential.EXPLAINED, f"refused by others: {others}"


def test_the_peers_were_there_for_the_responses_too(outcomes: response_differential.Results) -> None:
    for proxy in ("hotproxy", *PEERS):
        assert outcomes[proxy, "valid/response-length", 0].answer == Answer(200, b"hello", True)
        assert outcomes[proxy, "invalid/response-space-before-colon", 0].answer.refused
