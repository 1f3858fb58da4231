"""The page that describes the layout says what the code does."""

import re
from pathlib import Path

from hotproxy.shm import layout

PAGE = Path(__file__).parents[2] / "docs" / "shm-layout.md"


def test_every_offset_on_the_page_is_the_codes():
    rows = re.findall(r"^\| (\d+) \| `([A-Z_]+)` \|", PAGE.read_text(), re.MULTILINE)
    for offset, name in rows:
        number = getattr(layout, name)
        if name[:2] in ("E_", "S_"):  # these count words
            number *= layout.WORD_BYTES
        assert number == int(offset), name
    names = {name for name in vars(layout) if re.match(r"[OES]_[A-Z]", name)}
    assert names <= {name for _, name in rows}


def test_no_two_fields_overlap():
    sizes = {layout.O_BOOT_ID: 16, layout.O_INCLUDED: 16, layout.O_VERSION: layout.VERSION_BYTES}
    offsets = sorted(value for name, value in vars(layout).items() if name.startswith("O_"))
    for offset, following in zip(offsets, [*offsets[1:], layout.PAGE_BYTES], strict=True):
        assert offset + sizes.get(offset, layout.WORD_BYTES) <= following


def test_alignment():
    assert [layout.align(value, 64) for value in (0, 1, 64, 65)] == [0, 64, 64, 128]
    assert layout.slab_bytes(0) == 64
    assert layout.slab_bytes(1) == 128
