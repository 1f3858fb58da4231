"""`hotproxy config`: the config as its files say it, or with every default filled in. Secrets are masked."""

from __future__ import annotations

import click

from hotproxy.cli.chosen import choose
from hotproxy.cli.main import Globals
from hotproxy.config.effective import effective_yaml
from hotproxy.config.merged import merged_yaml


@click.command()
@click.option(
    "-c", "--config", "path", metavar="FILE", help="A file, - is stdin; else what the running instance reads."
)
@click.option("--effective", is_flag=True, help="With every default, and the settings of outer scopes in each route.")
@click.pass_obj
def config(globals_: Globals, path: str | None, effective: bool) -> None:
    """Print the config with its includes merged and its variables replaced, as one YAML file that `check` accepts.

    Secrets are masked. Exits 1 when the config is not valid.
    """
    chosen = choose(globals_, path)
    if chosen.note:
        click.echo(f"# {chosen.path} {chosen.note}", err=True)
    if effective:
        click.echo(effective_yaml(chosen.config, chosen.hidden), nl=False)
    else:
        click.echo(merged_yaml(chosen.examined.roots, chosen.hidden), nl=False)
