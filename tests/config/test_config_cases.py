"""Mistakes and what users are told, as text pairs in `cases/`: config, a line of dashes, the exact rendering.

`<TAB>`, `<ESC>`, `<NUL>` and `<CR>` stand for characters that editors would eat.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from hotproxy.config import examine_text, render_text

CASES = Path(__file__).parent / "cases"
ENVIRON = {"BAD_PORT": "99999", "API_TOKEN": "hunter2"}
SPELLED = {"<TAB>": "\t", "<ESC>": "\x1b", "<NUL>": "\0", "<CR>": "\r"}


def _pairs() -> list[tuple[str, str, str]]:
    found = []
    for file in sorted(CASES.glob("*.txt")):
        for case in file.read_text().split("==== ")[1:]:
            title, _, rest = case.partition("\n")
            config, _, expected = rest.partition("----\n")
            found.append((f"{file.stem}: {title}", config, expected))
    return found


PAIRS = _pairs()


@pytest.mark.parametrize(("config", "expected"), [pair[1:] for pair in PAIRS], ids=[pair[0] for pair in PAIRS])
def test_each_mistake_is_told_to_the_letter(config: str, expected: str) -> None:
    for spelled, character in SPELLED.items():
        config = config.replace(spelled, character)
    examined = examine_text(config, "web.yaml", environ=ENVIRON, offline=True)
    assert render_text(examined.problems) + "\n" == expected
    assert (examined.config is None) == ("error: " in expected)


def test_there_are_enough_of_them() -> None:
    assert len(PAIRS) >= 100
    assert len({name for name, _, _ in PAIRS}) == len(PAIRS)
