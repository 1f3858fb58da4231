"""`hotproxy run`: becomes the supervisor, by `execv`, so that nothing of the command line's libraries stays in it."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import click

from hotproxy.cli import place as places
from hotproxy.cli.main import Globals
from hotproxy.errors import HotproxyError
from hotproxy.restarter import faults
from hotproxy.restarter.frames import KINDS
from hotproxy.restarter.instance_dir import InstanceLock

DEFAULT_CONFIG = "/etc/hotproxy/hotproxy.yaml"


@click.command()
@click.option("-c", "--config", default=DEFAULT_CONFIG, metavar="FILE", show_default=True, help="'-' is stdin.")
@click.option("--workers", type=click.IntRange(1, 1024), metavar="N", help="Worker processes; wins over the config.")
@click.option(
    "--state-dir",
    metavar="DIR",
    help="Where the config that serves is kept. Default: $STATE_DIRECTORY, else beside the instance's sockets, where a "
    "reboot loses it.",
)
@click.option(
    "--fallback-last-good",
    is_flag=True,
    help="Start with the config that served last when FILE is broken. A reload of a broken FILE is refused as ever.",
)
@click.option("--allow-faults", is_flag=True, hidden=True, help="Honour HOTPROXY_FAULT: for tests of a restart.")
@click.pass_obj
def run(
    globals_: Globals,
    config: str,
    workers: int | None,
    state_dir: str | None,
    fallback_last_good: bool,
    allow_faults: bool,
) -> None:
    """Run the proxy in the foreground. SIGHUP brings in new config and new code; SIGTERM drains and ends."""
    if allow_faults:
        try:
            faults.chosen(KINDS)
        except (faults.FaultError, OSError) as error:
            raise click.UsageError(str(error)) from None
    place = places.make(globals_.instance, globals_.runtime_dir)
    path = write_config(place, sys.stdin.buffer.read()) if config == "-" else Path(config).absolute()
    last_good = places.last_good(place, state_dir)
    flags = {"--fallback-last-good": fallback_last_good, "--allow-faults": allow_faults}
    become_supervisor(place, path, workers, last_good, [flag for flag, is_set in flags.items() if is_set])


def write_config(place: places.Place, text: bytes) -> Path:
    """Put a config that has no file of its own beside the instance's sockets (0600), so that a reload finds it.

    Raises HotproxyError when the instance runs already: the file there is what its next reload will read.
    """
    path = place.directory / "config.yaml"
    part = path.with_suffix(".yaml.new")
    lock = InstanceLock(place.directory, place.instance)
    try:
        part.unlink(missing_ok=True)
        with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(text)
        part.replace(path)
    finally:
        lock.release()  # the supervisor takes its own
    return path


def become_supervisor(
    place: places.Place,
    config: Path,
    workers: int | None,
    last_good: Path,
    flags: Sequence[str] = (),
) -> NoReturn:
    """Never returns. The interpreter is called by the path it was called by: a virtual environment that is a symlink is
    followed anew at every restart."""
    arguments = [sys.executable, "-I", "-m", "hotproxy.restarter"]
    arguments += ["--config", str(config), "--instance", place.instance, "--instance-dir", str(place.directory)]
    arguments += ["--last-good", str(last_good), *flags]
    if workers is not None:
        arguments += ["--workers", str(workers)]
    sys.stdout.flush()
    # A reload that is asked for before the supervisor listens is what its start does anyway; unhandled, it would kill.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        os.execv(sys.executable, arguments)
    except OSError as error:
        raise HotproxyError(f"{sys.executable} can't be run: {error.strerror}") from None
