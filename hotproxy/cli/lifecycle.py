"""`reload`, `stop`, `drain`, `reopen-logs`: one command to the supervisor each, with the reason when it is refused."""

from __future__ import annotations

import click

from hotproxy.cli import place as places
from hotproxy.cli.line import Line, ask
from hotproxy.cli.main import Globals
from hotproxy.errors import HotproxyError

# Longer than the deadlines of a restart together, so that the supervisor's own reason arrives first.
RELOAD_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 3600.0
# The supervisor gives up a reload after --timeout; its reason is worth waiting for a little longer.
ANSWER_S = 5.0


@click.command()
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(0.1),
    default=RELOAD_TIMEOUT_S,
    metavar="S",
    help="Refuse what takes longer.",
)
@click.pass_obj
def reload(globals_: Globals, timeout_s: float) -> None:
    """Hot restart: a new generation with the config and the code now on disk. Returns when it serves.

    Exit code 1 and the reason when it is refused: the running generation serves on as if nothing had been asked.
    """
    place = places.find(globals_.instance, globals_.runtime_dir)
    answer = ask(place, "reload", {"timeout_s": timeout_s}, timeout_s + ANSWER_S)
    if not answer.ok:
        separator = "\n" if "\n" in answer.reason else " "  # the mistakes of a config keep their columns
        raise HotproxyError(f"reload refused:{separator}{answer.reason}")
    click.echo(answer.reason)


@click.command()
@click.option("--timeout", "timeout_s", type=click.FloatRange(0.0), metavar="S", help="Instead of drain_timeout.")
@click.pass_obj
def stop(globals_: Globals, timeout_s: float | None) -> None:
    """Drain: no new connections, open ones finish within drain_timeout. Returns when every process is gone."""
    arguments = {} if timeout_s is None else {"timeout_s": timeout_s}
    with Line(places.find(globals_.instance, globals_.runtime_dir)) as line:
        answer = line.ask("stop", arguments, STOP_TIMEOUT_S)
        if not answer.ok:
            raise HotproxyError(f"stop refused: {answer.reason}")
        if not line.wait_gone(STOP_TIMEOUT_S):
            raise HotproxyError(f"the supervisor (pid {line.supervisor_pid}) is still there")
    click.echo("stopped")


@click.command()
@click.option("--undo", is_flag=True, help="Answer normally again.")
@click.pass_obj
def drain(globals_: Globals, undo: bool) -> None:
    """Every answer says `Connection: close`, new connections are still served: for the balancer in front."""
    answer = ask(places.find(globals_.instance, globals_.runtime_dir), "drain", {"undo": undo})
    if not answer.ok:
        raise HotproxyError(f"drain refused: {answer.reason}")
    click.echo(answer.reason)


@click.command("reopen-logs")
@click.pass_obj
def reopen_logs(globals_: Globals) -> None:
    """Open the log files anew, as after rotation (the same as SIGUSR1)."""
    answer = ask(places.find(globals_.instance, globals_.runtime_dir), "reopen_logs")
    if not answer.ok:
        raise HotproxyError(f"refused: {answer.reason}")
    click.echo(answer.reason)
