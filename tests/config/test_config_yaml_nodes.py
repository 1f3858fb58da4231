"""YAML as YAML 1.2 has it, with places, and bounded whatever comes."""

from __future__ import annotations

import pytest

from hotproxy.config import examine_text, load_text
from hotproxy.config.sources import Source
from hotproxy.config.yaml_mistakes import read_nodes
from hotproxy.config.yaml_nodes import MAX_NODES, Mapping, Mistake, Node, Scalar, Sequence


def _read(text: str) -> tuple[Node | None, list[Mistake]]:
    return read_nodes(Source("a.yaml", "/", text))


def _plain(node: Node) -> object:
    if isinstance(node, Scalar):
        return node.text
    if isinstance(node, Sequence):
        return [_plain(item) for item in node.items]
    assert isinstance(node, Mapping)
    return {name: _plain(value) for name, (_, value) in node.entries.items()}


def _good(text: str) -> object:
    root, mistakes = _read(text)
    assert mistakes == []
    assert root is not None
    return _plain(root)


@pytest.mark.parametrize(
    "scalar",
    [
        "on",
        "yes",
        "no",
        "off",
        "12:30",
        "0660",
        "010",
        "2024-01-02",
        "1_000",
        "0x1F",
        "1e3",
        ".5",
        "NO",
        "=",
        "<",
        "1.0",
    ],
)
def test_scalars_keep_their_spelling(scalar: str) -> None:
    assert _good(f"a: {scalar}\n") == {"a": scalar}


def test_a_text_field_keeps_what_is_written() -> None:
    config = load_text(
        'listeners: [{name: 010, address: ":1", routes: [{name: on, match: {path: /010}, cluster: 12.50}]}]\n'
        "clusters: [{name: 12.50, endpoints: ['1.1.1.1:1']}]\n",
        "a.yaml",
    )
    route = config.listeners[0].virtual_hosts[0].routes[0]
    assert (config.listeners[0].name, route.name, route.path, route.cluster) == ("010", "on", "/010", "12.50")


def test_block_and_quoted_styles() -> None:
    text = "a: |\n  x\n  y\nb: >\n  x\n  y\nc: 'it''s'\nd: \"\\u00e4\\n\"\ne: x\n  y\n"
    assert _good(text) == {"a": "x\ny\n", "b": "x y\n", "c": "it's", "d": "ä\n", "e": "x y"}


def test_null_is_plain_only() -> None:
    root, _ = _read("[~, null, Null, '', 'null', \"~\", !!str null]")
    assert isinstance(root, Sequence)
    assert [item.is_null for item in root.items if isinstance(item, Scalar)] == [
        True,
        True,
        True,
        False,
        False,
        False,
        False,
    ]


def test_aliases_and_merge_keys() -> None:
    text = (
        "a: &a {x: 1, y: 1}\nb: &b {y: 2, z: 2}\n"
        "c: {<<: *a, x: 0}\nd: {<<: [*a, *b], w: 3}\ne: {x: 5, <<: {x: 6, v: 7}}\nf: [*a, *a]\n"
    )
    data = _good(text)
    assert isinstance(data, dict)
    assert data["c"] == {"x": "0", "y": "1"}
    assert data["d"] == {"x": "1", "y": "1", "z": "2", "w": "3"}
    assert data["e"] == {"x": "5", "v": "7"}
    assert data["f"] == [data["a"], data["a"]]


def test_an_anchor_may_be_defined_anew() -> None:
    assert _good("a: &x 1\nb: *x\nc: &x 2\nd: *x\n") == {"a": "1", "b": "1", "c": "2", "d": "2"}


def test_places_count_characters_behind_a_byte_order_mark_and_wide_text() -> None:
    root, _ = _read("\ufeffä: 日本\r\nb: [x, y]\r\n")
    assert isinstance(root, Mapping)
    assert [(v.line, v.column, v.end_column) for _, v in root.entries.values()] == [(0, 3, 5), (1, 3, 9)]


def _laughs(levels: int) -> str:
    lines = ["x-0: &x0 [" + ",".join("1" * 10) + "]"]
    lines += [f"x-{n}: &x{n} [" + ",".join([f"*x{n - 1}"] * 10) + "]" for n in range(1, levels)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (_laughs(30), f"more than {MAX_NODES} values"),
        ("[" * 100_000, "nested more than"),
        ("{a: " * 1000, "nested more than"),
        ("".join(" " * n + "a:\n" for n in range(500)), "nested more than"),
        ("- " * 1000 + "a", "nested more than"),
        ("x-a: &a {" + ",".join(f"k{n}: 1" for n in range(2000)) + "}\nx-b: [" + "{<<: *a}," * 1000 + "]", "more than"),
    ],
    ids=["laughs", "lists", "mappings", "block", "dashes", "merges"],
)
def test_bounded(text: str, message: str) -> None:
    problems = examine_text(text, "a.yaml").problems
    assert any(message in problem.message for problem in problems)


def test_many_unquoted_texts_in_one_file_are_bounded_too() -> None:
    _, mistakes = _read("a: [" + "*x.y, " * 200 + "]")
    assert len(mistakes) == 50


def test_a_repaired_text_keeps_every_other_place() -> None:
    root, mistakes = _read("a: [*x.y, b]\nc: [::]:80\nd: {e: ${F}, g: h}\n")
    assert [(m.node.line, m.node.column, m.node.end_column) for m in mistakes] == [(0, 4, 8), (1, 3, 10), (2, 7, 11)]
    assert isinstance(root, Mapping)
    d = root.entries["d"][1]
    assert isinstance(d, Mapping)
    assert [(k.column, v.column, v.broken) for k, v in d.entries.values()] == [(4, 7, True), (13, 16, False)]
