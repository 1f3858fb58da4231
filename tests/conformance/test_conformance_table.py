"""The table in docs/http.md names every section that has a test, and no other."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


def test_every_section_with_a_test_is_in_the_table() -> None:
    tested = set()
    for rfc in ("8470", "9110", "9112"):
        text = (Path(__file__).parent / f"test_conformance_rfc{rfc}.py").read_text()
        for section in re.findall(r"^def test_section_((?:\d+_)+)", text, re.MULTILINE):
            tested.add(f"{rfc}, {section.strip('_').replace('_', '.')}")
    listed = set(re.findall(r"^\| ([0-9]{4}, [0-9.]+) \|", (ROOT / "docs" / "http.md").read_text(), re.MULTILINE))
    assert listed == tested
