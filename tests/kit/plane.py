"""The process plane for a test: a real supervisor over stand-in generations, asked over its socket, gone at the end."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hotproxy.restarter.frames import Channel
from hotproxy.restarter.supervisor import Options, Supervisor
from hotproxy.shm import reader
from hotproxy.shm.layout import segment_name

PATIENCE_S = 20.0
STAND_IN = Path(__file__).with_name("stand_in.py")


class Refused(Exception):
    """A command was answered with ok = false."""


class Plane:
    """One supervisor. `wish(...)` is its config."""

    def __init__(self, directory: Path, late_ticks: int = 30, zygote: Path = STAND_IN, fallback: bool = False) -> None:
        self.runtime_dir = directory / "run"
        self.instance_dir = self.runtime_dir / "t"
        self.instance_dir.mkdir(parents=True)
        self.config = directory / "stand-in.json"
        self.log_path = directory / "log"
        self.late_ticks = late_ticks
        self.zygote = zygote
        self.fallback = fallback
        self.last_good = directory / "last-good"
        self.process: subprocess.Popen[bytes] | None = None
        self.segment = segment_name("t", str(self.runtime_dir))
        # What a supervisor executes when it replaces its own code.
        self.own_program = directory / "next.py"
        self.own_program.write_text(f"import runpy\nrunpy.run_path({__file__!r}, run_name='__main__')\n")
        self._pids: set[int] = set()
        self.environment = dict(os.environ)

    def wish(self, **wishes: Any) -> None:
        self.config.write_text(json.dumps({"drain_s": 5, **wishes}))

    def launch(self) -> None:
        with open(self.log_path, "ab") as log:
            arguments = [self.config, self.instance_dir, self.late_ticks, self.zygote, self.own_program, self.last_good]
            arguments.append("fallback" if self.fallback else "")
            self.process = subprocess.Popen(
                [sys.executable, __file__, *map(str, arguments)],
                stdout=log,
                stderr=log,
                env={**self.environment, "PYTHONPATH": str(STAND_IN.parents[2])},
            )

    def start(self, **wishes: Any) -> None:
        self.wish(**wishes)
        self.launch()
        self.until_serving()

    def until_serving(self) -> None:
        def serving() -> bool:
            assert self.process is not None and self.process.poll() is None, self.log
            with contextlib.suppress(OSError):
                return bool(self.status()["state"] == "LIVE")
            return False

        self.eventually(serving)

    def ask(self, verb: str, **arguments: Any) -> dict[str, Any]:
        """The answer's data, with its reason. Raises Refused with the reason."""
        with contextlib.closing(self.connect()) as channel:
            channel.send("COMMAND", {"verb": verb, "arguments": arguments})
            fields = receive(channel).fields
            if not fields.get("ok"):
                raise Refused(fields.get("reason") or fields.get("why"))
            return {**fields["data"], "reason": fields["reason"]}

    def connect(self) -> Channel:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        sock.connect(str(self.instance_dir / "supervisor.sock"))
        return Channel(sock)

    def status(self) -> dict[str, Any]:
        status = self.ask("status")
        for generation in status["generations"]:
            self._pids.update([generation["pid"], generation["control"]["pid"]])
            self._pids.update(slot["pid"] for slot in generation["slots"])
        return status

    def reload(self, **wishes: Any) -> dict[str, Any]:
        self.wish(**wishes)
        return self.ask("reload")

    def serving(self) -> dict[str, Any]:
        """The generation that accepts."""
        status = self.status()
        found: dict[str, Any] = next(each for each in status["generations"] if each["epoch"] == status["epoch"])
        return found

    def slots(self) -> list[int]:
        """The pids of its slots."""
        return [slot["pid"] for slot in self.serving()["slots"] if slot["pid"]]

    def port(self, listener: str = "a") -> int:
        found = next(each for each in self.status()["listeners"] if each["name"] == listener)
        return int(found["addresses"][0].rpartition(":")[2])

    def dial(self, listener: str = "a") -> Dialled:
        return Dialled(socket.create_connection(("127.0.0.1", self.port(listener)), PATIENCE_S))

    def stats(self) -> dict[str, Any]:
        return reader.read(self.segment).values

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def wait(self) -> int:
        assert self.process is not None
        return self.process.wait(PATIENCE_S)

    @property
    def log(self) -> str:
        return self.log_path.read_text() if self.log_path.exists() else ""

    def eventually(self, true: Callable[[], bool]) -> None:
        deadline_s = time.monotonic() + PATIENCE_S
        while not true():
            assert time.monotonic() < deadline_s, self.log
            select.select([], [], [], 0.01)

    def end(self) -> None:
        """Nothing of it is left, whatever happened."""
        if self.process is not None:
            with contextlib.suppress(OSError, Refused, AssertionError):
                self.status()
            if self.process.poll() is None:
                self._pids.update(descendants(self.process.pid))
                self.process.kill()
            self.process.wait(PATIENCE_S)
        for pid in self._pids - {0}:
            if ours(pid, self.config):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        for entry in Path("/dev/shm").glob(f"{self.segment[1:]}*"):
            entry.unlink()


class Dialled:
    """A connection to a slot. `epoch`, `slot`, `pid` are in its greeting, which is awaited when asked for."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._greeting: list[int] = []

    @property
    def greeting(self) -> list[int]:
        if not self._greeting:
            data = b""
            while not data.endswith(b"\n"):
                more = self.sock.recv(100)
                assert more, "closed without a greeting"
                data += more
            self._greeting = [int(word) for word in data.split()]
        return self._greeting

    @property
    def epoch(self) -> int:
        return self.greeting[0]

    @property
    def slot(self) -> int:
        return self.greeting[1]

    @property
    def pid(self) -> int:
        return self.greeting[2]

    def echoes(self) -> bool:
        assert self.greeting
        self.sock.sendall(b"ping")
        return self.sock.recv(4) == b"ping"

    def ended(self) -> bool:
        return self.sock.recv(1) == b""

    def close(self) -> None:
        self.sock.close()


@contextlib.contextmanager
def plane(directory: Path, **options: Any) -> Iterator[Plane]:
    made = Plane(directory, **options)
    try:
        yield made
    finally:
        made.end()


def receive(channel: Channel) -> Any:
    assert select.select([channel], [], [], PATIENCE_S)[0], "no answer"
    message = channel.receive()
    assert message is not None
    return message


def descendants(pid: int) -> set[int]:
    found: set[int] = set()
    with contextlib.suppress(OSError):  # gone while we look
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            found |= {int(child)} | descendants(int(child))
    return found


def ours(pid: int, config: Path) -> bool:
    """Still the process that we started, and not another one of its number."""
    try:
        return str(config).encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


if __name__ == "__main__":
    from hotproxy.restarter.__main__ import add_own_arguments, inherited_by, rehearse, run

    config, instance_dir, late_ticks, zygote, own_program, last_good, fallback = sys.argv[1:8]
    parser = argparse.ArgumentParser()
    add_own_arguments(parser)
    own = parser.parse_args(sys.argv[8:])
    chosen = Options(config, "t", Path(instance_dir), last_good=Path(last_good), fallback_last_good=bool(fallback))

    def on_event(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "import":
            os.write(2, f"late import: {arguments[0]}\n".encode())

    supervisor = Supervisor(
        chosen,
        [sys.executable, zygote],
        int(late_ticks),
        [sys.executable, own_program, *sys.argv[1:8]],
        inherited_by(own),
    )
    sys.addaudithook(on_event)
    sys.exit(rehearse(supervisor) if own.rehearse else run(supervisor))
