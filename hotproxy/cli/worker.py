"""`worker recycle N`: one worker is replaced by a new process, and its connections go along."""

from __future__ import annotations

import click

from hotproxy.cli import place as places
from hotproxy.cli.line import ask
from hotproxy.cli.main import Globals
from hotproxy.errors import HotproxyError

# Longer than a worker's start and the move of its connections may take together: the supervisor says what was too slow.
RECYCLE_TIMEOUT_S = 120.0


@click.group()
def worker() -> None:
    """Single worker processes."""


@worker.command()
@click.argument("slot", type=click.IntRange(0, 1023), metavar="N")
@click.pass_obj
def recycle(globals_: Globals, slot: int) -> None:
    """Replace worker N by a new process of the same generation, and move its connections there.

    Returns when they have moved, with the old and the new process's pid.
    """
    place = places.find(globals_.instance, globals_.runtime_dir)
    answer = ask(place, "recycle", {"slot": slot}, RECYCLE_TIMEOUT_S)
    if not answer.ok:
        raise HotproxyError(f"refused: {answer.reason}")
    click.echo(answer.reason)
