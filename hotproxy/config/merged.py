"""A config as its files say it: includes in their place, variables replaced, paths absolute; no default added."""

from __future__ import annotations

from collections.abc import Sequence as SequenceType
from typing import Any, Final

from hotproxy.config.effective import AS_IT_IS, to_yaml
from hotproxy.config.secrets import Shown
from hotproxy.config.yaml_nodes import Mapping, Node, Scalar, Sequence, absolute

# What other files bring stands in the result itself.
_GONE: Final = ("include", "env_files")
_LISTS: Final = ("listeners", "clusters")
_UNIX: Final = "unix:"


def merged_yaml(roots: SequenceType[Node], show: Shown = AS_IT_IS) -> str:
    """One YAML text of a valid config's files (`Examined.roots`), which loads to the same config."""
    merged: dict[str, Any] = {}
    for root in roots:
        assert isinstance(root, Mapping)
        for name, (_, node) in root.entries.items():
            if name in _GONE or name.startswith("x-"):
                continue
            value = _value(name, node, show)
            if name in _LISTS and name in merged:
                merged[name] += value
            else:
                merged[name] = value
    return to_yaml(merged)


def _value(name: str, node: Node, show: Shown) -> Any:
    if isinstance(node, Mapping):
        return {
            key: _header(key, value, show) if name == "headers" else _inside(name, key, value, show)
            for key, (_, value) in node.entries.items()
        }
    if isinstance(node, Sequence):
        return [_value(name, item, show) for item in node.items]
    assert isinstance(node, Scalar)
    text = node.text
    if text.startswith(_UNIX) and name in ("address", "endpoints"):
        text = _UNIX + absolute(node, text.removeprefix(_UNIX))
    return _unquoted(node, show.format(text) if name == "format" else show.text(text))


def _unquoted(node: Scalar, text: str) -> Any:
    """A number that was written without quotes is written without quotes."""
    if not node.plain or text != node.written:
        return text
    if text in ("true", "false"):
        return text == "true"
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 and str(int(text)) == text else text


def _inside(section: str, name: str, node: Node, show: Shown) -> Any:
    if name == "path" and section in ("access_log", "address") and isinstance(node, Scalar):
        return show.text(absolute(node, node.text))
    return _value(name, node, show)


def _header(name: str, node: Node, show: Shown) -> Any:
    return show.header(name, node.text) if isinstance(node, Scalar) else _value(name, node, show)
