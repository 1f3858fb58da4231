"""`hotproxy stats`: every counter, straight from shared memory, whether or not a process of the proxy is alive."""

from __future__ import annotations

import json
import re
import sys
import time

import click

from hotproxy.cli import place as places
from hotproxy.cli.main import Globals
from hotproxy.errors import EXIT_UNREACHABLE, EXIT_USAGE, HotproxyError
from hotproxy.shm.layout import ShmError
from hotproxy.shm.reader import Reading, read
from hotproxy.shm.segment import segment_name
from hotproxy.telemetry import prometheus, text

WATCH_S = 1.0
CLEAR_SCREEN = "\x1b[H\x1b[2J"


@click.command()
@click.argument("regex", required=False, default="")
@click.option("--json", "form", flag_value="json", help="One flat object, name to value.")
@click.option("--prometheus", "form", flag_value="prometheus", help="Prometheus' text format, with Envoy's families.")
@click.option("--watch", is_flag=True, help="Again every second, until interrupted.")
@click.pass_obj
def stats(globals_: Globals, regex: str, form: str | None, watch: bool) -> None:
    """All counters whose name REGEX matches anywhere, over all workers and generations."""
    try:
        pattern = re.compile(regex)
    except re.error as error:
        raise HotproxyError(f"'{regex}' is no regular expression: {error}", EXIT_USAGE) from None
    place = places.find(globals_.instance, globals_.runtime_dir)
    name = segment_name(place.instance, str(place.runtime_dir))
    while True:
        if watch and sys.stdout.isatty():
            click.echo(CLEAR_SCREEN, nl=False)
        _print(_read(name, place), pattern, form)
        if not watch:
            return
        sys.stdout.flush()
        time.sleep(WATCH_S)


def _read(name: str, place: places.Place) -> Reading:
    try:
        # The proxy's user owns both; its group may read them.
        return read(name, owner_uid=place.directory.stat().st_uid)
    except ShmError as error:
        raise HotproxyError(f"no stats of instance '{place.instance}': {error}", EXIT_UNREACHABLE) from None


def _print(reading: Reading, pattern: re.Pattern[str], form: str | None) -> None:
    if form == "json":
        click.echo(json.dumps(text.to_json(reading, pattern), indent=2))
        return
    lines = prometheus.render(reading, pattern) if form == "prometheus" else text.render_text(reading, pattern)
    for line in lines:
        sys.stdout.write(line)
