"""What the compiled kernels save: parts and a whole exchange, pure and compiled in turn, medians, in microseconds.

    python bench/micro/kernel.py [rounds]

The exchange is one GET with its answer through everything between the two sockets, which are fakes: no system call is
in its figure but the clock. CPU time, rounds interleaved; on a busy machine only the ratios mean anything.
"""

from __future__ import annotations

import statistics
import sys
import time
import timeit
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from hotproxy.http import _kernel, head_encoder
from hotproxy.http.codec import RequestHead
from hotproxy.http.head_parser import HeadParser, HttptoolsHeadParser
from hotproxy.http.http1_client import Http1ClientCodec
from hotproxy.http.http1_server import Http1ServerCodec
from hotproxy.http.kernel import Encode
from hotproxy.shm import _cells, plain_cells
from hotproxy.shm.schema import HISTOGRAM_BUCKETS
from hotproxy.telemetry.access_log import AccessLog
from hotproxy.telemetry.log_format import LogFormat
from tests.kit.playbook import Playbook

REQUEST = (
    b"GET /api/v1/items?id=12345 HTTP/1.1\r\nHost: api.example.com\r\nAccept: application/json\r\n"
    b"User-Agent: bench/1.0 (linux; x86_64)\r\nAccept-Encoding: gzip, deflate\r\nAccept-Language: en-US,en;q=0.9\r\n"
    b"Cache-Control: no-cache\r\nAuthorization: Bearer abcdefghijklmnopqrstuvwxyz0123456789\r\n"
    b"Cookie: session=0123456789abcdef; theme=dark\r\n"
    b"X-Trace: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\n\r\n"
)
RESPONSE = (
    b"HTTP/1.1 200 OK\r\nServer: nginx\r\nDate: Tue, 24 Nov 2026 08:00:00 GMT\r\nContent-Type: application/json\r\n"
    b'Connection: keep-alive\r\nETag: "5f3c"\r\nX-Frame-Options: DENY\r\nCache-Control: no-store\r\nVary: Accept\r\n'
    b"Content-Length: 105\r\n\r\n"
)
PURE, COMPILED = HttptoolsHeadParser(), _kernel.CompiledHeadParser()
CALLS = 2000


class NullSink:
    max_line_bytes = 0

    def write(self, line: bytes, owner: object = None) -> None:
        pass


def received(parser: HeadParser) -> tuple[Callable[[], object], Callable[[], object]]:
    return lambda: parser.parse_request(REQUEST), lambda: parser.parse_response(RESPONSE, False)


def written(encode: Encode) -> Callable[[], object]:
    head = PURE.parse_request(REQUEST)
    assert isinstance(head, RequestHead)
    return lambda: encode(b"GET /api/v1/items?id=12345 HTTP/1.1", head.headers, [b"Connection: close"])


def exchange(parser: HeadParser) -> Callable[[], object]:
    play = Playbook(keepalive_timeout_s=1e9)
    play.log.log = AccessLog(LogFormat.compile(None), NullSink()).log  # type: ignore[method-assign]
    answer = RESPONSE + b"x" * 105
    assert play(("down", REQUEST), ("up", answer))
    manager, client, origin = play.manager, play.side("down"), play.side("up")
    (idle,) = play.pools._idle.values()
    upstream = idle[0]
    manager.codec, upstream.codec = Http1ServerCodec(parser), Http1ClientCodec(parser)

    def one() -> None:
        client.inbox.append(REQUEST)
        manager.connection._on_readable()
        origin.inbox.append(answer)
        upstream.connection._on_readable()

    one()
    assert len(play.received) == 4 and play.received[-1][1].endswith(b"x" * 105)
    return one


def cells(kernel: object) -> tuple[Callable[[], object], Callable[[], object]]:
    words = memoryview(bytearray(8 * (HISTOGRAM_BUCKETS + 2))).cast("q")
    counter, histogram = kernel.Counter(words, 0), kernel.Histogram(words, 1)  # type: ignore[attr-defined]
    return counter.inc, lambda: histogram.record(57)


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 15
    (pure_request, pure_response), (request, response) = received(PURE), received(COMPILED)
    (pure_inc, pure_record), (inc, record) = cells(plain_cells), cells(_cells)
    pairs = {
        "a request head is parsed": (pure_request, request),
        "a response head is parsed": (pure_response, response),
        "a head is written": (written(head_encoder.encode_head), written(_kernel.encode_head)),
        "Counter.inc": (pure_inc, inc),
        "Histogram.record": (pure_record, record),
        "an exchange, without system calls": (exchange(PURE), exchange(COMPILED)),
    }
    times: dict[str, list[list[float]]] = {name: [[] for _ in calls] for name, calls in pairs.items()}
    for _ in range(rounds):
        for name, calls in pairs.items():
            for into, call in zip(times[name], calls, strict=True):
                into.append(timeit.timeit(call, timer=time.process_time, number=CALLS) / CALLS * 1e6)
    sys.stdout.write(f"{'':36}{'pure':>8}{'compiled':>10}\n")
    for name, measured in times.items():
        sys.stdout.write(f"{name:36}" + "".join(f"{statistics.median(each):8.2f}  " for each in measured) + "\n")


if __name__ == "__main__":
    main()
