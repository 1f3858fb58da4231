"""Origins and clients that break off at every point, all at once: nobody gets another one's answer, nothing is left."""

from __future__ import annotations

import asyncio
import random
import shutil
import tempfile
from collections.abc import Callable, Coroutine
from pathlib import Path

import psutil
import pytest

from tests.kit.hostile import ANSWERS, HostileOrigin, Outcome, Request, reset
from tests.kit.instance import PATIENCE_S, Instance, eventually, instance

CONFIG = """
workers: 2
listeners:
  - name: web
    address: 127.0.0.1:0
    cluster: origin
clusters:
  - name: origin
    idle_timeout: 1s
    endpoints: ["{origin}"]
"""
CLIENTS = 20
MODES = ("one-by-one", "pipeline", "half-close", "http10", "byte-by-byte", "goes-away")
METHODS = (b"GET", b"GET", b"POST", b"PUT", b"HEAD", b"DELETE")


def make_request(random_: random.Random, tag: bytes, mode: str, last: bool) -> Request:
    method = random_.choice(METHODS)
    kind = random_.choice(list(ANSWERS))
    fields, body, version = b"Host: a\r\n", b"", b"1.0" if mode == "http10" else b"1.1"
    if method in (b"POST", b"PUT"):
        size = random_.choice((0, 1, 1000, 70_000, 300_000))
        body = b"GET /smuggled/x HTTP/1.1\r\nHost: a\r\n\r\n"[:size].ljust(size, b"b")
        if mode == "http10" or random_.random() < 0.5:
            fields += b"Content-Length: %d\r\n" % size
        else:
            fields += b"Transfer-Encoding: chunked\r\n"
            body = (b"%x\r\n%b\r\n" % (size, body) if size else b"") + b"0\r\n\r\n"
    if mode == "http10" and not last:
        fields += b"Connection: keep-alive\r\n"
    line = b"%b /%b/%b HTTP/%b\r\n" % (method, kind.encode(), tag, version)
    return Request(method, kind, tag, line + fields + b"\r\n" + body)


async def converse(port: int, mode: str, requests: list[Request], random_: random.Random, outcome: Outcome) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    data = b"".join(request.raw for request in requests)
    try:
        if mode == "goes-away":
            writer.write(data[: random_.randrange(1, len(data))])
            await asyncio.sleep(random_.random() * 0.01)
            reset(writer)
            return
        if mode in ("pipeline", "half-close"):
            writer.write(data)
            if mode == "half-close":
                writer.write_eof()
        for request in requests:
            if mode == "byte-by-byte":
                for at in range(200):
                    writer.write(request.raw[at : at + 1])
                    await asyncio.sleep(0)
                writer.write(request.raw[200:])
            elif mode in ("one-by-one", "http10"):
                writer.write(request.raw)
            if not await outcome.read_answer(reader, request):
                return
    except (asyncio.IncompleteReadError, ConnectionError):
        pass  # what cannot be answered whole is broken off
    finally:
        writer.close()


async def storm(proxy: Instance, origin: HostileOrigin, conversations: int) -> Outcome:
    outcome = Outcome()
    random_ = random.Random(1)  # the order of events differs from run to run all the same

    async def client(number: int) -> None:
        for turn in range(conversations // CLIENTS):
            mode = random_.choice(MODES)
            count = random_.randint(1, 6)
            tags = [b"<%d.%d.%d>" % (number, turn, index) for index in range(count)]
            requests = [make_request(random_, tag, mode, tag == tags[-1]) for tag in tags]
            try:
                async with asyncio.timeout(PATIENCE_S):
                    await converse(port, mode, requests, random_, outcome)
            except TimeoutError:
                outcome.wrong.append(("no answer", mode, requests))

    port = proxy.port("web")
    await asyncio.gather(*(client(number) for number in range(CLIENTS)))
    return outcome


Check = Callable[[Instance, HostileOrigin], Coroutine[None, None, None]]


def with_proxy(check: Check) -> None:
    directory = Path(tempfile.mkdtemp(prefix="hp-"))
    origin = HostileOrigin()

    async def run() -> None:
        server = await asyncio.start_server(origin.serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        with instance(directory, CONFIG.format(origin=f"127.0.0.1:{port}")) as proxy:
            await check(proxy, origin)
        server.close()

    try:
        asyncio.run(run())
    finally:
        shutil.rmtree(directory)


@pytest.mark.parametrize("conversations", [1_000, pytest.param(20_000, marks=pytest.mark.slow)])
def test_hostile_origins_and_clients(conversations: int) -> None:
    async def check(proxy: Instance, origin: HostileOrigin) -> None:
        workers = [psutil.Process(pid) for pid in proxy.workers()]
        descriptors = [worker.num_fds() for worker in workers]
        outcome = await storm(proxy, origin, conversations)
        await check_afterwards(proxy, origin, outcome, conversations)
        assert proxy.workers() == [worker.pid for worker in workers], "no worker has died"
        assert [worker.num_fds() for worker in workers] == descriptors

    with_proxy(check)


@pytest.mark.slow
def test_the_same_while_config_and_code_are_replaced() -> None:
    """Connections that break off mid-answer by themselves say nothing here; but every one is accepted and counted."""

    async def check(proxy: Instance, origin: HostileOrigin) -> None:
        async def reload_again_and_again() -> None:
            while not done:
                await asyncio.to_thread(proxy.reload)

        done = False
        reloads = asyncio.create_task(reload_again_and_again())
        outcome = await storm(proxy, origin, 5_000)
        done = True
        await reloads
        await check_afterwards(proxy, origin, outcome, 5_000)
        assert proxy.stats()["server.restarts"] > 3

    with_proxy(check)


async def check_afterwards(proxy: Instance, origin: HostileOrigin, outcome: Outcome, conversations: int) -> None:
    assert outcome.wrong == []
    assert sum(outcome.answers.values()) > conversations
    assert max(origin.posts.values()) == 1, "a POST was sent twice"

    await asyncio.to_thread(eventually, lambda: at_rest(proxy), "every connection to end")
    stats = proxy.stats()
    assert stats["http.web.downstream_cx_total"] == stats["http.web.downstream_cx_destroy"] == conversations
    assert stats["cluster.origin.upstream_cx_total"] == stats["cluster.origin.upstream_cx_destroy"]
    # An answer has begun for every request but those whose client left before.
    unanswered = stats["http.web.downstream_rq_total"] - stats["http.web.downstream_rq_completed"]
    assert 0 <= unanswered <= stats["http.web.downstream_rq_rx_reset"]
    assert stats["server.internal_errors"] == 0
    assert "Traceback" not in proxy.log_text()


def at_rest(proxy: Instance) -> bool:
    """All gauges of connections and requests are 0."""
    stats = proxy.stats()
    return not any(value for name, value in stats.items() if name.endswith("_active"))
