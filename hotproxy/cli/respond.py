"""`hotproxy respond`: a tiny origin server, so that a proxy can be tried with nothing else installed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket

import click
import h11

from hotproxy.cli.listen import loopback_addresses, open_listener
from hotproxy.control.http_server import HttpServer, Reply, Request
from hotproxy.errors import EXIT_USAGE, HotproxyError


@click.command()
@click.argument("body", required=False)
@click.option("--listen", required=True, metavar="ADDR", help="host:port, :port (loopback), or unix:/path.")
@click.option("--status", type=click.IntRange(200, 599), default=200, show_default=True)
@click.option("--delay", "delay_s", type=click.FloatRange(0.0), default=0.0, metavar="S", help="Before each answer.")
@click.option("--header", "headers", multiple=True, metavar="'K: V'", help="Added to each answer; may be repeated.")
def respond(body: str | None, listen: str, status: int, delay_s: float, headers: tuple[str, ...]) -> None:
    """Answer every request with BODY; without BODY, with a JSON description of the request."""
    given = [_header(header) for header in headers]
    extra = [(name, value) for name, value in given if name.lower() != "content-type"]
    types = [value for name, value in given if name.lower() == "content-type"]
    default = "application/json" if body is None else "text/plain; charset=utf-8"
    content_type = types[-1] if types else default
    sockets = [open_listener(address) for address in loopback_addresses(listen)]
    names = [_name(sock) for sock in sockets]

    async def answer(request: Request) -> Reply:
        if delay_s:
            await asyncio.sleep(delay_s)
        if body is not None:
            return Reply(status, body.encode(), content_type, extra)
        seen = {"method": request.method, "path": request.path, "query": request.query, "origin": names[0]}
        return Reply(status, json.dumps({**seen, "pid": os.getpid()}).encode() + b"\n", content_type, extra)

    async def serve() -> None:
        stopped = asyncio.Event()
        # Not the default, which would leave a unix socket's file behind, and the next start an address in use.
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
        HttpServer(answer).start_accepting(sockets)
        click.echo(f"responding on {', '.join(names)}")
        await stopped.wait()

    try:
        asyncio.run(serve())
    finally:
        for sock in sockets:
            if sock.family == socket.AF_UNIX:
                with contextlib.suppress(OSError):
                    os.unlink(sock.getsockname())
            sock.close()


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    header = name.strip(), value.strip()
    try:
        if colon:
            h11.Response(status_code=200, headers=[header])
            return header
    except (h11.LocalProtocolError, UnicodeEncodeError):  # a name or value that could not be sent
        pass
    raise HotproxyError(f"--header '{text}' is not of the form 'name: value'", EXIT_USAGE)


def _name(sock: socket.socket) -> str:
    if sock.family == socket.AF_UNIX:
        return f"unix:{sock.getsockname()}"
    host, port = sock.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
