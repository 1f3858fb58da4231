"""Mutations of the corpus through the compiled kernel, built with AddressSanitizer: `make fuzz`.

The invariant: whatever the bytes, either exactly one well-formed message per message boundary is forwarded, or a local
error is sent and nothing is.

    python tests/fuzz/http1.py FOLDER SECONDS [SEED]      FOLDER: what setup.py built, with hotproxy/http/_*.so

h11 judges what is well-formed, and where the boundaries are. Besides, the kernel must answer as the parser with
httptools does, bytes must mean the same however they arrive, and whatever is done to compiled headers, plain ones must
come out the same. The first failure ends it, with its bytes.
"""

from __future__ import annotations

import importlib.util
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path

TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(TESTS.parent), str(TESTS / "http")]


def load(folder: Path, name: str) -> None:
    """Put the module that was built in `folder` in the place of the installed one."""
    (path,) = (folder / Path(*name.split("."))).parent.glob(f"{name.rpartition('.')[2]}.*.so")
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.modules[name] = module


load(Path(sys.argv[1]), "hotproxy.http._headers")
load(Path(sys.argv[1]), "hotproxy.http._kernel")

from head_bytes import HEADS, described, mutate  # noqa: E402  # the kernel comes first
from http_corpus import forwarded_requests, forwarded_response, raw_files, run_request, run_response, text  # noqa: E402
from test_http_oracle import by_h11_client, by_h11_server, complete, ours  # noqa: E402

from hotproxy.http.codec import End, Event, Violation  # noqa: E402
from hotproxy.http.head_parser import HeadParser, HttptoolsHeadParser  # noqa: E402
from hotproxy.http.kernel import PARSER  # noqa: E402
from hotproxy.http.plain_headers import Headers as PlainHeaders  # noqa: E402

PURE = HttptoolsHeadParser()
NAMES = (b"Host", b"host", b"X-One", b"x-envoy-a", b"X_Envoy-B", b"Via", b"A", b"", b"n" * 300)
Draw = Callable[[int], int]


def split(raw: bytes, draw: Draw) -> list[bytes]:
    """In one piece, in some, or byte by byte."""
    kind = draw(4)
    if kind == 0 and len(raw) < 2000:
        return [raw[at : at + 1] for at in range(len(raw))]
    cuts = sorted(draw(len(raw) + 1) for _ in range(kind))
    return [raw[start:end] for start, end in zip([0, *cuts], [*cuts, len(raw)], strict=True)]


def heads(kernel: HeadParser, head: bytes) -> None:
    assert described(kernel.parse_request(head)) == described(PURE.parse_request(head))
    for to_head in (False, True):
        assert described(kernel.parse_response(head, to_head)) == described(PURE.parse_response(head, to_head))


def headers(kernel: HeadParser, head: bytes, draw: Draw) -> None:
    """What the proxy does to the fields of a head, in any order and often enough to need more memory."""
    answer = kernel.parse_request(head)
    if isinstance(answer, Violation):
        return
    one, two = answer.headers, PlainHeaders(answer.headers)
    for _ in range(draw(40)):
        name, value = NAMES[draw(len(NAMES))], head[draw(len(head)) :][: draw(30)]
        word, arguments = (
            ("get", (name.lower(),)), ("get_all", (name.lower(),)), ("remove", (name.lower(),)), ("add", (name, value)),
            ("set", (name, value)), ("remove_prefixed", (b"x-envoy-",)), ("remove_lookalikes", ((b"x-envoy-",),)),
        )[draw(7)]  # fmt: skip
        assert getattr(one, word)(*arguments) == getattr(two, word)(*arguments)
    assert list(one) == list(two) == list(one.copy())


def ends(events: list[Event]) -> None:
    """Nothing follows a violation."""
    assert not any(isinstance(event, Violation) for event in events[:-1])


def requests(kernel: HeadParser, raw: bytes, draw: Draw) -> None:
    events, _ = run_request(kernel, split(raw, draw))
    assert text(events) == text(run_request(PURE, [raw])[0])
    ends(events)
    events = complete(events)
    assert by_h11_server(forwarded_requests(kernel, events)) == ours(events)


def responses(kernel: HeadParser, raw: bytes, draw: Draw) -> None:
    answers = ("answers GET eof", "answers HEAD eof", "answers POST")[draw(3)]
    events, _ = run_response(kernel, answers, split(raw, draw))
    assert text(events) == text(run_response(PURE, answers, [raw])[0])
    ends(events)
    if events and isinstance(events[-1], End):
        method = answers.split()[1].encode()
        assert by_h11_client(method, b"", forwarded_response(kernel, answers, events)) == ours(events)


def main() -> int:
    seconds = float(sys.argv[2])
    seed = int(sys.argv[3]) if len(sys.argv) > 3 else random.randrange(1 << 32)
    random_ = random.Random(seed)
    assert type(PARSER).__name__ == "CompiledHeadParser", "HOTPROXY_KERNEL is set"
    files = {
        suffix: [path.read_bytes() for path in raw_files() if path.suffix == suffix and path.stat().st_size < 4000]
        for suffix in (".request", ".response")
    }
    deadline_s = time.monotonic() + seconds
    rounds = 0
    raw = b""
    draw = random_.randrange
    sys.stdout.write(f"seed {seed}\n")
    sys.stdout.flush()
    try:
        while time.monotonic() < deadline_s:
            rounds += 1
            raw = mutate(random_.choice(HEADS), draw)
            heads(PARSER, raw)
            headers(PARSER, raw, draw)
            raw = mutate(random_.choice(files[".request"]), draw)
            requests(PARSER, raw, draw)
            raw = mutate(random_.choice(files[".response"]), draw)
            responses(PARSER, raw, draw)
    except BaseException:
        sys.stdout.write(f"round {rounds}, seed {seed}: {raw!r}\n")
        raise
    sys.stdout.write(f"{rounds} rounds of a head, a request and a response each: nothing found\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
