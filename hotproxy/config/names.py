"""What the sections of all files give names to, refer to or claim; `references` judges it when all are read."""

from __future__ import annotations

from dataclasses import dataclass, field

from hotproxy.config.address import Address
from hotproxy.config.yaml_nodes import Node


@dataclass(frozen=True, slots=True)
class Named:
    """A text that must be unique or known, where it stands, and its path."""

    text: str
    node: Node
    where: str


@dataclass(slots=True)
class Names:
    """The notebook of one run. `addresses` are those that hotproxy itself listens on."""

    listeners: list[Named] = field(default_factory=list)
    clusters: list[Named] = field(default_factory=list)
    cluster_uses: list[Named] = field(default_factory=list)
    addresses: list[tuple[Address, Named]] = field(default_factory=list)
