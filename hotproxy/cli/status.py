"""`status` and `listeners`: what the supervisor knows of its generations, as a table or as JSON."""

from __future__ import annotations

import json
from typing import Any, Final

import click

from hotproxy.cli import place as places
from hotproxy.cli.admin_line import NoAnswer, get
from hotproxy.cli.line import ask
from hotproxy.cli.main import Globals

# What the supervisor knows is always told, and soon; whether the config has changed is worth no more than this.
CHANGED_TIMEOUT_S: Final = 1.0


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@click.pass_obj
def status(globals_: Globals, as_json: bool) -> None:
    """Generations, their workers with open connections, how the last restart went, and whether the config on disk is
    what runs."""
    place = places.find(globals_.instance, globals_.runtime_dir)
    data = ask(place, "status").data
    try:  # the generation that has read the files looks at them again
        data["config_changed"] = get(place, "/config_changed", ["changed"], CHANGED_TIMEOUT_S)["changed"]
    except NoAnswer:
        data["config_changed"] = None  # nobody knows
    click.echo(json.dumps(data, indent=2) if as_json else render_status(data))


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@click.pass_obj
def listeners(globals_: Globals, as_json: bool) -> None:
    """The listeners and the addresses they are bound to (a port 0 of the config as the port it became)."""
    found = ask(places.find(globals_.instance, globals_.runtime_dir), "status").data["listeners"]
    if as_json:
        click.echo(json.dumps({"listeners": found}, indent=2))
        return
    for listener in found:
        click.echo(f"{listener['name']}: {', '.join(listener['addresses'])}")


def render_status(data: dict[str, Any]) -> str:
    """The JSON of `status --json` for people."""
    lines = [
        f"hotproxy '{data['instance']}': {data['state']}, pid {data['pid']}, up {duration(data['uptime_s'])}",
        f"config {data['config']}",
        *_peculiar(data),
    ]
    lines += _supervisor(data.get("supervisor", {}))
    lines += [f"listener {each['name']}: {', '.join(each['addresses'])}" for each in data["listeners"]]
    for generation in data["generations"]:
        control = generation["control"]["pid"]
        lines.append(
            f"generation {generation['epoch']}: {generation['state']}, zygote {generation['pid']}, control {control}"
        )
        lines += [
            f"  slot {slot['slot']}: {slot['state']}, pid {slot['pid']}, {slot['connections']} connections"
            for slot in generation["slots"]
        ]
    if last := data["last_restart"]:
        how = last["reason"] if last["ok"] else f"refused: {last['reason']}"
        lines.append(f"last restart: {how}")
    return "\n".join(lines)


def _supervisor(data: dict[str, str]) -> list[str]:
    """What is out of the ordinary with the process itself."""
    lines = [data["note"]] if data.get("note") else []
    if data.get("on_disk") and data["on_disk"] != data["code"]:
        lines.append(f"the supervisor's code is {data['code']}, on the disk is {data['on_disk']}")
    return lines


def _peculiar(data: dict[str, Any]) -> list[str]:
    """What somebody should look at. A supervisor that is older than this command may not know of it."""
    lines = []
    if fallback := data.get("config_fallback"):
        first = " ".join(fallback.split("\n")[0].split())  # the columns of the mistakes' places mean nothing here
        lines.append(f"  BROKEN, the last good config runs instead: {first}")
    elif changed := data["config_changed"]:
        more = f" (and {len(changed) - 1} more)" if len(changed) > 1 else ""
        lines.append(f"  not what runs, changed since: {changed[0]}{more}; `hotproxy reload` brings it in")
    if pure := data.get("pure_kernel"):
        lines.append(f"NO COMPILED CODE: {pure}; `hotproxy reload` tries it again")
    return lines


def duration(seconds: float) -> str:
    """3700.2 -> '1h 1m'."""
    whole = int(seconds)
    parts = [(whole // 86400, "d"), (whole // 3600 % 24, "h"), (whole // 60 % 60, "m"), (whole % 60, "s")]
    shown = [f"{amount}{unit}" for amount, unit in parts if amount]
    return " ".join(shown[:2]) or "0s"
