"""`hotproxy clusters`: what the running config says of each cluster, and what its workers have counted so far."""

from __future__ import annotations

import json
from typing import Any, Final

import click

from hotproxy.cli import place as places
from hotproxy.cli.chosen import Chosen, running
from hotproxy.cli.main import Globals
from hotproxy.errors import EXIT_UNREACHABLE, HotproxyError
from hotproxy.shm.layout import ShmError
from hotproxy.shm.reader import HistogramValue, read
from hotproxy.shm.segment import segment_name

# What one looks for first; `hotproxy stats 'cluster\.NAME\.'` has everything.
COUNTED: Final = (
    "membership_healthy", "upstream_cx_active", "upstream_cx_total", "upstream_cx_connect_fail", "upstream_rq_active",
    "upstream_rq_total", "upstream_rq_2xx", "upstream_rq_3xx", "upstream_rq_4xx", "upstream_rq_5xx",
    "upstream_rq_retry", "upstream_rq_timeout",
)  # fmt: skip


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@click.pass_obj
def clusters(globals_: Globals, as_json: bool) -> None:
    """The clusters with their endpoints and policy, and their counters over all workers and generations."""
    chosen = running(globals_)
    place = places.find(globals_.instance, globals_.runtime_dir)
    try:
        reading = read(segment_name(place.instance, str(place.runtime_dir)), owner_uid=place.directory.stat().st_uid)
    except ShmError as error:
        raise HotproxyError(f"no counters of instance '{place.instance}': {error}", EXIT_UNREACHABLE) from None
    found = describe(chosen, reading.values)
    if as_json:
        click.echo(json.dumps({"config": {"path": chosen.path, "note": chosen.note}, "clusters": found}, indent=2))
    else:
        click.echo(render(found, f"{chosen.path} {chosen.note}" if chosen.note else ""))


def describe(chosen: Chosen, values: dict[str, int | HistogramValue]) -> list[dict[str, Any]]:
    """A statistic that the running generation does not have is None: its cluster is only in the file."""
    return [
        {
            "name": cluster.name,
            "type": cluster.type,
            "lb_policy": cluster.lb_policy,
            "endpoints": [{"address": str(each.address), "weight": each.weight} for each in cluster.endpoints],
            "stats": {name: values.get(f"cluster.{cluster.name}.{name}") for name in COUNTED},
        }
        for cluster in chosen.config.clusters
    ]


def render(found: list[dict[str, Any]], note: str) -> str:
    """The JSON's clusters for people."""
    lines = [f"# {note}"] if note else []
    for cluster in found:
        stats = cluster["stats"]
        lines.append(f"{cluster['name']}: {cluster['type']}, {cluster['lb_policy']}")
        lines += [f"  endpoint {each['address']}, weight {each['weight']}" for each in cluster["endpoints"]]
        if stats["upstream_rq_total"] is None:
            lines.append("  not running")
            continue
        lines.append(
            f"  connections: {stats['upstream_cx_active']} open, {stats['upstream_cx_total']} in all, "
            f"{stats['upstream_cx_connect_fail']} not made"
        )
        answers = ", ".join(f"{stats[f'upstream_rq_{digit}xx']} {digit}xx" for digit in range(2, 6))
        lines.append(
            f"  requests: {stats['upstream_rq_active']} under way, {stats['upstream_rq_total']} in all: {answers}; "
            f"{stats['upstream_rq_retry']} retried, {stats['upstream_rq_timeout']} timed out"
        )
    return "\n".join(lines) if lines else "no clusters"
