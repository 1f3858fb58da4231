"""Which config `explain` and `config` are about: a file that is named, or the one that the running instance reads."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import click

from hotproxy import __version__
from hotproxy.cli import place as places
from hotproxy.cli.admin_line import NoAnswer, get
from hotproxy.cli.line import ask
from hotproxy.cli.main import Globals
from hotproxy.config import Examined, examine, model, render_text
from hotproxy.config.effective import config_digest
from hotproxy.config.secrets import Hidden
from hotproxy.errors import EXIT_UNREACHABLE, HotproxyError
from hotproxy.telemetry.log_format import LogFormat


@dataclass(frozen=True, slots=True)
class Chosen:
    """A valid config. `bound`: the addresses of a running instance's listeners. `note`: whether it is what runs."""

    path: str
    config: model.Config
    examined: Examined
    bound: dict[str, list[str]]
    note: str = ""

    @property
    def hidden(self) -> Hidden:
        return Hidden(self.examined.secrets)


def choose(globals_: Globals, path: str | None) -> Chosen:
    """The config at `path`, or that of the running instance. Raises HotproxyError when it is invalid, or none runs."""
    if path is None:
        try:
            return running(globals_)
        except HotproxyError as error:
            if error.exit_code != EXIT_UNREACHABLE:
                raise
            hint = "a config that does not run is given with -c FILE"
            raise HotproxyError(f"{error}; {hint}", EXIT_UNREACHABLE) from None
    config, examined = _read(path, None)
    return Chosen("<stdin>" if path == "-" else path, config, examined, {})


def running(globals_: Globals) -> Chosen:
    """The config file of the running instance. Raises HotproxyError when it is invalid, or nothing runs."""
    place = places.find(globals_.instance, globals_.runtime_dir)
    status = ask(place, "status").data
    config, examined = _read(status["config"], _environment(status["pid"]))
    bound = {each["name"]: each["addresses"] for each in status["listeners"]}
    return Chosen(status["config"], config, examined, bound, _compare(place, config))


def _read(path: str, environ: dict[str, str] | None) -> tuple[model.Config, Examined]:
    # `offline`: whose directories and users exist here says nothing about where a request goes.
    examined = examine(path, environ=environ, offline=True, log_format=LogFormat.compile)
    if examined.config is None:
        click.echo(render_text(examined.problems), err=True)
        raise HotproxyError(f"{'<stdin>' if path == '-' else path} is not valid")
    return examined.config, examined


def _environment(pid: int) -> dict[str, str] | None:
    """The supervisor's, which replaces the variables of its config; ours where we may not see it."""
    try:
        data = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return None
    pairs = (entry.decode(errors="surrogateescape").partition("=") for entry in data.split(b"\0") if entry)
    return {name: value for name, _, value in pairs}


def _compare(place: places.Place, config: model.Config) -> str:
    """A sentence for whoever takes the file for what runs; "" when it is."""
    try:
        running = get(place, "/config_digest", ("epoch", "version", "digest"))
        epoch, version, digest = running["epoch"], running["version"], running["digest"]
    except NoAnswer as why:
        return f"could not be compared with what runs ({why}); this is about the file"
    if version != __version__:
        return f"could not be compared with generation {epoch}, which runs version {version}; this is about the file"
    if digest != config_digest(config):
        return f"differs from what generation {epoch} runs: this is about the file, and `hotproxy reload` brings it in"
    return ""
