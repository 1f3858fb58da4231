"""`hotproxy respond`: a tiny origin server, so that a proxy can be tried with nothing else installed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket

import click

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
    extra = [_header(header) for header in headers]
    sockets = [open_listener(address) for address in loopback_addresses(listen)]
    names = [_name(sock) for sock in sockets]

    async def answer(request: Request) -> Reply:
        if delay_s:
            await asyncio.sleep(delay_s)
        if body is not None:
            return Reply(status, body.encode(), headers=extra)
        seen = {"method": request.method, "path": request.path, "query": request.query, "origin": names[0]}
        return Reply(status, json.dumps({**seen, "pid": os.getpid()}).encode() + b"\n", "application/json", extra)

    async def serve() -> None:
        HttpServer(answer).start_accepting(sockets)
        click.echo(f"responding on {', '.join(names)}")
        await asyncio.Event().wait()

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
    if not colon or not name.strip() or any(byte in text for byte in "\r\n\0"):
        raise HotproxyError(f"--header '{text}' is not of the form 'name: value'", EXIT_USAGE)
    return name.strip(), value.strip()


def _name(sock: socket.socket) -> str:
    if sock.family == socket.AF_UNIX:
        return f"unix:{sock.getsockname()}"
    host, port = sock.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
