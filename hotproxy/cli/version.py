"""`hotproxy version`: what a bug report needs first."""

from __future__ import annotations

import platform

import click


@click.command()
def version() -> None:
    """Version, Python, data path, HTTP kernel, shared-memory layout, protocol versions."""
    print_version()


def print_version() -> None:
    from hotproxy import __version__
    from hotproxy.data_path import why_plain
    from hotproxy.http.kernel import WHY_PURE
    from hotproxy.restarter.frames import PROTOCOL_VERSION
    from hotproxy.shm.kernel import WHY_PLAIN
    from hotproxy.shm.layout import LAYOUT_VERSION

    click.echo(f"hotproxy {__version__}")
    click.echo(f"python {platform.python_version()} ({platform.python_implementation()}) on {platform.machine()}")
    pure = f"httptools {_installed('httptools')} (no compiled kernel: {WHY_PURE})"
    plain = why_plain()
    click.echo(f"data path: {f'plain Python ({plain})' if plain else 'compiled'}")
    click.echo(f"http kernel: {pure if WHY_PURE else 'compiled'}")
    click.echo(f"event loop: uvloop {_installed('uvloop')}")
    click.echo(f"shm cells: {f'plain Python ({WHY_PLAIN})' if WHY_PLAIN else 'compiled'}")
    click.echo(f"shm layout: {LAYOUT_VERSION}")
    click.echo(f"protocol: {PROTOCOL_VERSION}")


def _installed(package: str) -> str:
    from importlib.metadata import version as installed_version

    return installed_version(package)
