"""`make man`: the manual pages, generated from the commands themselves, into build/man."""

from __future__ import annotations

import sys
from pathlib import Path

import click
from click_man.core import write_man_pages

from hotproxy import __version__
from hotproxy.cli.main import VERBS, group


def main() -> int:
    target = Path(sys.argv[1])
    target.mkdir(parents=True, exist_ok=True)
    context = click.Context(group, info_name="hotproxy")
    # The generator walks `commands`, which the group fills only when a verb is called.
    group.commands = {verb: group.get_command(context, verb) or group for verb in VERBS}
    write_man_pages("hotproxy", group, version=__version__, target_dir=str(target))
    print(f"{len(list(target.glob('*.1')))} pages in {target}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
