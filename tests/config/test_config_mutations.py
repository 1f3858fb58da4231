"""Whatever happens to a config, the answer is a Config or problems, each with a place inside the text."""

from __future__ import annotations

import json
import random
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from hotproxy.config import examine_text, render_json, render_text
from hotproxy.config.sources import Source

CONFIGS = Path(__file__).parents[2] / "configs"
SEEDS = [(CONFIGS / name).read_text() for name in ("demo.yaml", "routing.yaml", "tcp.yaml", "unix-sockets.yaml")]
PIECES = [
    *"[]{}:*|>#!,'\"\\@`\n\t\r\0\x85\u2028\ufeffä\ud800\U0001f600",
    ": ", "- ", "  ", "&a ", "*a", "<<: *a", " #", "!!str ", "---\n", "...\n", "%YAML 1.2\n", "${", "${A}", "${B:-x}",
    "$$", "null", "~", "true", "yes", "5", "-1", "5s", "[::]:80", "*.a.org", "unix:", "127.0.0.1:80", "日本", "e\u0301",
    "name", "listeners:", "clusters:", "? ", "x" * 2000, "password: x",
]  # fmt: skip
NAMES = [
    "name", "address", "routes", "cluster", "match", "prefix", "path", "redirect", "direct_response", "status", "tcp",
    "virtual_hosts", "domains", "endpoints", "weight", "methods", "headers", "access_log", "timeout", "listeners",
    "clusters", "workers", "upgrades", "mode", "retry", "nonsense",
]  # fmt: skip


def _check(text: str) -> None:
    examined = examine_text(text, "a.yaml", environ={"A": "1"}, offline=True)
    errors = [problem for problem in examined.problems if problem.severity == "error"]
    assert (examined.config is None) == bool(errors)
    lines = Source("a.yaml", "/", text).lines
    for problem in examined.problems:
        assert problem.file == "a.yaml"
        assert 1 <= problem.line <= len(lines)
        assert 1 <= problem.column <= len(lines[problem.line - 1]) + 1
        assert problem.column < problem.end_column <= len(lines[problem.line - 1]) + 2
        assert problem.message
    places = [(problem.line, problem.column) for problem in examined.problems]
    assert places == sorted(places)
    rendered = render_text(examined.problems)
    assert rendered.count("^") >= len(examined.problems)
    assert json.loads(render_json(examined.problems))["valid"] is (examined.config is not None)


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(SEEDS),
    st.lists(st.tuples(st.floats(0, 1), st.integers(0, 12), st.sampled_from(PIECES)), min_size=1, max_size=5),
)
def test_spliced(text: str, changes: list[tuple[float, int, str]]) -> None:
    for where, removed, piece in changes:
        at = int(where * len(text))
        text = text[:at] + piece + text[at + removed :]
    _check(text)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(SEEDS), st.randoms(use_true_random=False))
def test_lines_shuffled_dropped_and_doubled(text: str, chance: random.Random) -> None:
    lines = text.splitlines(keepends=True)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(lines))
        match chance.randrange(4):
            case 0:
                del lines[at]
            case 1:
                lines.insert(at, chance.choice(lines))
            case 2:
                lines[at] = " " * chance.randrange(6) + lines[at].lstrip()
            case _:
                lines[at] = lines[at][: chance.randrange(len(lines[at]) + 1)]
        if not lines:
            break
    _check("".join(lines))


VALUES = st.recursive(
    st.sampled_from(["null", "true", "5", "5s", '"x y"', "'${A}'", '"127.0.0.1:80"', "/a", "[]", "{}", '""', "GET"]),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda items: "[" + ", ".join(items) + "]"),
        st.dictionaries(
            st.sampled_from(NAMES),
            inner,
            max_size=4,
        ).map(lambda fields: "{" + ", ".join(f"{name}: {value}" for name, value in fields.items()) + "}"),
    ),
    max_leaves=20,
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(
    VALUES,
    st.sampled_from(
        ["{0}", "listeners: [{0}]", "clusters: [{0}]", "listeners: [{{name: a, address: ':1', routes: [{0}]}}]"]
    ),
)
def test_any_value_anywhere(value: str, frame: str) -> None:
    _check(frame.format(value))


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=60))
def test_any_text(text: str) -> None:
    _check(text)
