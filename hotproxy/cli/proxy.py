"""`hotproxy proxy`: a whole proxy from two options. It writes the config that a user would, and runs on it."""

from __future__ import annotations

import ipaddress
import json
import shlex
import socket
from collections.abc import Sequence

import click

from hotproxy.cli import listen
from hotproxy.cli import place as places
from hotproxy.cli.main import Globals
from hotproxy.cli.run import become_supervisor, write_config
from hotproxy.config.address import Address
from hotproxy.errors import EXIT_USAGE, HotproxyError

HTTPS = "https://"
LATER_SCHEMES = ("h2c://",)


@click.command()
@click.option("--from", "from_", required=True, metavar="ADDR", help="Where to listen: host:port, :port, unix:/path.")
@click.option("--to", "to", required=True, multiple=True, metavar="ADDR", help="An endpoint; may be repeated.")
@click.option("--workers", type=click.IntRange(1, 1024), metavar="N", help="Worker processes (default: one per CPU).")
@click.option("--emit", is_flag=True, help="Print the config instead of running it.")
@click.pass_obj
def proxy(globals_: Globals, from_: str, to: tuple[str, ...], workers: int | None, emit: bool) -> None:
    """Proxy HTTP from one address to others, with no config file. `:port` listens on loopback only."""
    addresses = listen.loopback_addresses(from_, "--from")
    sni = _server_name(to)
    endpoints = [_endpoint(each) for each in to]
    if emit:
        click.echo(render_config(addresses, endpoints, sni), nl=False)
        return
    addresses = [listen.with_free_port(address) for address in addresses]
    instance = globals_.instance if globals_.instance != "default" else _instance_name(addresses[0])
    place = places.make(instance, globals_.runtime_dir)
    path = write_config(place, render_config(addresses, endpoints, sni).encode())
    shown = str(addresses[0]) if addresses[0].family == "unix" else f"http://{addresses[0]}"
    click.echo(f"{shown} -> {', '.join(to)}")
    where = f"--runtime-dir {shlex.quote(globals_.runtime_dir)} " if globals_.runtime_dir is not None else ""
    command = f"hotproxy {where}--instance {instance}"
    click.echo(f"config  {path} (edit it, then: {command} reload)")
    click.echo(f"watch   {command} stats --watch")
    become_supervisor(place, path, workers, places.last_good(place, None))


def render_config(listener: Sequence[Address], endpoints: Sequence[str], sni: str | None = None) -> str:
    """The YAML that `--emit` shows. `sni`: TLS to the endpoints, "" where they have no name."""
    lines = ["listeners:", "  - name: web"]
    lines.append(f"    address: [{', '.join(json.dumps(str(address)) for address in listener)}]")
    lines += ["    cluster: origin", "clusters:", "  - name: origin"]
    lines.append(f"    endpoints: [{', '.join(json.dumps(endpoint) for endpoint in endpoints)}]")
    if sni is not None:
        lines.append(f"    tls: {{{f'sni: {sni}' if sni else ''}}}")
    return "\n".join(lines) + "\n"


def _server_name(to: Sequence[str]) -> str | None:
    """The name that all endpoints prove with TLS; None without. One cluster has one."""
    secure = [each.startswith(HTTPS) for each in to]
    if not any(secure):
        return None
    names = {each.removeprefix(HTTPS).rstrip("/").rpartition(":")[0] or each.removeprefix(HTTPS) for each in to}
    if not all(secure) or len(names) > 1:
        raise HotproxyError("--to: with https://, all of them are endpoints of one and the same host", EXIT_USAGE)
    (name,) = names
    name = name.rstrip("/")
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return name
    return ""


def _instance_name(address: Address) -> str:
    if address.family == "tcp":
        return f"proxy-{address.port}"
    return "proxy-" + "".join(c if c.isalnum() else "-" for c in address.path).strip("-")[-50:]


def _endpoint(text: str) -> str:
    """The endpoint as the config wants it: an IP address with port, or a unix socket."""
    if text.startswith(LATER_SCHEMES):
        raise HotproxyError(
            f"--to '{text}': only HTTP/1.1 endpoints in this version (host:port or unix:/path)", EXIT_USAGE
        )
    bare = text.removeprefix("http://").removeprefix(HTTPS).rstrip("/")
    if bare != text and bare.rpartition(":")[2].isdecimal() is False:
        bare += ":443" if text.startswith(HTTPS) else ":80"
    if bare.startswith(":"):
        bare = "127.0.0.1" + bare
    if bare.startswith(("unix:", "[")):
        return str(listen.parse(bare, "--to"))
    host, colon, port = bare.rpartition(":")
    if not colon or not port.isdecimal():
        raise HotproxyError(f"--to '{text}' needs a port, as in {bare or '127.0.0.1'}:8080", EXIT_USAGE)
    try:
        found = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)
    except (OSError, OverflowError, UnicodeError) as error:
        raise HotproxyError(f"--to '{text}': {host} is not found: {error}") from None
    # Resolved once, here: loopback's IPv4 first, since a development server on `localhost` mostly listens there alone.
    address = sorted((family != socket.AF_INET, target[0]) for family, _, _, _, target in found)[0][1]
    return str(listen.parse(f"[{address}]:{port}" if ":" in str(address) else f"{address}:{port}", "--to"))
