"""Releases that do not exist: what a later or an earlier one might have changed in the records of connections."""

from __future__ import annotations

from tests.kit.installation import Installation

# Of each kind of record: its file, how its keys begin, and of a key that an earlier release might not have had, where
# its value is written down, and where it is among the keys.
KINDS = {
    "proxy/http_moving.py": (
        '"kind", "version", "listener", "peer"', '"sent": manager._sent,', '"response_deadline_s", "sent", "stream"',
    ),
    "proxy/tcp_moving.py": (
        '"kind", "version", "listener", "info"', '"moved": proxy._moved,', '"idle_deadline_s", "moved", "counted"',
    ),
    "upstream/moving.py": (
        '"kind", "version", "cluster"', '"cluster": self._upstream.cluster.name,', '"version", "cluster", "upstream"',
    ),
}  # fmt: skip
VERSION = "DUMP_VERSION: Final = 2"
DUMPED = '"version": DUMP_VERSION,'
READ = "record = saved_version(state, KIND, _SHAPES)"
READS_ALL = """if isinstance(state, dict) and state.get("version") == 2:
        state = {**state, "version": 3, "colour": "red"}
    """


def later(installation: Installation) -> None:
    """A field more, and therefore version 3; it reads version 2 as well, as every release must."""
    careless(installation)
    for file in KINDS:
        installation.edit(file, READ, READS_ALL + READ)


def careless(installation: Installation) -> None:
    """The same, by somebody who forgot about version 2."""
    reshaped(installation)
    for file in KINDS:
        installation.edit(file, VERSION, "DUMP_VERSION: Final = 3")


def reshaped(installation: Installation) -> None:
    """A field more, by somebody who forgot about versions."""
    for file, (keys, _, _) in KINDS.items():
        installation.edit(file, keys, keys.replace('"version", ', '"version", "colour", '))
        installation.edit(file, DUMPED, DUMPED + ' "colour": "green",')


def earlier(installation: Installation) -> None:
    """A field less, and version 0."""
    for file, (_, dumped, keys) in KINDS.items():
        first, _, last = keys.split(", ")
        installation.edit(file, dumped, "")
        installation.edit(file, keys, f"{first}, {last}")
        installation.edit(file, VERSION, "DUMP_VERSION: Final = 0")


def other_handoff(installation: Installation) -> None:
    """Another way to move connections at all."""
    installation.edit("zygote/declare.py", "HANDOFF: HANDOFF_VERSION,", "HANDOFF: HANDOFF_VERSION + 1,")
