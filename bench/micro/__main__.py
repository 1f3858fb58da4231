"""Times each part: the best and the median of several runs, in microseconds."""

from __future__ import annotations

import argparse
import statistics
import timeit
from collections.abc import Callable
from pathlib import Path

from hotproxy.data_path import why_plain
from hotproxy.http.codec import RequestHead, ResponseHead
from hotproxy.http.http1_client import Http1ClientCodec
from hotproxy.http.http1_server import Http1ServerCodec
from tests.kit.calls import counted_plain
from tests.kit.phrases import CHUNKED_POST, GET, HI, POST, WARM
from tests.kit.playbook import Playbook

CORPUS = Path(__file__).resolve().parent.parent.parent / "tests" / "corpus" / "http1" / "valid"
NINE_FIELDS = (CORPUS / "get-nine-fields.request").read_bytes()
ANSWER = (CORPUS / "response-length.response").read_bytes()
RUNS = 15
RUN_S = 0.05


def receive_request(raw: bytes) -> Callable[[], object]:
    codec = Http1ServerCodec()

    def part() -> None:
        codec.receive(raw)
        codec.next_message()

    return part


def encode_request(raw: bytes) -> Callable[[], object]:
    head = Http1ServerCodec().receive(raw)[0]
    assert isinstance(head, RequestHead)
    return lambda: Http1ClientCodec().encode_head(head)


def receive_response(raw: bytes) -> Callable[[], object]:
    head = Http1ServerCodec().receive(GET)[0]
    assert isinstance(head, RequestHead)
    codec = Http1ClientCodec()

    def part() -> None:
        codec.encode_head(head)
        codec.encode_end()
        codec.receive(raw)
        codec.next_message()

    return part


def encode_response(raw: bytes) -> Callable[[], object]:
    asking, answering = Http1ServerCodec(), Http1ClientCodec()
    request = asking.receive(GET)[0]
    assert isinstance(request, RequestHead)
    answering.encode_head(request)
    answering.encode_end()
    head = answering.receive(raw)[0]
    assert isinstance(head, ResponseHead)
    return lambda: asking.encode_head(head, close=False)


def conversation(*steps: tuple[object, ...]) -> Callable[[], object]:
    """Through the whole proxy, over a connection and a pool that are warm."""
    play = Playbook()
    play(*WARM)

    def part() -> None:
        play(*steps)
        play.log.infos.clear()

    return part


def parts() -> dict[str, Callable[[], object]]:
    return {
        "receive a request of two lines": receive_request(GET),
        "receive a request of nine fields": receive_request(NINE_FIELDS),
        "receive a POST with a body": receive_request(POST),
        "encode a request of nine fields": encode_request(NINE_FIELDS),
        "encode a request, receive its response": receive_response(ANSWER),
        "encode a response": encode_response(ANSWER),
        "GET and its response, kept connection": conversation(("down", GET), ("up", HI)),
        "GET of nine fields and its response": conversation(("down", NINE_FIELDS), ("up", HI)),
        "POST and its response": conversation(("down", POST), ("up", HI)),
        "chunked POST and its response": conversation(("down", CHUNKED_POST + b"4\r\nbody\r\n0\r\n\r\n"), ("up", HI)),
    }


def time_us(part: Callable[[], object]) -> tuple[float, float]:
    """(best, median) of one call. The best is the part itself; the median says how far the machine was from calm."""
    timer = timeit.Timer(part)
    part()
    number = max(1, int(RUN_S / max(timer.timeit(1), 1e-7)))
    runs = [each / number * 1e6 for each in timer.repeat(RUNS, number)]
    return min(runs), statistics.median(runs)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.micro", description=__doc__)
    parser.add_argument(
        "--profile", action="store_true", help="count the calls of one kept GET instead, nothing compiled"
    )
    if parser.parse_args().profile:
        calls, _ = counted_plain()
        for function, count in calls.most_common():
            print(f"{count:5}  {function}")
        print(f"{calls.total():5}  calls")
        return
    why = why_plain()
    print(f"data path: {f'plain Python ({why})' if why else 'compiled'}")
    print(f"{'':42}{'best':>10}{'median':>10}")
    for name, part in parts().items():
        best, median = time_us(part)
        print(f"{name:42}{best:7.2f} µs{median:7.2f} µs")


if __name__ == "__main__":
    main()
