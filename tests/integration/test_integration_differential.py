"""The corpus of raw requests through hotproxy, nginx, HAProxy and Envoy, side by side.

A request that two parties read differently is how smuggling begins. So hotproxy forwards nothing that two of the three
refuse, unless a decision page says why; whatever it forwards, somebody else forwards as the same messages; and it must
not matter in which pieces the bytes have arrived. What each of them does is written down in docs/http1-differential.md.
"""

from __future__ import annotations

import pytest

from tests.kit.differential import CASES, EXPLAINED, Message, Results, run
from tests.kit.peers import PEERS

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
