"""`hotproxy check`: every mistake of a config at once, for people or for machines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import click

from hotproxy.errors import EXIT_OK, EXIT_REFUSED

if TYPE_CHECKING:
    from hotproxy.config import Examined

DEFAULT_CONFIG: Final = "/etc/hotproxy/hotproxy.yaml"


@click.command("check", short_help="Find every mistake in a config.")
@click.option("-c", "--config", "path", default=DEFAULT_CONFIG, show_default=True, help="The config; - is stdin.")
@click.option(
    "--format", "output", type=click.Choice(["text", "json"]), default="text", show_default=True, help="How to report."
)
@click.option("--offline", is_flag=True, help="Do not look whether directories, users and groups exist here.")
def check(path: str, output: str, offline: bool) -> None:
    """Read a config and all that it includes, and report every mistake with file, line and column.

    Exits 0 when the config is valid (warnings do not count), 1 when it is not.
    """
    from hotproxy.config import examine, render_json, render_text
    from hotproxy.restarter.log import ERROR, WARNING, for_stderr
    from hotproxy.telemetry.log_format import LogFormat

    examined = examine(path, offline=offline, log_format=LogFormat.compile)
    valid = examined.config is not None
    if output == "json":
        click.echo(render_json(examined.problems))
    else:
        if examined.problems:
            click.echo(for_stderr(WARNING if valid else ERROR, render_text(examined.problems)), err=True)
        summary = _summary(path, examined)
        click.echo(summary if valid else for_stderr(ERROR, summary), err=not valid)
    click.get_current_context().exit(EXIT_OK if valid else EXIT_REFUSED)


def _summary(path: str, examined: Examined) -> str:
    name = "<stdin>" if path == "-" else path
    if examined.config is not None:
        listeners, clusters = len(examined.config.listeners), len(examined.config.clusters)
        return f"{name} is valid: {_count(listeners, 'listener')}, {_count(clusters, 'cluster')}"
    return f"{name} is not valid: {_count(len(examined.problems) - len(examined.warnings), 'error')}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
